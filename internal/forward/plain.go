package forward

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward/aliases"
	"tlsonly/internal/forward/virtual"
	"tlsonly/internal/policy"
)

// fileRules is what plain files say, for an MTA that can't be asked.
type fileRules struct {
	sendmail bool
	local    map[addr.Domain]bool
	aliases  []aliasFile
	virtual  []*virtual.Table
	routes   []*virtual.Table
	forward  []string
	cfg      Config
	err      error // a file that can't be read: nothing is known then
}

// readPlain reads the files that have changed. One that doesn't exist is empty.
func (s *session) readPlain() *fileRules {
	cfg := s.files
	p := &fileRules{sendmail: cfg.Dialect == aliases.Sendmail, local: map[addr.Domain]bool{}, forward: cfg.Forward, cfg: cfg}
	for _, d := range cfg.Local {
		p.local[d] = true
	}
	form := virtual.Virtual
	if p.sendmail {
		form = virtual.Virtusertable
	}
	for _, path := range cfg.Aliases {
		f, err := readParsed(s, path, "aliases", func(text []byte) (aliasFile, error) {
			f, _, err := aliases.Parse(bytes.NewReader(text), path, cfg.Dialect)
			return newAliasFile(f, p.local), err
		})
		p.aliases, p.err = append(p.aliases, f), errors.Join(p.err, err)
	}
	table := func(path string, form virtual.Form) *virtual.Table {
		t, err := readParsed(s, path, string(form), func(text []byte) (*virtual.Table, error) {
			t, _, err := virtual.Parse(bytes.NewReader(text), path, form)
			return t, err
		})
		p.err = errors.Join(p.err, err)
		return t
	}
	for _, path := range cfg.Virtual {
		p.virtual = append(p.virtual, table(path, form))
	}
	for _, path := range cfg.Mailertables {
		p.routes = append(p.routes, table(path, virtual.Mailertable))
	}
	return p
}

// aliasFile is a file and those of its entries whose names have a domain of the MTA's own: Sendmail takes it off.
type aliasFile struct {
	*aliases.File
	local map[string]aliases.Entry
}

func newAliasFile(f *aliases.File, local map[addr.Domain]bool) aliasFile {
	own := map[string]aliases.Entry{}
	if f == nil {
		return aliasFile{}
	}
	for entry := range f.All() {
		if a, err := addr.ParsePath(entry.Name); err == nil && local[a.Domain] {
			own[lower(a.Local)] = entry
		}
	}
	return aliasFile{f, own}
}

func (f aliasFile) find(name string) (aliases.Entry, bool) {
	if entry, ok := f.Lookup(name); ok {
		return entry, true
	}
	entry, ok := f.local[name]
	return entry, ok
}

func readParsed[T any](s *session, path, what string, parse func([]byte) (T, error)) (T, error) {
	v, err := s.read(s.ctx, what+" "+path, []string{path}, func() (any, error) {
		text, err := readFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return nil, err
		}
		return parse([]byte(text))
	})
	t, _ := v.(T)
	return t, err
}

// recipient is Sendmail's way: virtusertable, then local delivery or the mailertable. What comes out of a table or a file goes
// the same way again: cf/README, "virtusertable" and "mailertable"; aliases(5).
func (p *fileRules) recipient(r *expansion, a addr.Address, w cursor) {
	if p.err != nil {
		r.unknown(a, w, p.err)
		return
	}
	p.follow(r, a, w, localState{})
}

