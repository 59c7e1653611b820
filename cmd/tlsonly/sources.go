package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"tlsonly/internal/config"
	"tlsonly/internal/forward"
	"tlsonly/internal/mta"
)

// sourcesRead is what forwards --sources says: what can be read of what forwards
// stand in.
type sourcesRead struct {
	By       string             `json:"by"`       // who has looked
	Owners   int                `json:"owners"`   // who have entries
	Closed   int                `json:"closed"`   // files of users that can't be read
	Faults   []forward.Fault    `json:"faults"`   // sources that many recipients depend on, and that don't answer
	Unlisted []forward.Unlisted `json:"unlisted"` // sources that can only be asked
	// Aside says why what users' files send on isn't held at delivery; "" where it is.
	Aside string `json:"aside,omitempty"`
}

// readSources looks what can be read here and now.
func readSources(ctx context.Context, c *config.Config) (sourcesRead, error) {
	said := sourcesRead{By: answeredBy(), Faults: []forward.Fault{}, Unlisted: []forward.Unlisted{}}
	expander, err := newForwards(ctx, c, slog.New(slog.DiscardHandler))
	if err != nil {
		return said, err
	}
	faults, err := expander.Check(ctx)
	if err != nil {
		return said, err
	}
	if said.Aside, err = expander.Aside(ctx); err != nil {
		return said, err
	}
	broken := map[string]bool{}
	for _, f := range faults {
		said.Faults, broken[f.Source] = append(said.Faults, f), true
	}
	unlisted, err := expander.All(ctx, func(forward.Forwarder) bool { said.Owners++; return true })
	if err != nil {
		return said, err
	}
	for _, u := range unlisted {
		switch fields := strings.Fields(u.Source); {
		case u.User:
			said.Closed++
		case len(fields) == 0 || !broken[fields[len(fields)-1]]:
			said.Unlisted = append(said.Unlisted, u)
		}
	}
	return said, nil
}

// sources answers forwards --sources.
func (p *program) sources(ctx context.Context, c *config.Config, log *slog.Logger, asJSON bool) int {
	said, err := readSources(ctx, c)
	if err != nil {
		log.Error("sources of forwards", "err", err)
		return exitUnknown
	}
	if asJSON {
		_ = p.answer(said)
	} else {
		fmt.Fprintf(p.stdout, "read by %s: %s\n", said.By, plural(said.Owners, "owner"))
		for _, f := range said.Faults {
			fmt.Fprintf(p.stdout, "not read   %s %s: %s\n", f.Setting, f.Source, oneLine(f.Reason))
		}
		for _, u := range said.Unlisted {
			fmt.Fprintf(p.stdout, "only asked %s: %s\n", u.Source, oneLine(u.Reason))
		}
		if said.Closed > 0 {
			fmt.Fprintf(p.stdout, "not read   %s of users\n", plural(said.Closed, "file"))
		}
	}
	if len(said.Faults) > 0 {
		return exitUnknown
	}
	return exitOK
}

