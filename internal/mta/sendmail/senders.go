package sendmail

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"tlsonly/internal/addr"
)

// Senders is what a Sendmail makes of senders before it names them to a host:
// masquerading and the genericstable. Where sendmail.cf has neither for
// envelopes it changes none but bare ones.
type Senders struct {
	// Names are what Sendmail may add to a bare name: $j, and what it
	// masquerades as.
	Names []addr.Domain
	// Unread is the genericstable where it can't be followed.
	Unread []Unread

	hostName   addr.Domain // $j
	envelope   bool        // FEATURE(masquerade_envelope)
	masquerade addr.Domain // $M, zero for none
	masked     []addr.Domain
	entire     bool          // what lies below the masked, too
	local      []addr.Domain // class w, unless FEATURE(limited_masquerade)
	excepted   []addr.Domain // class N, and below
	exposed    []string      // class E

	generic       []addr.Domain // class G
	genericEntire bool
	generics      *genericsTable // nil: none, or unread
}

// Senders reads sendmail.cf, and asks Sendmail for its names and classes. Of a
// genericstable that makemap made it reads the source beside it, also later,
// when that has changed.
func (in Installation) Senders(ctx context.Context) (*Senders, error) {
	text, err := os.ReadFile(in.cf())
	if err != nil {
		return nil, fmt.Errorf("read the settings of sendmail: %w", err)
	}
	said, err := in.expand(ctx, nil, senderNames()...)
	if err != nil {
		return nil, err
	}
	return in.senders(parseConf(string(text)), said), nil
}

// senderNames are the macros and classes that senders is made of.
func senderNames() []string { return []string{"$j", "$m", "$M", "$=M", "$=w", "$=N", "$=E", "$=G"} }

func (in Installation) senders(c conf, said map[string]string) *Senders {
	rules := c.ruleset("MasqHdr")
	s := &Senders{
		envelope:      strings.Contains(c.ruleset("MasqEnv"), "$>MasqHdr"),
		masked:        domains(said["$=M"]),
		entire:        strings.Contains(rules, "< @ $* $=M ."),
		excepted:      domains(said["$=N"]),
		exposed:       strings.Fields(strings.ToLower(said["$=E"])),
		generic:       domains(said["$=G"]),
		genericEntire: strings.Contains(rules, "< @ $* $=G ."),
	}
	if strings.Contains(rules, "$: $1 < @ $2 . @ $M >") && strings.Contains(rules, "< @ $=w . > $*") {
		s.local = domains(said["$=w"])
	}
	for _, name := range []string{"$j", "$m", "$M"} {
		d, err := addr.ParseDomain(said[name])
		if err != nil {
			continue // not set
		}
		switch name {
		case "$j":
			s.hostName = d
		case "$M":
			s.masquerade = d
		}
		if !slices.Contains(s.Names, d) {
			s.Names = append(s.Names, d)
		}
	}
	line, there := c.maps["generics"]
	if !there || !strings.Contains(rules, "$(generics ") {
		return s
	}
	class, args, _ := strings.Cut(line, " ")
	if path, ok := in.sourceOf(class, lastWord(args)); ok {
		s.generics = &genericsTable{path: path}
		if _, err := s.generics.read(); err == nil {
			return s
		}
		s.generics = nil
	}
	s.Unread = append(s.Unread, Unread{"generics", "Kgenerics " + line})
	return s
}

// sourceOf names the text that a map was made of, false where none is known.
func (in Installation) sourceOf(class, path string) (string, bool) {
	path = filepath.Join("/", in.Root, strings.TrimSuffix(path, ".db"))
	switch class {
	case "hash", "btree", "dbm", "cdb", "implicit", "text", "":
		return path, path != "/" && !madeElsewhere(path)
	}
	return path, false
}

// Written returns what else a sender may be to a host than what it is in the
// queue: none where it stays.
func (s *Senders) Written(a addr.Address) []addr.Address {
	if s == nil || a.IsNull() {
		return nil
	}
	from := a
	if a.Domain.IsZero() {
		a.Domain = s.hostName
	}
	if s.envelope {
		a = s.header(a)
	}
	if a == from || a.Domain.IsZero() {
		return nil
	}
	return []addr.Address{a}
}

// header is the ruleset MasqHdr. A sender at the own name may stand bare in the
// queue, which is masqueraded where the name itself is not.
func (s *Senders) header(a addr.Address) addr.Address {
	if s.generics != nil && (a.Domain == s.hostName || in(s.generic, a.Domain, s.genericEntire)) {
		switch value, ok := s.generics.lookup(a); {
		case ok && !value.Domain.IsZero():
			return value
		case ok:
			a = addr.Address{Local: value.Local, Domain: s.hostName}
		}
	}
	switch {
	case s.masquerade.IsZero() || in(s.excepted, a.Domain, true) || slices.Contains(s.exposed, strings.ToLower(a.Local)):
		return a
	case a.Domain == s.hostName || in(s.masked, a.Domain, s.entire) || slices.Contains(s.local, a.Domain):
		a.Domain = s.masquerade
	}
	return a
}

// in reports whether a domain is one of a list, or below one.
func in(list []addr.Domain, d addr.Domain, below bool) bool {
	for ; !d.IsZero(); d = d.Parent() {
		if slices.Contains(list, d) {
			return true
		}
		if !below {
			return false
		}
	}
	return false
}

// genericsTable is a genericstable's source: a key and an address a line.
type genericsTable struct {
	path string

	mu      sync.Mutex
	seen    fs.FileInfo
	entries map[string]string
}

// read returns the entries, of the file as it is now.
func (g *genericsTable) read() (map[string]string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	info, err := os.Stat(g.path)
	if err != nil {
		return g.entries, err
	}
	if g.seen != nil && g.seen.ModTime().Equal(info.ModTime()) && g.seen.Size() == info.Size() {
		return g.entries, nil
	}
	text, err := os.ReadFile(g.path)
	if err != nil {
		return g.entries, err
	}
	g.entries, g.seen = map[string]string{}, info
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.ReplaceAll(line, "\t", " "), " "); ok && !strings.HasPrefix(key, "#") {
			g.entries[strings.ToLower(key)] = strings.TrimSpace(value)
		}
	}
	return g.entries, nil
}

// lookup returns what a sender becomes; without a domain it is still to be
// completed. What can't be read now is as it was.
func (g *genericsTable) lookup(a addr.Address) (addr.Address, bool) {
	entries, _ := g.read()
	local, domain := strings.ToLower(a.Local), a.Domain.String()
	type try struct{ key, one string } // one is what %1 stands for
	tries := []try{{local + "@" + domain, local + "@" + domain}}
	user, detail, plus := strings.Cut(local, "+")
	if plus {
		tries = append(tries, try{user + "+*@" + domain, detail}, try{user + "@" + domain, ""})
	}
	tries = append(tries, try{"@" + domain, local}, try{local, ""})
	if plus {
		tries = append(tries, try{user + "+*", detail}, try{user, ""})
	}
	for _, t := range tries {
		value, ok := entries[t.key]
		if !ok {
			continue
		}
		to, err := addr.ParsePath(strings.NewReplacer("%0", t.key, "%1", t.one).Replace(value))
		return to, err == nil && !to.IsNull()
	}
	return addr.Address{}, false
}
