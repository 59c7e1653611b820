package forward

import (
	"context"
	"errors"
	"slices"
	"strings"
)

// Fault is a source that can't be read, or doesn't answer: what becomes of mail
// of all recipients whom it may concern isn't known.
type Fault struct {
	Setting string `json:"setting"`        // "virtual_alias_maps", or several; "" for a file of [forwarding]
	Source  string `json:"source"`         // "sqlite:/etc/postfix/aliases.cf"
	File    string `json:"file,omitempty"` // that it is, or that says how to ask it
	Reason  string `json:"reason"`
}

// queriedForAll are Postfix's settings with tables that are asked for every
// recipient, or for every local one.
func queriedForAll() []string {
	return []string{"mydestination", "virtual_alias_domains", "virtual_mailbox_domains", "relay_domains",
		"recipient_canonical_maps", "canonical_maps", "recipient_bcc_maps", "sender_bcc_maps",
		"virtual_alias_maps", "sender_dependent_default_transport_maps", "sender_dependent_relayhost_maps",
		"transport_maps", "relocated_maps", "alias_maps", "virtual_mailbox_maps", "mailbox_transport_maps",
		"fallback_transport_maps"}
}

// nobody is asked for where only it counts that there is an answer.
const nobody = "tlsonly-check@tlsonly-check.invalid"

// Check asks each source that many recipients depend on, and tells of those
// that don't answer. Users' own files are none.
func (e *Expander) Check(ctx context.Context) ([]Fault, error) {
	s := e.newSession(ctx)
	if e.cfg.Tables == nil {
		return s.checkPlain(), ctx.Err()
	}
	n, err := s.settings(ctx)
	if err != nil {
		return nil, err
	}
	type asked struct{ setting, table string }
	var all []asked
	for _, setting := range queriedForAll() {
		for _, item := range n.maps(setting) {
			item = strings.TrimLeft(item, "!")
			if !strings.Contains(item, ":") || strings.HasPrefix(item, "[") || strings.HasPrefix(item, "/") {
				continue // a domain, or a file that Settings have read
			}
			if setting == "alias_maps" {
				item = strings.TrimPrefix(item, "proxy:") // as local(8)
			}
			all = append(all, asked{setting, item})
		}
	}
	for _, a := range all {
		_, _, _ = s.lookup(a.table, nobody)
	}
	s.flushLookups()
	var found []Fault
	for _, a := range all {
		_, _, err := s.lookup(a.table, nobody)
		if err == nil || errors.Is(err, errPending) {
			continue
		}
		if i := slices.IndexFunc(found, func(f Fault) bool { return f.Source == a.table }); i >= 0 {
			found[i].Setting += ", " + a.setting
			continue
		}
		f := Fault{Setting: a.setting, Source: a.table, Reason: strings.TrimPrefix(err.Error(), a.table+": ")}
		if _, name := kindOf(a.table); strings.HasPrefix(name, "/") {
			f.File = name
		}
		found = append(found, f)
	}
	return found, ctx.Err()
}

// Aside says why what a user's own file sends on, if it can't be read, may
// leave by a way on which tlsonly isn't asked; "" where it doesn't.
func (e *Expander) Aside(ctx context.Context) (string, error) {
	s := e.newSession(ctx)
	if e.cfg.Tables == nil {
		return s.readPlain().aside(), ctx.Err()
	}
	n, err := s.settings(ctx)
	if err != nil {
		return "", err
	}
	return n.aside(&expansion{session: s}), ctx.Err()
}

func (s *session) checkPlain() []Fault {
	var found []Fault
	for _, path := range slices.Concat(s.files.Aliases, s.files.Virtual, s.files.Mailertables) {
		if _, err := readParsed(s, path, "check", func([]byte) (bool, error) { return true, nil }); err != nil {
			found = append(found, Fault{Source: path, File: path, Reason: err.Error()})
		}
	}
	return found
}
