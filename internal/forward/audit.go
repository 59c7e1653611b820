package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Forwarder is somebody here whose mail may be sent on.
type Forwarder struct {
	Address addr.Address // null where one entry stands for many
	Pattern string       // then: the entry's key or pattern, as it stands
	policy.Origin
	// Everywhere says that the local part stands so in each of Own's domains.
	Everywhere bool
}

// Unlisted is a source whose forwarders can't be listed, only asked for.
type Unlisted struct {
	Source string `json:"source"`
	Reason string `json:"reason"`
	User   bool   `json:"own,omitempty"` // a file of a user's own: .forward, or a Sieve script
}

// All tells of everybody on this host who has an entry that may send mail on: aliases, virtual addresses, rewritten and copied
// ones, users with a .forward file or a Sieve script. Whether mail really leaves is for Expand to say. Addresses come once a
// source, in no order. It returns what can't be listed. yield stops it by false.
func (e *Expander) All(ctx context.Context, yield func(Forwarder) bool) ([]Unlisted, error) {
	l := &lister{sources: e.sources, ctx: ctx, cfg: e.cfg, yield: yield}
	var err error
	if e.cfg.Tables != nil {
		var n *postfixConfig
		if n, err = e.sources.settings(ctx); err == nil {
			err = l.postfix(n)
		}
	} else {
		err = l.plain()
	}
	if err == nil {
		err = l.users()
	}
	if errors.Is(err, errStopped) {
		err = nil
	}
	if err == nil {
		err = ctx.Err()
	}
	return l.unlisted, err
}

var (
	errStopped    = errors.New("stopped")
	errUnfollowed = errors.New("it can't be followed: mail that it may concern waits")
)

type lister struct {
	*sources
	ctx       context.Context
	cfg       Config
	yield     func(Forwarder) bool
	userFiles map[string]bool // users' files
	unlisted  []Unlisted
	home      addr.Domain // of names that stand for themselves in every domain of the host
}

func (l *lister) tell(f Forwarder) error {
	f.Everywhere = !f.Address.IsNull() && f.Address.Domain == l.home
	if err := l.ctx.Err(); err != nil {
		return err
	}
	if !l.yield(f) {
		return errStopped
	}
	return nil
}

func (l *lister) cannot(source string, err error) {
	l.unlisted = append(l.unlisted, Unlisted{Source: source, Reason: err.Error()})
}

