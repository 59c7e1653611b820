package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"tlsonly/internal/addr"
)

// ErrNoUser says that a name isn't a user here.
var ErrNoUser = errors.New("no such user")

// accounts are the system's users: those in /etc/passwd from memory, as long as it doesn't change, and what else nsswitch.conf(5)
// names by getent(1).
type accounts struct {
	passwd, nsswitch string // the files

	mu    sync.Mutex
	state string
	users map[string]User
	names []string // in the file's order
	more  bool     // users stand elsewhere, too
}

// find is getpwnam(3).
func (c *accounts) find(name string) (User, error) {
	if name == "" || strings.ContainsAny(name, ":\n\x00") || name[0] == '-' {
		return User{}, ErrNoUser
	}
	c.mu.Lock()
	err := c.read()
	u, ok := c.users[name]
	more := c.more
	c.mu.Unlock()
	switch {
	case err != nil:
		return User{}, err
	case ok:
		return u, nil
	case !more:
		return User{}, ErrNoUser
	}
	return getent(name)
}

// list returns the names in /etc/passwd: other sources of users often can't be listed.
func (c *accounts) list() ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.read()
	return c.names, err
}

// elsewhere reports whether there are users whom list leaves out.
func (c *accounts) elsewhere() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.read() == nil && c.more
}

func (c *accounts) read() error {
	state, settled := stateOf([]string{c.passwd, c.nsswitch})
	if c.state == state {
		return nil
	}
	text, err := os.ReadFile(c.passwd)
	if err != nil {
		return err
	}
	c.users, c.names = make(map[string]User), nil
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(f) < 7 || f[0] == "" || strings.HasPrefix(f[0], "#") {
			continue
		}
		u, err := makeUser(f[0], f[2], f[3], f[5])
		if _, twice := c.users[f[0]]; err != nil || twice {
			continue // getpwnam(3) takes the first, and skips what it can't read
		}
		c.users[u.Name] = u
		c.names = append(c.names, u.Name)
	}
	nsswitch, err := os.ReadFile(c.nsswitch)
	c.more = err == nil && moreUsers(string(nsswitch))
	if c.state = state; !settled {
		c.state = ""
	}
	return nil
}

// moreUsers reports whether nsswitch.conf(5) names sources of users other than files.
func moreUsers(nsswitch string) bool {
	for line := range strings.Lines(nsswitch) {
		sources, ok := strings.CutPrefix(strings.TrimSpace(line), "passwd:")
		if !ok {
			continue
		}
		for _, s := range strings.Fields(sources) {
			if s != "files" && s != "compat" && s != "systemd" && s[0] != '[' && s[0] != '#' {
				return true
			}
		}
	}
	return false
}

func makeUser(name, uid, gid, home string) (User, error) {
	n, err := strconv.ParseUint(uid, 10, 32)
	if err != nil {
		return User{}, fmt.Errorf("user %s: %w", name, err)
	}
	g, err := strconv.ParseUint(gid, 10, 32)
	if err != nil {
		return User{}, fmt.Errorf("user %s: %w", name, err)
	}
	return User{Name: name, UID: uint32(n), GID: uint32(g), Home: home}, nil
}

func getent(name string) (User, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "getent", "passwd", "--", name).Output() // #nosec G204 -- the name is no option after "--"
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 2 { // getent(1): not found
		return User{}, ErrNoUser
	}
	if err != nil {
		return User{}, fmt.Errorf("user %s: getent: %w", name, err)
	}
	fields := strings.Split(string(bytes.TrimSpace(out)), ":")
	if len(fields) < 7 {
		return User{}, fmt.Errorf("user %s: getent said %q", name, out)
	}
	return makeUser(fields[0], fields[2], fields[3], fields[5])
}

// homePath puts the home directory in the place of "~".
func homePath(template string, u User) (string, bool) {
	rest, ok := strings.CutPrefix(template, "~/")
	if !ok {
		return template, true
	}
	return filepath.Join(u.Home, rest), u.Home != ""
}

// scriptPath is where a's Sieve script would stand. It is false where the template has no answer for a: an unknown user's home, or
// a name that would lead out of the directory.
func scriptPath(template string, a addr.Address, u User) (string, bool) {
	path, ok := homePath(template, u)
	name := lower(a.Local)
	if !ok || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
		return "", false
	}
	if a.Domain.IsZero() && (strings.Contains(path, "%d") || strings.Contains(path, "%u")) {
		return "", false
	}
	return strings.NewReplacer("%d", a.Domain.String(), "%n", name, "%u", name+"@"+a.Domain.String()).Replace(path), true
}

// forwardPath is where a's file for mail with a detail would stand.
func forwardPath(template string, a addr.Address, u User, detail string) (string, bool) {
	path, ok := scriptPath(strings.ReplaceAll(template, "%h", "\x00"), a, u)
	if strings.Contains(path, "\x00") {
		ok = ok && detail != "" && !strings.ContainsAny(detail, "/\x00")
		path = strings.ReplaceAll(path, "\x00", detail)
	}
	return path, ok
}

// placeholders are what a template of paths can have.
var placeholders = regexp.MustCompile(`%[dnu]`)
