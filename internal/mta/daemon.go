package mta

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"tlsonly/internal/instance"
)

// Listener is where an MTA asks the daemon.
type Listener struct {
	Name             string // "milter" or "socketmap"
	Network, Address string // as net.Dial has them
	Shown            string // the same in the MTA's words
}

// whoCommand is the command that names the process that listens there.
func (l Listener) whoCommand() string {
	if _, port, err := net.SplitHostPort(l.Address); err == nil && l.Network == "tcp" {
		return "ss -ltnp sport = :" + port
	}
	return "ss -lxp src " + l.Address
}

// Daemon reports who answers where the MTA asks the daemon, a finding for each
// listener, and who that is; the zero Identity for nobody and for others. It is
// "ok" for want alone: not for another program, nor for another daemon of this
// kind, whose rules are others.
func Daemon(ctx context.Context, want instance.Identity, l Listener) (Finding, instance.Identity) {
	ask := instance.Map
	if l.Name == "milter" {
		ask = instance.Milter
	}
	found, err := ask(ctx, l.Network, l.Address)
	where := "tlsonly.toml:" + l.Name + ".listen"
	other := "find out who listens there (" + l.whoCommand() + ") and give one of the two another address, " +
		"then restart the daemon and run setup with --apply"
	switch {
	case err == nil && found.Same(want):
		return Finding{Severity: OK, Code: "daemon-answers", Where: where, Check: "daemon",
			Text: fmt.Sprintf("this daemon answers at %s", l.Shown)}, found
	case err == nil:
		return Finding{Severity: Hole, Code: "daemon-other", Where: where, Check: "daemon", Remedy: other,
			Text: fmt.Sprintf("another tlsonly answers at the %s, %s, one with another store, so "+
				"these rules aren't used", l.Name, l.Shown)}, instance.Identity{}
	case errors.Is(err, instance.ErrStranger), errors.Is(err, instance.ErrProtocol):
		level, effect := Hole, "mail is accepted without a decision"
		if l.Name == "socketmap" {
			effect = "what it says decides how mail leaves"
		}
		if errors.Is(err, instance.ErrProtocol) {
			level, effect = Broken, "no mail gets through"
		}
		return Finding{Severity: level, Code: "daemon-stranger", Where: where, Check: "daemon", Remedy: other,
			Text: fmt.Sprintf("at the daemon's %s, %s, %v: %s", l.Name, l.Shown, err, effect)}, instance.Identity{}
	}
	return Finding{Severity: Down, Code: "daemon-down", Where: where, Check: "daemon", Remedy: StartDaemon(),
			Text: fmt.Sprintf("the daemon doesn't answer at its %s, %s, so no mail gets through: %v", l.Name, l.Shown, err)},
		instance.Identity{}
}

// OneDaemon adds to the findings about both listeners that their answers come
// from two processes.
func OneDaemon(milter, socketmap instance.Identity) []Finding {
	if milter.Process == "" || socketmap.Process == "" || milter.Process == socketmap.Process {
		return nil
	}
	return []Finding{{Severity: Hole, Code: "daemon-two", Where: "tlsonly.toml:socketmap.listen", Check: "daemon",
		Text: fmt.Sprintf("two processes of the daemon answer, one at the milter (version %s) and one at the socketmap "+
			"(version %s): the rules of one of them may be old", milter.Version, socketmap.Version),
		Remedy: "end the one that the system didn't start, then restart the daemon"}}
}

// StartDaemon says how the daemon is started here: by its unit where systemd
// runs and has it.
func StartDaemon() string {
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		for _, dir := range []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"} {
			if _, err := os.Stat(filepath.Join(dir, "tlsonly.service")); err == nil {
				return "systemctl start tlsonly"
			}
		}
	}
	return "start tlsonly serve"
}
