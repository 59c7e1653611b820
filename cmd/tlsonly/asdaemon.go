package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
)

// A file that root reads may be closed to the daemon. So what is answered for
// the daemon is answered by it, or by a process that has its user and groups.

// identity is a user as the kernel takes one.
type identity struct {
	name    string
	uid     uint64
	gid     uint64
	gids    []uint64 // all of them
	readAll bool     // has CAP_DAC_READ_SEARCH
}

// daemonUser is who runs the daemon: by the process that systemd has started,
// else the owner of the store's directory, else the user of the packages.
func daemonUser(ctx context.Context, c *config.Config) (identity, bool) {
	unit := unitProperties(ctx)
	if who, ok := runningUser(unit["MainPID"]); ok {
		return who, true
	}
	var u *user.User
	if path, ok := strings.CutPrefix(c.Store.URL, "sqlite://"); ok {
		if info, err := os.Stat(filepath.Dir(path)); err == nil {
			if s, ok := info.Sys().(*syscall.Stat_t); ok {
				u = userOf(uint64(s.Uid))
			}
		}
	}
	if u == nil {
		var err error
		if u, err = user.Lookup("tlsonly"); err != nil {
			return identity{}, false
		}
	}
	who := identity{name: u.Username, readAll: strings.Contains(unit["AmbientCapabilities"], "cap_dac_read_search")}
	groups, err := u.GroupIds()
	who.uid, _ = strconv.ParseUint(u.Uid, 10, 32)
	who.gid, _ = strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		groups = []string{u.Gid}
	}
	for _, name := range strings.Fields(unit["SupplementaryGroups"]) {
		if g, err := user.LookupGroup(name); err == nil {
			groups = append(groups, g.Gid)
		}
	}
	for _, g := range groups {
		if gid, err := strconv.ParseUint(g, 10, 32); err == nil && !slices.Contains(who.gids, gid) {
			who.gids = append(who.gids, gid)
		}
	}
	return who, true
}

func userOf(uid uint64) *user.User {
	number := strconv.FormatUint(uid, 10)
	if u, err := user.LookupId(number); err == nil {
		return u
	}
	return &user.User{Uid: number, Gid: number, Username: "number " + number}
}

// unitProperties are those of tlsonly.service, none without systemd.
func unitProperties(ctx context.Context) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	said, err := exec.CommandContext(ctx, "systemctl", "show",
		"--property=MainPID,AmbientCapabilities,SupplementaryGroups", "tlsonly.service").Output()
	found := map[string]string{}
	if err != nil {
		return found
	}
	for line := range strings.Lines(string(said)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			found[name] = value
		}
	}
	return found
}

// runningUser reads what a process may, proc(5).
func runningUser(pid string) (identity, bool) {
	if pid == "" || pid == "0" {
		return identity{}, false
	}
	text, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return identity{}, false
	}
	who, seen := identity{}, 0
	for line := range bytes.Lines(text) {
		name, rest, _ := strings.Cut(string(line), ":")
		words := strings.Fields(rest)
		switch {
		case name == "Uid" && len(words) == 4:
			who.uid, err = strconv.ParseUint(words[1], 10, 32)
		case name == "Gid" && len(words) == 4:
			who.gid, err = strconv.ParseUint(words[1], 10, 32)
			who.gids = append(who.gids, who.gid)
		case name == "Groups":
			for _, word := range words {
				if gid, err := strconv.ParseUint(word, 10, 32); err == nil && !slices.Contains(who.gids, gid) {
					who.gids = append(who.gids, gid)
				}
			}
		case name == "CapEff" && len(words) == 1:
			var set uint64
			set, err = strconv.ParseUint(words[0], 16, 64)
			who.readAll = set&(1<<dacReadSearch) != 0
		default:
			continue
		}
		if err != nil {
			return identity{}, false
		}
		seen++
	}
	who.name = userOf(who.uid).Username
	return who, seen == 4
}

// dacReadSearch is CAP_DAC_READ_SEARCH of capabilities(7): to read every file.
const dacReadSearch = 2

// asVariable is set for a process that answers as the daemon's user.
const asVariable = "TLSONLY_AS"

// command is the program itself as who, with MAIL_CONFIG if directory isn't
// empty. It is an error where that user can't read the configuration.
func (who identity) command(ctx context.Context, file, directory string, args ...string) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	if _, err := os.Stat(cmd.Path); err != nil {
		if cmd.Path, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	cmd.Args[0] = "tlsonly"
	cmd.Env = append(os.Environ(), asVariable+"="+who.name)
	if directory != "" {
		cmd.Env = append(cmd.Env, "MAIL_CONFIG="+directory)
	}
	credential := &syscall.Credential{Uid: uint32(who.uid), Gid: uint32(who.gid)}
	for _, gid := range who.gids {
		credential.Groups = append(credential.Groups, uint32(gid))
	}
	cmd.SysProcAttr = attributes(credential, who.readAll)
	if info, err := os.Stat(file); err == nil && !who.readAll && !who.may(info, 0o4) || err == nil && !who.enters(filepath.Dir(file)) {
		return nil, fmt.Errorf("user %s can't read %s", who.name, file)
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	return cmd, nil
}

// asDaemon has a command answered by a process of the daemon's user, where this
// one is root's and the daemon isn't. Otherwise done is false.
func (p *program) asDaemon(ctx context.Context, c *config.Config, file string, args ...string) (code int, done bool) {
	if os.Geteuid() != 0 || os.Getenv(asVariable) != "" {
		return 0, false
	}
	who, ok := daemonUser(ctx, c)
	if !ok || who.uid == 0 {
		return 0, false
	}
	cmd, err := who.command(ctx, file, "", args...)
	if err != nil {
		fmt.Fprintf(p.stderr, "tlsonly: %v: so this is what root can read, not what the daemon can read\n", err)
		return 0, false
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.stdin, p.stdout, p.stderr
	var exit *exec.ExitError
	switch err := cmd.Run(); {
	case err == nil:
		return exitOK, true
	case errors.Is(err, syscall.EPERM): // a sandbox, as that of tlsonly-forwards.service
		fmt.Fprintf(p.stderr, "tlsonly: no right to become user %s: so this is what %s can read, not what the daemon can read\n", who.name, answeredBy())
		return 0, false
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return exit.ExitCode(), true
	default:
		fmt.Fprintf(p.stderr, "tlsonly: as user %s: %v\n", who.name, err)
		return exitUnknown, true
	}
}

// answeredBy is who answers here, in words.
func answeredBy() string {
	if name := os.Getenv(asVariable); name != "" && os.Geteuid() != 0 {
		return "the daemon's user " + name
	}
	return "user " + userOf(uint64(os.Geteuid())).Username
}