func (p *fileRules) follow(r *expansion, a addr.Address, w cursor, in localState) {
	if routed := p.unroute(a); p.sendmail && routed != a {
		a, w = routed, w.step(a.String(), inAddress)
	}
	place := "recipient " + in.alias + " " + in.owner
	w, ok := r.follow(place, a, w)
	if !ok {
		return
	}
	defer r.left(place, a)
	p.renamed(r, a, w)
	if p.isVirtual(a.Domain) {
		p.unfollowed(r, a, w, "virtuser")
	}
	if len(p.virtual) > 0 && p.isVirtual(a.Domain) {
		site := virtual.Site{Local: func(d addr.Domain) bool { return p.local[d] }, Delimiters: "+", Propagate: !p.sendmail}
		if m, found := virtual.Lookup(p.virtual, a, site); found {
			on := w.by(a.String(), entryOrigin(m.Table, m.Key, m.Line))
			for _, t := range m.Targets {
				switch {
				case !isAddress(t):
					if !r.text(t, a, on) {
						r.leaf(Unknown, a, on, nil, "%s: %q isn't an address", m.Table, t.Text)
					}
				case t.Address.Fold() == a.Fold():
					p.deliver(r, a, w, in)
				default:
					p.follow(r, t.Address, on, in)
				}
			}
			return
		}
	}
	p.deliver(r, a, w, in)
}

// unroute turns "user%remote@here", "remote!user@here" and "user@remote"@here into what Sendmail sends them to, unless
// FEATURE(nopercenthack) or FEATURE(nouucp) forbids it: then nothing leaves.
func (p *fileRules) unroute(a addr.Address) addr.Address {
	for p.local[a.Domain] {
		local, domain := a.Local, ""
		if i := strings.LastIndexByte(local, '@'); i >= 0 {
			local, domain = local[:i], local[i+1:]
		} else if host, user, ok := strings.Cut(local, "!"); ok {
			local, domain = user, host
		} else if i := strings.LastIndexByte(local, '%'); i >= 0 {
			local, domain = local[:i], local[i+1:]
		}
		d, err := addr.ParseDomain(domain)
		if err != nil || local == "" {
			break
		}
		a = addr.Address{Local: local, Domain: d}
	}
	return a
}

// unfollowed adds an end for each table of these names that may say something about a, and can't be followed.
func (p *fileRules) unfollowed(r *expansion, a addr.Address, w cursor, names ...string) {
	for _, u := range p.cfg.Unfollowed {
		if slices.Contains(names, u.Name) {
			r.leaf(Unknown, a, w, nil, "%s: can't be followed", u.Line)
		}
	}
}

// renamed is for tables that give an address another domain, host or form before all else. Of the recipient itself Sendmail
// has asked them when it tells its {rcpt_host}, as it has its mailertable; of what it is forwarded to nobody tells.
func (p *fileRules) renamed(r *expansion, a addr.Address, w cursor) {
	if len(w.path) == 0 || a.Domain.IsZero() {
		return
	}
	p.unfollowed(r, a, w, "domaintable", "ldapmh", "ldapmra")
	if strings.HasSuffix(a.Domain.String(), ".bitnet") {
		p.unfollowed(r, a, w, "bitdomain")
	}
}

// isVirtual reports whether addresses of a domain are looked up in the virtual tables.
func (p *fileRules) isVirtual(d addr.Domain) bool {
	if d.IsZero() || p.cfg.VirtualIn == nil || p.local[d] {
		return !d.IsZero()
	}
	return slices.ContainsFunc(p.cfg.VirtualIn, func(v addr.Domain) bool {
		return d == v || p.cfg.VirtualBelow && strings.HasSuffix(d.String(), v.String())
	})
}

func (p *fileRules) deliver(r *expansion, a addr.Address, w cursor, in localState) {
	if a.Domain.IsZero() || p.local[a.Domain] {
		p.alias(r, a, w, in)
		return
	}
	if len(w.path) > 0 {
		p.unfollowed(r, a, w, "mailertable")
	}
	for _, t := range p.routes {
		if route, ok := t.Route(a.Domain); ok {
			p.route(r, a, w, entryOrigin(t.Name(), route.Key, route.Line), route, in)
			return
		}
	}
	if p.cfg.SmartHost != "" {
		p.route(r, a, w, policy.Origin{Source: "SMART_HOST"}, relayOf(p.cfg.SmartHost), in)
		return
	}
	r.leaf(Leaves, a, w, nil, "")
}

