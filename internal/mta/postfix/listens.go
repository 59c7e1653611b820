package postfix

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"tlsonly/internal/instance"
	"tlsonly/internal/mta"
)

// listens looks whether Postfix's processes get through to a socket of ours and
// whether it is this daemon that answers there. It returns who answers; a zero
// Identity for nobody, and for others.
func (d *doctor) listens(ctx context.Context, name, given, endpoint string, commands ...string) instance.Identity {
	where := "tlsonly.toml:" + name + ".listen"
	l := d.listener(name, endpoint)
	if err := d.outside(given, endpoint, commands...); err != nil {
		d.broken("socket-chroot", where, "move the socket and run "+runSetup, "%v", err)
		return instance.Identity{}
	}
	if l.Network == "unix" {
		if err := accessible(l.Address, d.postfix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.broken("socket-access", where, "give the user "+d.value("mail_owner")+" access",
				"%s: %v: no mail gets through", endpoint, err)
			return instance.Identity{}
		}
	}
	f, who := mta.Daemon(ctx, d.Daemon, l)
	d.findings = append(d.findings, f)
	return who
}

// listener is where Postfix asks the daemon, for an endpoint that socket has
// made.
func (f Facts) listener(name, endpoint string) mta.Listener {
	scheme, address, _ := strings.Cut(endpoint, ":")
	l := mta.Listener{Name: name, Network: "tcp", Address: address, Shown: endpoint}
	if scheme == "unix" {
		l.Network = "unix"
		if !filepath.IsAbs(address) {
			l.Address = filepath.Join(f.value("queue_directory"), address)
		}
	}
	return l
}

// Answering reports who answers where Postfix is to ask the daemon.
func (f Facts) Answering(ctx context.Context, s Settings) ([]mta.Finding, error) {
	milter, err1 := f.socket(s.Milter)
	smap, err2 := f.socket(s.Socketmap)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	atMilter, milterIs := mta.Daemon(ctx, s.Daemon, f.listener("milter", milter))
	atMap, mapIs := mta.Daemon(ctx, s.Daemon, f.listener("socketmap", smap))
	return append([]mta.Finding{atMilter, atMap}, mta.OneDaemon(milterIs, mapIs)...), nil
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
