// Package forward answers where mail for a recipient of this host really leaves to, following aliases, virtual tables, ~/.forward
// files, Sieve scripts, copies (bcc) and routes as the MTA itself would: Expander.Expand.
//
// With a Postfix (Config.Tables) it does what cleanup(8), trivial-rewrite(8), local(8) and virtual(8) do with the running
// instance's own settings and tables; the order in which they come into play is told in ADDRESS_REWRITING_README. Without one
// it reads plain files, in Sendmail's order: virtusertable, aliases, .forward, mailertable. Both read Sieve scripts (RFC 5228,
// redirect).
//
// It decides nothing about TLS, and tells only next hops that the MTA's tables name; a Leaf without Hops goes by MX, or by what
// the caller knows of relays. What isn't known (an unreadable file, a table that doesn't answer, a loop, an address made of
// variables) is a Leaf of Kind Unknown, never left out: the caller must take it for "may go anywhere", and defer.
//
// The caller must hold the right to read what the MTA reads: home directories are often closed to others. It must run
// Expander.Run for Changed to tell of changes; Expand sees them anyway, for it looks at each source's time, size and inode.
//
// SECURITY: files that users write are read, never obeyed otherwise: no command of theirs is run, sizes and depths are limited,
// and what local(8) would ignore for its owner or mode is ignored here, too.
//
// BUGS: a next hop on a loopback address counts as delivered here. What a program (|command, pipe(8), a mailing list manager)
// does with mail is out of sight; it counts as delivered here. masquerade_domains, sender_canonical_maps before sender_bcc_maps,
// and settings given to single services of master.cf (-o) aren't looked at. Files of .forward+extension are followed but can't
// be listed. Of Sendmail, a table is known by its source, not by the map made of it; files that Sendmail refuses as unsafe are followed
// all the same, for it can be told not to (DontBlameSendmail), and so are users of class L beside a MAIL_HUB.
package forward

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward/aliases"
	"tlsonly/internal/policy"
)

// Tables is a Postfix instance. It may be used by several goroutines.
type Tables interface {
	// Settings reads main.cf and master.cf: the value of each parameter, set or not, with what it refers to put in; and
	// the program ("smtp", "local") of each transport, by its name.
	Settings(ctx context.Context) (parameters, transports map[string]string, err error)
	// Lookup asks a table ("hash:/etc/aliases") for keys. What isn't found isn't in the answer; an error means that
	// Postfix would make mail wait.
	Lookup(ctx context.Context, table string, keys []string) (map[string]string, error)
	// List returns the whole content of a table of type hash, btree, lmdb, texthash or inline, by key.
	List(ctx context.Context, table string) (map[string]string, error)
}

// Binder is what Tables may be besides: one that says whether the instance, by
// its settings as Settings read them last, asks tlsonly first by which
// transport a sender's mail leaves.
type Binder interface {
	Bound() bool
}

// Config says where forwards stand. Zero fields mean the default told.
type Config struct {
	Tables Tables // a Postfix; nil: none, then the files below are all there is

	// Only without Tables.
	Dialect      aliases.Dialect // whose rules the plain files follow; Sendmail also has its order
	Aliases      []string        // alias files
	Virtual      []string        // virtual(5) tables, with Dialect Sendmail virtusertables
	Mailertables []string        // Sendmail's
	Forward      []string        // "~/.forward"; ~ is the user's home directory, %n the name, %h the detail of name+detail
	Local        []addr.Domain   // what is delivered here: Sendmail's class w
	VirtualIn    []addr.Domain   // where Virtual counts besides Local: Sendmail's class VirtHost; nil: everywhere
	VirtualBelow bool            // and below these
	// Sendmail's SMART_HOST, for what isn't local; MAIL_HUB or LOCAL_RELAY, for what is; LUSER_RELAY, for users that aren't.
	SmartHost, MailHub, LocalRelay, UserRelay string
	Unfollowed                                []Unfollowed // whoever it may concern has an Unknown leaf besides; All tells of it
	// Bound says that the MTA asks tlsonly about all mail that leaves, so that
	// what a file says which can't be read is held there.
	Bound func() bool // nil: it doesn't

	Sieve []string // "/var/vmail/%d/%n/.dovecot.sieve": %d domain, %n local part, %u both, ~ home; with Tables too

	User    func(name string) (User, error) // getpwnam(3); ErrNoUser when there is none; default: the system's users
	List    func() ([]string, error)        // names of all users, for All; default: those of /etc/passwd
	Most    int                             // leaves of one address, more are Unknown; default 10,000
	Recheck time.Duration                   // how often Run looks at files that nothing watches; default 30 s
	Log     *slog.Logger                    // default: none
}

// Unfollowed is a table or a setting of Sendmail that may send mail on, and can't be followed.
type Unfollowed struct {
	// Name is that of the map or option: "aliasfile", "userdatabasespec", "forwardpath", "virtuser", "mailertable", "domaintable",
	// "bitdomain", "ldapmh" or "ldapmra".
	Name string
	Line string // of sendmail.cf
}

// Kind says what becomes of mail.
type Kind string

// The kinds.
const (
	Mailbox Kind = "mailbox" // delivered here
	File    Kind = "file"    // appended to a file here
	Command Kind = "command" // given to a program here
	Discard Kind = "discard" // thrown away
	Refused Kind = "refused" // no such user, moved, or an entry that says so
	Leaves  Kind = "leaves"  // sent to another host
	Unknown Kind = "unknown" // not known now: it may leave for anywhere
)

