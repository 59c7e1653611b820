package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"tlsonly/internal/config"
	"tlsonly/internal/contract"
	"tlsonly/internal/mta"
)

// readHomes are the commands that let the daemon read all homes.
const readHomes = "install -D -m 644 /usr/share/doc/tlsonly/examples/read-homes.conf " +
	"/etc/systemd/system/tlsonly.service.d/read-homes.conf && systemctl daemon-reload && systemctl restart tlsonly"

// doctorHomes looks whether the daemon can enter the home directories in which
// users keep their forwards: doctor runs as root, which can, and the daemon as
// a user who often can't. Aside says why delivery doesn't hold what is sent on
// from there, "" where it does.
func doctorHomes(ctx context.Context, c *config.Config, aside string) []mta.Finding {
	_, asks := usesPostfix(c.Forwarding)
	inHomes := func(template string) bool { return strings.HasPrefix(template, "~/") }
	used := asks || usesSendmail(c.Forwarding) || slices.ContainsFunc(c.Forwarding.Forward, inHomes)
	sieve := slices.ContainsFunc(c.Forwarding.Sieve, inHomes)
	if !used && !sieve {
		return nil
	}
	who, ok := daemonUser(ctx, c)
	if !ok || who.uid == 0 || who.readAll {
		return nil
	}
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return nil // doctorForwards has said so
	}
	waits := ""
	switch {
	case sieve:
		waits = "[forwarding] sieve names scripts there, which may send mail on with another sender"
	case c.Forwarding.Unreadable == contract.UnreadableDefer:
		waits = `[forwarding] unreadable = "defer"`
	case c.Socketmap.Listen == (config.Endpoint{}):
		waits = "[socketmap] listen is off, so what is sent on isn't bound at delivery"
	case c.Binding.Senders != contract.SendersMap:
		waits = `[binding] senders is "table", which may be older than the rules`
	case aside != "":
		waits = "what is sent on isn't bound at delivery: " + aside
	}
	return closedHomes(who, string(passwd), waits)
}

// firstUser is the number of the first one who isn't the system's own (login.defs(5), UID_MIN).
const firstUser = 1000

// closedHomes counts the users of passwd(5) whose homes who can't enter, and
// root; of the system's other users mail goes elsewhere by an alias. Waits says
// why mail to them is deferred, "" where it isn't.
func closedHomes(who identity, passwd, waits string) []mta.Finding {
	var closed []string
	users, root := 0, false
	for line := range strings.Lines(passwd) {
		f := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(f) < 7 {
			continue
		}
		uid, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil || uid != 0 && uid < firstUser || !filepath.IsAbs(f[5]) || who.enters(f[5]) {
			continue
		}
		if uid == 0 {
			root = true
		} else {
			users++
		}
		if !slices.Contains(closed, f[5]) {
			closed = append(closed, f[5])
		}
	}
	if len(closed) == 0 {
		return nil
	}
	whose := plural(users, "local user")
	switch {
	case users == 0:
		whose = "root"
	case root:
		whose += " and root"
	}
	where := closed[len(closed)-1] // root's comes first
	text := fmt.Sprintf("mail to %s (%s)", whose, where)
	if waits != "" {
		return []mta.Finding{finding(mta.Broken, "homes-closed", where, readHomes,
			"%s is deferred if a protected sender sends it: the daemon's user, %s, can't read a .forward there, and %s", text, who.name, waits)}
	}
	return []mta.Finding{finding(mta.OK, "homes-held", where, "",
		"%s is accepted: the daemon's user, %s, can't read a .forward there, but what it sends on is bound at delivery", text, who.name)}
}

// enters reports whether who can look for a file of a known name in a directory, as far as mode bits say it. One that isn't
// there is open: nothing is in it.
func (who identity) enters(dir string) bool {
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		switch {
		case os.IsNotExist(err):
		case err != nil || !info.IsDir() || !who.may(info, 0o1):
			return false
		}
		if at == filepath.Dir(at) {
			return true
		}
	}
}

// may reports whether who has a right to a file (4 to read, 1 to search), as
// far as mode bits say it.
func (who identity) may(info fs.FileInfo, right uint32) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	switch mode := uint32(info.Mode().Perm()); {
	case !ok:
		return false
	case who.uid == 0:
		return true
	case uint64(s.Uid) == who.uid:
		return mode&(right<<6) != 0
	case slices.Contains(who.gids, uint64(s.Gid)):
		return mode&(right<<3) != 0
	default:
		return mode&right != 0
	}
}
