package forward

import (
	"fmt"
	"slices"
	"strings"

	"tlsonly/internal/contract"
)

// aside says why mail that leaves in its sender's name may leave by a
// transport that Postfix takes without asking for the sender: then nothing is
// known of mail of which it isn't known where it leaves to. It is "" where
// tlsonly is asked about all of it.
//
// It doesn't know FILTER actions of access tables and header_checks, which
// doctor calls holes.
func (n *postfixConfig) aside(r *expansion) string {
	if b, ok := r.tables.(Binder); !ok || !b.Bound() {
		return "sender_dependent_default_transport_maps doesn't ask tlsonly first, see tlsonly setup"
	}
	for _, item := range n.maps("relay_domains") {
		if !n.has("mydestination", item) {
			return fmt.Sprintf("relay_domains has %s, whose mail leaves by relay_transport", item)
		}
	}
	for _, table := range n.maps("transport_maps") {
		way, err := once(r.session, "aside "+table, func() (string, error) {
			entries, err := r.list(r.ctx, table)
			if err != nil {
				return "", fmt.Errorf("transport_maps %s: %w", table, err)
			}
			for key, value := range entries {
				if name, _, _ := strings.Cut(value, ":"); n.leavesBy(name) {
					return fmt.Sprintf("transport_maps %s sends %s by transport %s", table, key, name), nil
				}
			}
			return "", nil
		})
		if err != nil {
			return err.Error()
		}
		if way != "" {
			return way
		}
	}
	return ""
}

// leavesBy reports whether a transport that a table names may take mail to
// another host, other than one of ours.
func (n *postfixConfig) leavesBy(name string) bool {
	if name == "" || contract.IsTransport(name) {
		return false
	}
	ends := []string{"local", "virtual", "error", "retry", "discard", "pipe"}
	return !slices.Contains(ends, n.transports[name])
}

// aside is the same of Sendmail, which asks about each recipient that it names
// to a host, whatever the route.
func (p *fileRules) aside() string {
	if p.cfg.Bound == nil || !p.cfg.Bound() {
		return "the MTA doesn't ask tlsonly, see tlsonly setup"
	}
	return ""
}

func (p *fileRules) hasAlias(name string) bool {
	return slices.ContainsFunc(p.aliases, func(f aliasFile) bool {
		_, ok := f.find(name)
		return ok
	})
}
