package main

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tlsonly/internal/config"
	"tlsonly/internal/mta"
)

// doctorHomes looks whether the daemon can enter the home directories in which users keep their forwards: doctor runs as
// root, which can, and the daemon as a user who often can't. Mail of protected senders to who has a closed one is deferred.
func doctorHomes(ctx context.Context, c *config.Config) []mta.Finding {
	_, asks := usesPostfix(c.Forwarding)
	inHomes := func(template string) bool { return strings.HasPrefix(template, "~/") }
	used := asks || usesSendmail(c.Forwarding) || slices.ContainsFunc(c.Forwarding.Forward, inHomes)
	if !used && !slices.ContainsFunc(c.Forwarding.Sieve, inHomes) {
		return nil
	}
	who, ok := daemonUser(c)
	if !ok || who.uid == 0 || readsAll(ctx) {
		return nil
	}
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return nil // doctorForwards has said so
	}
	return closedHomes(who, string(passwd))
}

// identity is a user as the kernel takes one.
type identity struct {
	name string
	uid  uint64
	gids []uint64
}

// daemonUser is who runs the daemon: the user of the packages, or else the owner of the store.
func daemonUser(c *config.Config) (identity, bool) {
	u, err := user.Lookup("tlsonly")
	if path, ok := strings.CutPrefix(c.Store.URL, "sqlite://"); ok && err != nil {
		if info, serr := os.Stat(filepath.Dir(path)); serr == nil {
			if s, ok := info.Sys().(*syscall.Stat_t); ok {
				u, err = user.LookupId(strconv.FormatUint(uint64(s.Uid), 10))
			}
		}
	}
	if err != nil {
		return identity{}, false
	}
	who := identity{name: u.Username}
	groups, err := u.GroupIds()
	if who.uid, _ = strconv.ParseUint(u.Uid, 10, 32); err != nil {
		groups = []string{u.Gid}
	}
	for _, g := range groups {
		if gid, err := strconv.ParseUint(g, 10, 32); err == nil {
			who.gids = append(who.gids, gid)
		}
	}
	return who, true
}

// readsAll reports whether systemd lets the daemon read everything (examples/read-homes.conf).
func readsAll(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	said, err := exec.CommandContext(ctx, "systemctl", "show", "--property=AmbientCapabilities", "tlsonly.service").Output()
	return err == nil && strings.Contains(string(said), "cap_dac_read_search")
}

// firstUser is the number of the first one who isn't the system's own (login.defs(5), UID_MIN).
const firstUser = 1000

// closedHomes names the first home directory of passwd(5) that who can't enter, and counts the others. The system's own users
// don't count: their mail goes elsewhere by an alias.
func closedHomes(who identity, passwd string) []mta.Finding {
	var closed []string
	for line := range strings.Lines(passwd) {
		f := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(f) < 7 {
			continue
		}
		uid, err := strconv.ParseUint(f[2], 10, 32)
		if err == nil && uid >= firstUser && filepath.IsAbs(f[5]) && !slices.Contains(closed, f[5]) && !who.enters(f[5]) {
			closed = append(closed, f[5])
		}
	}
	if len(closed) == 0 {
		return nil
	}
	text := closed[0]
	if n := len(closed) - 1; n > 0 {
		text += " and " + plural(n, "other home")
	}
	return []mta.Finding{finding(mta.Warning, "homes-closed", closed[0],
		"chmod o+x the homes, or let it read them all: /usr/share/doc/tlsonly/examples/read-homes.conf",
		"the daemon's user, %s, can't look into %s: whether mail is forwarded there isn't known, "+
			"and that of protected senders is deferred", who.name, text)}
}

// enters reports whether who can look for a file of a known name in a directory, as far as mode bits say it. One that isn't
// there is open: nothing is in it.
func (who identity) enters(dir string) bool {
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		switch {
		case os.IsNotExist(err):
		case err != nil || !info.IsDir() || !who.searches(info):
			return false
		}
		if at == "/" {
			return true
		}
	}
}

func (who identity) searches(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return false
	case uint64(s.Uid) == who.uid:
		return s.Mode&0o100 != 0
	case slices.Contains(who.gids, uint64(s.Gid)):
		return s.Mode&0o010 != 0
	}
	return s.Mode&0o001 != 0
}