// Here reports whether mail of this kind certainly doesn't leave.
func (k Kind) Here() bool { return k != Leaves && k != Unknown }

// Leaf is one end of a recipient's mail.
type Leaf struct {
	Kind    Kind               `json:"kind"`
	Address addr.Address       `json:"address"`          // the final recipient; for Unknown and files the last one known
	Hops    []addr.Destination `json:"hops,omitempty"`   // of Leaves: next hops named by a table or a relay, in order; none: by MX
	Path    []Step             `json:"path,omitempty"`   // how the mail gets there, from the recipient asked for
	Detail  string             `json:"detail,omitempty"` // file, command, transport, or why it is refused or unknown
	// Unread, of Unknown, is a file of the user's own that can't be read, or not
	// in time. The MTA reads it, as the user, at delivery; beside it stands what
	// becomes of the mail if there is none.
	Unread string `json:"unread,omitempty"`
	// Enforced says that what Unread sends on leaves in the name of the mail's
	// sender, by the way on which the MTA asks tlsonly.
	Enforced bool `json:"held,omitempty"`
}

// Forwarded reports whether the mail was sent on, other than by being delivered to the recipient's own address.
func (l Leaf) Forwarded() bool { return len(l.Path) > 0 }

// Step is one change of address: what stood for what, and where that is written.
type Step struct {
	From string `json:"from"` // the address or name that was replaced
	policy.Origin
}

// Expansion is all that becomes of a recipient's mail.
type Expansion struct {
	Leaves []Leaf // distinct by kind, address, hops and detail; sorted
}

// Leaving returns the leaves that leave or may.
func (x Expansion) Leaving() []Leaf {
	var found []Leaf
	for _, l := range x.Leaves {
		if !l.Kind.Here() {
			found = append(found, l)
		}
	}
	return found
}

func (l Leaf) compare(m Leaf) int {
	return cmp.Or(cmp.Compare(l.Kind, m.Kind), cmp.Compare(l.Address.String(), m.Address.String()),
		slices.CompareFunc(l.Hops, m.Hops, func(a, b addr.Destination) int { return strings.Compare(a.String(), b.String()) }),
		cmp.Compare(l.Detail, m.Detail), cmp.Compare(len(l.Path), len(m.Path)))
}

// Expander follows forwards. It may be used by several goroutines.
type Expander struct {
	cfg     Config
	sources *sources
}

// New checks that what must be known at the start can be read: with Tables, Postfix's settings are asked. A source that is
// missing is no error: it may come.
func New(cfg Config) (*Expander, error) {
	if cfg.Most == 0 {
		cfg.Most = 10_000
	}
	if cfg.Recheck == 0 {
		cfg.Recheck = 30 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	system := &accounts{passwd: "/etc/passwd", nsswitch: "/etc/nsswitch.conf"}
	if cfg.User == nil {
		cfg.User = system.find
	}
	more := func() bool { return false }
	if cfg.List == nil {
		cfg.List, more = system.list, system.elsewhere
	}
	if cfg.Dialect == "" {
		cfg.Dialect = aliases.Postfix
	}
	e := &Expander{cfg: cfg, sources: newSources(cfg, more)}
	if cfg.Tables != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if _, err := e.sources.settings(ctx); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// Expand says where mail of from for to ends. from counts where the MTA makes copies by sender; the null sender is one.
// When ctx ends before all is known, what isn't is Unknown.
func (e *Expander) Expand(ctx context.Context, to, from addr.Address) Expansion {
	j := &job{to: to, from: from, external: true}
	e.work(ctx, []*job{j})
	return j.result
}

// Through says where mail for owner would end if owner forwarded to target: "what if alice forwarded to bob@example.org?" What
// owner really has is not looked at.
func (e *Expander) Through(ctx context.Context, owner, target addr.Address) Expansion {
	j := &job{to: target, path: []Step{{owner.String(), policy.Origin{Source: "test"}}}}
	e.work(ctx, []*job{j})
	return j.result
}

// chunk is how many addresses ExpandAll works at together.
const chunk = 2000

// ExpandAll expands many addresses, for mail of from, asking tables in batches. It ends early when yield says so.
func (e *Expander) ExpandAll(ctx context.Context, all []addr.Address, from addr.Address,
	yield func(addr.Address, Expansion) bool) {
	e.expandAll(ctx, all, from, true, yield)
}

// Bounces is ExpandAll for mail that the MTA itself writes: it has no sender, and
// no copies are made of it.
func (e *Expander) Bounces(ctx context.Context, all []addr.Address, yield func(addr.Address, Expansion) bool) {
	e.expandAll(ctx, all, addr.Address{}, false, yield)
}

func (e *Expander) expandAll(ctx context.Context, all []addr.Address, from addr.Address, external bool,
	yield func(addr.Address, Expansion) bool) {
	for part := range slices.Chunk(all, chunk) {
		jobs := make([]*job, len(part))
		for i, a := range part {
			jobs[i] = &job{to: a, from: from, external: external}
		}
		e.work(ctx, jobs)
		for _, j := range jobs {
			if !yield(j.to, j.result) {
				return
			}
		}
	}
}

// Changed tells that some forward may have changed; several changes are told once. It needs Run.
func (e *Expander) Changed() <-chan struct{} { return e.sources.fileStates.changed }
