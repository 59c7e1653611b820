package milter

import (
	"slices"
	"strings"

	gomilter "github.com/d--j/go-milter"

	"tlsonly/internal/addr"
	"tlsonly/rules"
)

// Names are the names by which an MTA completes senders that come without.
type Names struct {
	Origins []addr.Domain // what a bare name gets
	Below   []addr.Domain // what a domain without a dot gets
	Known   bool          // the MTA said so, and has no others
}

// whose returns what addresses a sender can be: those that the MTA can make of
// it, or in place of one that has something put around it those inside. from is
// what is known of it already. The error says that nobody can tell.
//
// SECURITY: where the MTA's names aren't known, a domain without a dot may be any
// domain of a rule that begins so.
func (s *session) whose(
	set *rules.Set, path string, from addr.Address, m gomilter.Modifier,
) ([]addr.Address, error) {
	if from.IsNull() {
		return []addr.Address{from}, nil
	}
	forms := set.Forms()
	if s.server.c.Forms != nil {
		forms = forms.Join(s.server.c.Forms())
	}
	given := []addr.Address{from}
	var names Names
	if s.server.c.Names != nil {
		names = s.server.c.Names()
	}
	host, err := addr.ParseDomain(m.Get(gomilter.MacroMTAFQDN))
	own := err == nil && !host.IsLiteral()
	full, err := addr.ParsePath(m.Get(gomilter.MacroMailAddr))
	told := err == nil && !full.Domain.IsZero() // Postfix has completed it
	bare, err := addr.ParsePath(path)
	if err == nil && !bare.IsNull() && bare.Domain.IsZero() && !told {
		for _, d := range names.Origins {
			given = append(given, addr.Address{Local: bare.Local, Domain: d})
		}
	}
	var found []addr.Address
	for _, a := range given {
		inside, err := forms.Senders(a)
		if err != nil {
			return nil, err
		}
		found = append(found, inside...)
	}
	for _, a := range found {
		d := a.Domain
		if d.IsZero() || d.IsLiteral() || strings.Contains(d.String(), ".") {
			continue
		}
		for _, b := range names.Below {
			found = complete(found, a, b)
		}
		if names.Known && slices.ContainsFunc(given, func(b addr.Address) bool { return b.Domain == d }) {
			continue // what is inside was written elsewhere, where other names hold
		}
		for p := host.Parent(); own && !p.IsZero(); p = p.Parent() {
			found = complete(found, a, p)
		}
		for _, whole := range set.Beginning(d) {
			found = append(found, addr.Address{Local: a.Local, Domain: whole})
		}
	}
	if written := s.server.c.Written; written != nil {
		for _, a := range found {
			found = append(found, written(a)...)
		}
	}
	return found, nil
}

// complete adds the address with a domain put behind its own.
func complete(found []addr.Address, a addr.Address, domain addr.Domain) []addr.Address {
	whole, err := addr.ParseDomain(a.Domain.String() + "." + domain.String())
	if err != nil {
		return found
	}
	return append(found, addr.Address{Local: a.Local, Domain: whole})
}

// keepsSender reports whether the sender is another's to say: a milter before us
// may have changed it at the end of the message, and Postfix doesn't show that.
// To give back what MAIL said would undo it.
func (s *session) keepsSender(msg *message) bool {
	return msg.envelope.mta == postfixMTA && s.server.c.SenderTaken != nil && s.server.c.SenderTaken()
}