// relayOf reads "mailer:host", or "host"; cf/README, "MAILER NAMES".
func relayOf(spec string) virtual.Route {
	mailer, host, ok := strings.Cut(spec, ":")
	if !ok || strings.HasPrefix(spec, "[") {
		return virtual.Route{Mailer: "relay", Host: spec}
	}
	return virtual.Route{Mailer: mailer, Host: host}
}

// elsewhere follows local mail that is given to a relay for it.
func (p *fileRules) elsewhere(r *expansion, a addr.Address, w cursor, what, spec string, in localState) {
	if spec == "" {
		return
	}
	if next, ok := r.follow(what, a, w); ok {
		if a.Domain.IsZero() {
			a.Domain = r.job.to.Domain
		}
		p.route(r, a, next.step(a.String(), what), policy.Origin{Source: what}, relayOf(spec), in)
	}
}

// route follows a mailertable's answer.
func (p *fileRules) route(r *expansion, a addr.Address, w cursor, by policy.Origin, to virtual.Route, in localState) {
	switch to.Mailer {
	case "local":
		if to.Host != "" {
			a = addr.Address{Local: to.Host}
		}
		p.alias(r, a, w.by(a.String(), by), in)
	case "error":
		r.leaf(Refused, a, w, nil, "%s", to.Host)
	case "discard":
		r.leaf(Discard, a, w, nil, "%s", by)
	case "smtp", "esmtp", "smtp8", "dsmtp", "relay":
		hops, err := hostList(to.Host)
		if err != nil {
			r.leaf(Unknown, a, w, nil, "%s: %v", by, err)
			return
		}
		r.leaf(Leaves, a, w, hops, "mailer %s", to.Mailer)
	case "prog", "procmail", "cyrus", "cyrusbb", "cyrusv2", "cyrusv2d", "usenet", "fax", "phquery":
		r.leaf(Command, a, w, nil, "mailer %s", to.Mailer)
	default:
		r.leaf(Unknown, a, w, nil, "%s: nothing is known of mailer %s", by, to.Mailer)
	}
}

// hostList reads Sendmail's "[host]:host2": hosts to be tried in order.
func hostList(text string) ([]addr.Destination, error) {
	var hops []addr.Destination
	for text != "" {
		item, rest := text, ""
		start := 0
		if text[0] == '[' { // colons in it belong to an address
			start = max(0, strings.IndexByte(text, ']'))
		}
		if i := strings.IndexByte(text[start:], ':'); i >= 0 {
			item, rest = text[:start+i], text[start+i+1:]
		}
		d, err := addr.ParseDestination(item)
		if err != nil {
			return nil, err
		}
		hops, text = append(hops, d), rest
	}
	return hops, nil
}