func (l *lister) postfix(n *postfixConfig) error {
	home := n.home()
	l.home = home
	for _, name := range []string{"alias_maps", "virtual_alias_maps", "recipient_canonical_maps", "canonical_maps",
		"recipient_bcc_maps", "sender_bcc_maps"} {
		for _, table := range n.maps(name) {
			if err := l.table(name, table, home); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{"always_bcc", "luser_relay"} {
		if v := n.set[name]; v != "" {
			if err := l.tell(Forwarder{Pattern: "*", Origin: policy.Origin{Source: name + " = " + v}}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Own returns the domains of Postfix's mydestination, but those in tables.
func (e *Expander) Own(ctx context.Context) ([]addr.Domain, error) {
	if e.cfg.Tables == nil {
		return e.cfg.Local, nil
	}
	n, err := e.sources.settings(ctx)
	if err != nil {
		return nil, err
	}
	var own []addr.Domain
	for _, item := range n.maps("mydestination") {
		if d, err := addr.ParseDomain(item); err == nil && !strings.ContainsAny(item, ":/!") {
			own = append(own, d)
		}
	}
	return own, nil
}

// home is the domain of addresses that aliases stand for.
func (n *postfixConfig) home() addr.Domain {
	local := n.maps("mydestination")
	if slices.ContainsFunc(local, func(item string) bool { return strings.EqualFold(item, n.origin.String()) }) {
		return n.origin
	}
	for _, item := range local {
		if d, err := addr.ParseDomain(item); err == nil && !strings.ContainsAny(item, ":/!") {
			return d
		}
	}
	return n.origin
}

func (l *lister) table(parameter, table string, home addr.Domain) error {
	prefix := ""
	if parameter != "alias_maps" && parameter != "virtual_alias_maps" {
		prefix = parameter + " "
	}
	source := prefix + table
	kind, name := kindOf(table)
	if kind == "regexp" || kind == "pcre" || kind == "cidr" {
		return l.patterns(source, name)
	}
	entries, err := l.list(l.ctx, table)
	if err != nil {
		l.cannot(source, err)
		return nil
	}
	text := l.lines.text(table)
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		f := Forwarder{Origin: match{table, key, entries[key]}.origin(prefix, text)}
		switch {
		case parameter == "alias_maps":
			if key == "@" || strings.HasPrefix(key, "yp_") || strings.HasPrefix(key, "owner-") {
				continue // postalias(1)'s own marks; owners are where errors go
			}
			f.Address = addr.Address{Local: key, Domain: home}
		case strings.HasPrefix(key, "@"), parameter == "sender_bcc_maps":
			f.Pattern = key
		case strings.Contains(key, "@"):
			if f.Address, err = addr.ParsePath(key); err != nil {
				f.Address, f.Pattern = addr.Address{}, key
			}
		case parameter == "virtual_alias_maps" && strings.Contains(key, "."):
			continue // virtual(5): "domain anything" makes a virtual alias domain
		default:
			f.Address = addr.Address{Local: key, Domain: home}
		}
		if err := l.tell(f); err != nil {
			return err
		}
	}
	return nil
}

// patterns lists the lines of a table of patterns: whom they concern can't be told.
func (l *lister) patterns(source, path string) error {
	text, err := readFile(path)
	if err != nil {
		l.cannot(source, err)
		return nil
	}
	n := 0
	for line := range strings.Lines(text) {
		n++
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || trimmed[0] == '#' || line[0] == ' ' || line[0] == '\t' {
			continue
		}
		if err := l.tell(Forwarder{Pattern: trimmed, Origin: policy.Origin{Source: source, File: path, Line: n}}); err != nil {
			return err
		}
	}
	return nil
}

func (l *lister) plain() error {
	s := &session{sources: l.sources, ctx: l.ctx}
	p := s.readPlain()
	if p.err != nil {
		return p.err
	}
	for _, u := range l.cfg.Unfollowed {
		l.cannot(u.Line, errUnfollowed)
	}
	var home addr.Domain
	if len(l.cfg.Local) > 0 {
		home = l.cfg.Local[0]
	}
	for _, f := range p.aliases {
		for entry := range f.All() {
			if strings.HasPrefix(entry.Name, "owner-") {
				continue
			}
			owner := addr.Address{Local: entry.Name, Domain: home}
			if a, err := addr.ParsePath(entry.Name); err == nil && !a.Domain.IsZero() {
				owner = a
			}
			if err := l.tell(Forwarder{Address: owner, Origin: entryOrigin(f.Name(), entry.Name, entry.Line)}); err != nil {
				return err
			}
		}
	}
	for _, relay := range []struct{ name, spec string }{
		{"MAIL_HUB", l.cfg.MailHub}, {"LOCAL_RELAY", l.cfg.LocalRelay}, {"LUSER_RELAY", l.cfg.UserRelay},
	} {
		if relay.spec != "" {
			if err := l.tell(Forwarder{Pattern: "*", Origin: policy.Origin{Source: relay.name + " = " + relay.spec}}); err != nil {
				return err
			}
		}
	}
	for _, t := range p.virtual {
		for entry := range t.All() {
			f := Forwarder{Pattern: entry.Key, Origin: entryOrigin(t.Name(), entry.Key, entry.Line)}
			switch entry.Kind {
			case "marker":
				continue
			case "address", "user":
				if a, err := addr.ParsePath(entry.Key); err == nil && !strings.HasSuffix(a.Local, "+*") {
					if a.Domain.IsZero() {
						a.Domain = home
					}
					f.Address, f.Pattern = a, ""
				}
			}
			if err := l.tell(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// homes tells of users who have a file, or a Sieve script in their home directories.
func (l *lister) homes(home addr.Domain, templates []string) error {
	names, err := l.cfg.List()
	if err != nil {
		return fmt.Errorf("list users: %w", err)
	}
	if l.moreUsers() {
		l.cannot("users who aren't in /etc/passwd", errUnlistable)
	}
	for _, name := range names {
		u, err := l.findUser(name)
		if err != nil {
			continue // gone in between
		}
		a := addr.Address{Local: name, Domain: home}
		for _, template := range templates {
			path, ok := forwardPath(template, a, u, "")
			if l.tables != nil {
				// What needs an extension can't be listed: whoever sends chooses it.
				path, ok = expandMacros(template, map[string]string{"home": u.Home, "user": name, "local": name, "domain": home.String(),
					"recipient": name + "@" + home.String()})
			}
			if ok {
				err = errors.Join(err, l.file(path, "", a))
			}
		}
		for _, template := range l.cfg.Sieve {
			if strings.HasPrefix(template, "~/") {
				if path, ok := scriptPath(template, a, u); ok {
					err = errors.Join(err, l.file(path, "sieve ", a))
				}
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// file tells of a user who has it.
func (l *lister) file(path, what string, a addr.Address) error {
	_, err := soon(l.ctx, l.slow, path, func() (fs.FileInfo, error) { return os.Lstat(path) })
	if err == nil {
		l.userFiles[path] = true
		l.fileStates.check([]string{path})
		return l.tell(Forwarder{Address: a, Origin: policy.Origin{Source: what + path, File: path}})
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		l.unlisted = append(l.unlisted, Unlisted{Source: what + path, Reason: err.Error(), User: true})
	}
	return nil
}

// scripts tells of everybody who has a Sieve script.
func (l *lister) scripts() error {
	for _, template := range l.cfg.Sieve {
		if strings.HasPrefix(template, "~/") {
			continue // homes
		}
		paths, err := filepath.Glob(placeholders.ReplaceAllString(globQuote(template), "*"))
		if err != nil {
			return fmt.Errorf("sieve %q: %w", template, err)
		}
		shape := shapeOf(template)
		for _, path := range paths {
			if a, ok := addressIn(shape, path); ok {
				if err := l.file(path, "sieve ", a); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func globQuote(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// shapeOf makes an expression that finds whose a script is by its path.
func shapeOf(template string) *regexp.Regexp {
	var b bytes.Buffer
	b.WriteString("^")
	at := 0
	for _, m := range placeholders.FindAllStringIndex(template, -1) {
		b.WriteString(regexp.QuoteMeta(template[at:m[0]]))
		fmt.Fprintf(&b, "(?P<%c>[^/]+)", template[m[0]+1])
		at = m[1]
	}
	b.WriteString(regexp.QuoteMeta(template[at:]) + "$")
	return regexp.MustCompile(b.String())
}

func addressIn(shape *regexp.Regexp, path string) (addr.Address, bool) {
	found := shape.FindStringSubmatch(path)
	if found == nil {
		return addr.Address{}, false
	}
	part := map[string]string{}
	for i, name := range shape.SubexpNames() {
		if name == "" {
			continue
		}
		if have, ok := part[name]; ok && have != found[i] {
			return addr.Address{}, false
		}
		part[name] = found[i]
	}
	if u := part["u"]; u != "" {
		a, err := addr.ParsePath(u)
		return a, err == nil
	}
	a := addr.Address{Local: part["n"]}
	if d := part["d"]; d != "" {
		var err error
		if a.Domain, err = addr.ParseDomain(d); err != nil {
			return addr.Address{}, false
		}
	}
	return a, a.Local != ""
}
