package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/config/value"
)

// Relay is the table [relay]: where this MTA sends mail that it doesn't deliver by MX. The zero Relay is none.
type Relay struct {
	exact map[addr.Domain]addr.Destination
	below map[addr.Domain]addr.Destination // ".domain": all below domain
	rest  addr.Destination                 // "*"
	hops  map[addr.Destination]bool        // all of them
}

// For returns the next hop of mail to d, and false when it goes by MX: the entry of the domain itself, else of the
// nearest ".parent", else "*", as transport(5) looks up.
func (r Relay) For(d addr.Domain) (addr.Destination, bool) {
	if hop, ok := r.exact[d]; ok {
		return hop, true
	}
	for p := d.Parent(); len(r.below) > 0 && !p.IsZero(); p = p.Parent() {
		if hop, ok := r.below[p]; ok {
			return hop, true
		}
	}
	return r.rest, !r.rest.IsZero()
}

// Hops returns the next hops, in no order.
func (r Relay) Hops() []addr.Destination { return slices.Collect(maps.Keys(r.hops)) }

// Uses reports whether hop is the next hop of some domain.
func (r Relay) Uses(hop addr.Destination) bool { return r.hops[hop] }

// readRelay reads a table whose keys are domains.
func readRelay(c *Config, t value.Table) []value.Fault {
	r := Relay{exact: map[addr.Domain]addr.Destination{}, below: map[addr.Domain]addr.Destination{}, hops: map[addr.Destination]bool{}}
	var faults []value.Fault
	lines := map[string]int{} // by canonical key
	for key, v := range t.Keys {
		fault := func(format string, args ...any) {
			faults = append(faults, value.Fault{Line: v.Line, Text: fmt.Sprintf("[relay] %q", key) + fmt.Sprintf(format, args...)})
		}
		if sub, ok := v.Any.(value.Table); ok && len(sub.Keys) > 0 {
			fault(`: want "domain" = "destination", the domain in quotes`)
			continue
		}
		hop, err := value.Destination(v)
		if err != nil {
			fault("%v", err)
			continue
		}
		r.hops[hop] = true
		if key == "*" {
			r.rest = hop
			continue
		}
		name, isBelow := strings.CutPrefix(key, ".")
		d, err := addr.ParseDomain(name)
		if err != nil || isBelow && d.IsLiteral() {
			fault(`: want a domain, ".domain" for all below it, or "*"`)
			continue
		}
		canonical := d.String()
		if isBelow {
			canonical = "." + canonical
			r.below[d] = hop
		} else {
			r.exact[d] = hop
		}
		if line, ok := lines[canonical]; ok {
			faults = append(faults, value.Fault{Line: max(line, v.Line),
				Text: fmt.Sprintf("[relay] %q occurs twice, first on line %d", canonical, min(line, v.Line))})
		}
		lines[canonical] = v.Line
	}
	c.Relay = r
	return faults
}