// alias is local delivery: aliases, then .forward, then the mailbox.
func (p *fileRules) alias(r *expansion, a addr.Address, w cursor, in localState) {
	whole := lower(a.Local)
	name, detail, extended := strings.Cut(whole, "+")
	if extended = extended && name != ""; !extended {
		name = whole
	}
	p.unfollowed(r, a, w, "aliasfile")
	keys := []string{whole}
	if extended {
		if p.sendmail {
			keys = append(keys, name+"+*")
		}
		keys = append(keys, name)
	}
	for _, key := range keys {
		if key == in.alias {
			continue
		}
		for _, f := range p.aliases {
			entry, ok := f.find(key)
			if !ok {
				continue
			}
			owner := p.whole(addr.Address{Local: key, Domain: a.Domain}, w)
			if by := (addr.Address{Local: "owner-" + key, Domain: a.Domain}); p.sendmail && p.hasAlias(by.Local) {
				w.sender = &by // aliases(5): what it stands for is sent in the owner's name
			}
			p.targets(r, entry.Targets, a, w.by(owner.String(), entryOrigin(f.Name(), entry.Name, entry.Line)),
				localState{alias: key, done: in.done})
			return
		}
	}
	p.unfollowed(r, a, w, "userdatabasespec")
	base := addr.Address{Local: name, Domain: a.Domain}
	u, err := r.user(name)
	if err != nil && !errors.Is(err, ErrNoUser) {
		r.unknown(a, w, fmt.Errorf("user %s: %w", name, err))
		return
	}
	// Ruleset localaddr of proto.m4. Users of class L stay nevertheless, so what they have is followed, too.
	if err != nil && p.cfg.UserRelay != "" {
		p.elsewhere(r, a, w, "LUSER_RELAY", p.cfg.UserRelay, in)
		return
	}
	p.elsewhere(r, a, w, "MAIL_HUB", p.cfg.MailHub, in)
	p.elsewhere(r, a, w, "LOCAL_RELAY", p.cfg.LocalRelay, in)
	if err != nil && p.cfg.MailHub+p.cfg.LocalRelay != "" {
		return
	}
	if err == nil && !slices.Contains(in.done, name) {
		p.unfollowed(r, a, w, "forwardpath")
		for _, template := range p.forward {
			path, ok := forwardPath(template, base, u, detail)
			if !ok {
				continue
			}
			targets, err := r.forwardFile(path, u)
			switch {
			case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
				continue
			case errors.Is(err, errIgnored):
			case err != nil:
				r.unread(a, w, path, err, p.aside())
			case len(targets) > 0:
				p.targets(r, targets, a, w.by(p.whole(a, w).String(), policy.Origin{Source: path, File: path}),
					localState{alias: in.alias, owner: name, done: append(slices.Clip(in.done), name)})
				return
			}
			break
		}
	}
	p.mailbox(r, base, u, err, w, detail)
}

// whole gives a bare name a domain of this host: the one that the mail came to, else the first. What led here may be of another.
func (p *fileRules) whole(a addr.Address, w cursor) addr.Address {
	if !a.Domain.IsZero() || len(p.cfg.Local) == 0 {
		return a
	}
	a.Domain = p.cfg.Local[0]
	for _, step := range slices.Backward(w.path) {
		if from, err := addr.ParsePath(step.From); err == nil && p.local[from.Domain] {
			a.Domain = from.Domain
			break
		}
	}
	return a
}

func (p *fileRules) mailbox(r *expansion, a addr.Address, u User, err error, w cursor, detail string) {
	if err != nil && p.sendmail {
		r.leaf(Refused, a, w, nil, "no such user")
		return
	}
	whole := a
	if detail != "" {
		whole.Local += "+" + detail
	}
	r.leaf(Mailbox, whole, w, nil, "")
	r.scripts(a, u, w, func(b addr.Address, on cursor) { p.follow(r, b, on, localState{}) })
}

func (p *fileRules) targets(r *expansion, targets []aliases.Target, a addr.Address, w cursor, in localState) {
	for _, t := range targets {
		w := w.line(t.Line)
		switch {
		case t.Kind == aliases.Include:
			next, ok := r.follow("include "+t.Text, a, w)
			if !ok {
				continue
			}
			members, err := r.included(t.Text)
			if err != nil {
				r.unknown(a, w, err)
				continue
			}
			if len(members) == 0 {
				r.leaf(Discard, a, next, nil, ":include:%s is empty", t.Text)
			}
			p.targets(r, members, a, next.included(a, t.Text), in)
		case !isAddress(t):
			r.text(t, a, w)
		case t.Escaped && (t.Address.Domain.IsZero() || p.local[t.Address.Domain]):
			u, err := r.user(lower(t.Address.Local))
			p.mailbox(r, t.Address, u, err, w, "")
		default:
			p.follow(r, t.Address, w, in)
		}
	}
}
