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
	scheme, address, _ := strings.Cut(endpoint, ":")
	network := "tcp"
	if err := d.outside(given, endpoint, commands...); err != nil {
		d.broken("socket-chroot", where, "move the socket and run "+runSetup, "%v", err)
		return instance.Identity{}
	}
	if scheme == "unix" {
		network = "unix"
		if !filepath.IsAbs(address) {
			address = filepath.Join(d.value("queue_directory"), address)
		}
		if err := accessible(address, d.postfix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.broken("socket-access", where, "give the user "+d.value("mail_owner")+" access",
				"%s: %v: no mail gets through", endpoint, err)
			return instance.Identity{}
		}
	}
	f, who := mta.Daemon(ctx, d.Daemon, mta.Listener{Name: name, Network: network, Address: address, Shown: endpoint})
	d.found = append(d.found, f)
	return who
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
