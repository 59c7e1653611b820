package postfix

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"
)

// listens looks whether Postfix's processes get through to a socket of ours,
// and reports whether they do.
func (d *doctor) listens(ctx context.Context, name, given, endpoint string, commands ...string) bool {
	where := "tlsonly.toml:" + name + ".listen"
	scheme, address, _ := strings.Cut(endpoint, ":")
	network := "tcp"
	if err := d.outside(given, endpoint, commands...); err != nil {
		d.broken("socket-chroot", where, "move the socket and run "+runSetup, "%v", err)
		return false
	}
	if scheme == "unix" {
		network = "unix"
		if !filepath.IsAbs(address) {
			address = filepath.Join(d.value("queue_directory"), address)
		}
		if err := accessible(address, d.postfix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.broken("socket-access", where, "give the user "+d.value("mail_owner")+" access",
				"%s: %v: no mail gets through", endpoint, err)
			return false
		}
	}
	if err := converse(ctx, network, address, name); err != nil {
		d.down("daemon-down", where, startDaemon(),
			"the daemon doesn't answer at its %s, %s: %v: no mail gets through", name, endpoint, err)
		return false
	}
	d.ok("daemon-answers", where, "%s answers", endpoint)
	return true
}

// converse has a few words with the daemon. That somebody takes the connection
// proves nothing: systemd does, and the kernel for a process that hangs.
func converse(ctx context.Context, network, address, name string) error {
	const patience = 5 * time.Second
	dialer := net.Dialer{Timeout: patience}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	// A parent domain is answered at once, whatever is known: socketmap_table(5).
	question, want, end := "15:policy .invalid,", "9:NOTFOUND ,", ""
	if name == "milter" {
		// SMFIC_OPTNEG: version 6, all actions, all steps; the answer is its own kind.
		question = "\x00\x00\x00\x0dO\x00\x00\x00\x06\x00\x00\x01\xff\x00\x1f\xff\xff"
		want, end = "\x00\x00\x00?O", "\x00\x00\x00\x01Q" // the length is that of its macros
	}
	if _, err := io.WriteString(conn, question); err != nil {
		return err
	}
	answer := make([]byte, len(want))
	if n, err := io.ReadFull(conn, answer); n == 0 {
		return fmt.Errorf("it takes connections, but says nothing: %w", err)
	}
	if name == "milter" {
		answer[3] = '?'
	}
	if string(answer) != want {
		return fmt.Errorf("somebody else answers: %q", answer)
	}
	_, _ = io.WriteString(conn, end)
	return nil
}

// startDaemon says how the daemon is started here: by its unit where systemd
// runs and has it.
func startDaemon() string {
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		for _, dir := range []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"} {
			if _, err := os.Stat(filepath.Join(dir, "tlsonly.service")); err == nil {
				return "systemctl start tlsonly"
			}
		}
	}
	return "start tlsonly serve"
}

// accessible reports why a user can't connect to a unix socket. Postfix's
// processes have that user's own group only.
func accessible(path string, u *user.User) error {
	if u == nil {
		return nil
	}
	uid, gid, err := idsOf(u)
	if err != nil {
		return err
	}
	for p, want := path, uint32(2); ; p, want = filepath.Dir(p), 1 {
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		mode := uint32(info.Mode().Perm())
		switch owner, group := ownerOf(info); {
		case owner == uid:
			mode >>= 6
		case group == gid:
			mode >>= 3
		}
		if mode&want == 0 {
			return fmt.Errorf("user %s can't use %s, mode %v", u.Username, p, info.Mode())
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}
