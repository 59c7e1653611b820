package place

const (
	// Config is the daemon's configuration file.
	Config = "/usr/local/etc/tlsonly/tlsonly.toml"
	// Data is the directory of its store.
	Data = "/usr/local/var/tlsonly"
	// Postfix is the directory of main.cf.
	Postfix = "/etc/postfix"
	// Aliases is the file that aliases(5) describes.
	Aliases = "/etc/aliases"
	// MachineID is a file that holds one line which no other machine has and
	// which stays; "" where the system has none.
	MachineID = ""
)