// sourcesAs has the daemon's user look, where this is root.
func sourcesAs(ctx context.Context, c *config.Config, file, directory string) (sourcesRead, error) {
	who, ok := daemonUser(ctx, c)
	if os.Geteuid() != 0 || !ok || who.uid == 0 {
		return readSources(ctx, c)
	}
	cmd, err := who.command(ctx, file, directory, "forwards", "--sources", "--json", "-c", file)
	if err != nil {
		return sourcesRead{}, err
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var said sourcesRead
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == exitUnknown && len(out) > 0 {
		err = nil
	}
	if err == nil {
		err = json.Unmarshal(out, &said)
	}
	if err != nil {
		return said, fmt.Errorf("as user %s: %w: %s", who.name, err, oneLine(stderr.String()))
	}
	return said, nil
}

// doctorForwards looks whether the daemon can read the sources of forwards:
// what it can't is not known, and mail for whom it concerns waits.
func doctorForwards(ctx context.Context, c *config.Config, file, which, directory string) (found []mta.Finding) {
	_, asks := usesPostfix(c.Forwarding)
	switch {
	case which == "postfix" && c.Forwarding.Postfix == "auto" && directory != "":
		c = c.WithPostfix(directory)
	case which == "postfix" && !asks, which == "sendmail" && (asks || !usesSendmail(c.Forwarding)):
		found = append(found, finding(mta.Warning, "forwards-unread", "tlsonly.toml:forwarding."+which, fmt.Sprintf(`[forwarding] %s = "auto"`, which), "%s's own tables aren't read, so forwards in them aren't followed", which))
	}
	if _, err := newForwards(ctx, c, slog.New(slog.DiscardHandler)); err != nil {
		return append(found, finding(mta.Broken, "forwards-broken", "tlsonly.toml:forwarding", "repair it, or switch it off in [forwarding]", "%v: the daemon can't start", err))
	}
	said, err := sourcesAs(ctx, c, file, directory)
	if err != nil {
		return append(found, finding(mta.Broken, "forwards-unreadable", "", "tlsonly forwards --sources",
			"it is not known which forwards the daemon can read: %v", err))
	}
	for _, f := range said.Faults {
		found = append(found, finding(mta.Broken, "forwards-unreadable", f.Source, mayRead(f.File),
			"%s: %s can't read it, so mail of protected senders is deferred: %s", strings.TrimSpace(f.Setting+" "+f.Source), said.By, oneLine(f.Reason)))
	}
	for _, u := range said.Unlisted {
		found = append(found, finding(mta.Warning, "forwards-unlisted", u.Source, "nothing, if you accept that: it is queried at RCPT about each recipient, but can't be audited",
			"%s can't be listed: %s", u.Source, u.Reason))
	}
	if len(found) == 0 {
		found = append(found, finding(mta.OK, "forwards-read", "", "", "%s can read all sources of forwards: %s", said.By, plural(said.Owners, "owner")))
	}
	return append(found, doctorHomes(ctx, c, said.Aside)...)
}

// mayRead is what an administrator does about a file that the daemon can't read.
func mayRead(file string) string {
	const restart = " && systemctl restart tlsonly"
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "make the table, or remove it from Postfix's settings"
	}
	s, ok := (*syscall.Stat_t)(nil), false
	if err == nil {
		s, ok = info.Sys().(*syscall.Stat_t)
	}
	if !ok || info.Mode().Perm()&0o040 == 0 {
		return "let the daemon's user read it, or run postmap -q as that user to find out why not"
	}
	group, err := user.LookupGroupId(strconv.FormatUint(uint64(s.Gid), 10))
	if err != nil || s.Gid == 0 {
		return "let the daemon's user read it"
	}
	return "usermod -aG " + group.Name + " tlsonly" + restart
}

// sourcesEvery is how often the daemon looks whether the sources of forwards
// that many recipients depend on answer; failingEvery, while one doesn't.
const (
	sourcesEvery = time.Minute
	failingEvery = 5 * time.Second
)

// sourceFaults is what was found last.
type sourceFaults struct{ atomic.Pointer[string] }

// Test is an error while a source doesn't answer.
func (s *sourceFaults) Test(context.Context) error {
	if text := s.Load(); text != nil && *text != "" {
		return errors.New(*text)
	}
	return nil
}

// watchSources tells, once, that a source of forwards which many recipients
// depend on can't be read, and once that it can again, until ctx ends.
func (d *service) watchSources(ctx context.Context) {
	last := ""
	for {
		text := ""
		if d.config.Load().Rules.Enforces(d.now()) {
			faults, err := d.forwards.Check(ctx)
			if err != nil {
				text = err.Error()
			}
			for i, f := range faults {
				if i > 0 {
					text += "; "
				}
				text += strings.TrimSpace(f.Setting+" ") + ": " + oneLine(f.Reason)
			}
		}
		if ctx.Err() != nil {
			return
		}
		d.sources.Store(&text)
		switch {
		case text == last:
		case text == "":
			d.log.Info("all tables of forwards can be read again")
		default:
			d.log.Error("a table of forwards can't be read, so mail of protected senders is deferred",
				"err", text, "remedy", "tlsonly doctor")
		}
		wait := sourcesEvery
		if last = text; text != "" {
			wait = failingEvery
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
