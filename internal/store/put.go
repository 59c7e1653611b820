package store

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Assessment is an assessment to keep.
type Assessment struct {
	policy.Assessment
	Port uint16 // where the hosts were looked at
	// Replace stores mail hosts without TLS in place of ones that showed it, before those's end. Without it they
	// stay: another destination's look may have failed where theirs didn't.
	Replace bool
}

// Put stores assessments, each in place of the one before, and the mail hosts they name. It is all or nothing. An
// assessment that is Partial is refused.
func (s *Store) Put(ctx context.Context, found ...Assessment) error {
	return s.update(ctx, "put", func(t *work) error { return t.put(ctx, found) })
}

// hostKey is what a mail host is stored under.
type hostKey struct {
	name string
	port uint16
}

// storedHost is policy.Host as one document: what depends on the destination, and the key, are left out.
type storedHost struct {
	policy.Host
	Name       *addr.Domain `json:"name,omitempty"`
	Preference *uint16      `json:"preference,omitempty"`
	Implicit   *bool        `json:"implicit,omitempty"`
}

// storedAssessment is policy.Assessment without what has columns. New fields of policy.Assessment are kept without
// a change here.
type storedAssessment struct {
	policy.Assessment
	Destination *addr.Destination `json:"destination,omitempty"`
	Hosts       []policy.Host     `json:"hosts,omitempty"`
	When        *time.Time        `json:"when,omitempty"`
	Until       *time.Time        `json:"until,omitempty"`
}

type hostRow struct {
	hostKey
	seen, ends, tls, replace int64
	doc                      string
}

// ahead is how far the clocks of a fleet may differ. What was seen later than that was seen by a clock that has been
// set back since, and gives way to what is seen now.
const ahead = time.Minute

// put writes hosts before destinations, each in order, so that two processes never wait for each other in a ring.
func (t *work) put(ctx context.Context, found []Assessment) error {
	hosts, err := hostRows(found)
	if err != nil {
		return err
	}
	for _, h := range hosts {
		err := t.exec(ctx, `INSERT INTO host (name, port, seen, ends, tls, doc) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
			ON CONFLICT (name, port) DO UPDATE
			SET seen = excluded.seen, ends = excluded.ends, tls = excluded.tls, doc = excluded.doc
			WHERE ?7 = 1 OR host.seen > ?9 OR excluded.seen >= host.seen AND (host.tls = 0 OR excluded.tls = 1 OR host.ends <= ?8)`,
			h.name, int64(h.port), h.seen, h.ends, h.tls, h.doc, h.replace, micros(t.now), micros(t.now.Add(ahead)))
		if err != nil {
			return err
		}
	}
	sorted := slices.Clone(found)
	slices.SortStableFunc(sorted, func(a, b Assessment) int {
		return cmp.Compare(a.Destination.String(), b.Destination.String())
	})
	for _, f := range sorted {
		doc, err := json.Marshal(storedAssessment{Assessment: f.Assessment})
		if err != nil {
			return fmt.Errorf("assessment of %s: %w: %w", f.Destination, errCaller, err)
		}
		err = t.exec(ctx, `INSERT INTO destination (name, born, port, seen, ends, doc, hosts) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
			ON CONFLICT (name) DO UPDATE
			SET port = excluded.port, seen = excluded.seen, ends = excluded.ends, doc = excluded.doc, hosts = excluded.hosts`,
			f.Destination.String(), micros(t.now), int64(f.Port), micros(f.When), micros(f.Until), string(doc), hostList(f.Hosts))
		if err != nil {
			return err
		}
		if err := t.changed(ctx, kindDestination, f.Destination.String()); err != nil {
			return err
		}
	}
	return nil
}

// hostRows returns each mail host once, sorted; of two looks at one, the later.
func hostRows(found []Assessment) ([]hostRow, error) {
	byKey := map[hostKey]hostRow{}
	for _, f := range found {
		if f.Partial || f.Destination.IsZero() || f.When.IsZero() {
			return nil, fmt.Errorf("assessment of %q: %w: it isn't finished", f.Destination, errCaller)
		}
		for _, h := range f.Hosts {
			doc, err := json.Marshal(storedHost{Host: h})
			if err != nil {
				return nil, fmt.Errorf("mail host %s: %w: %w", h.Name, errCaller, err)
			}
			row := hostRow{hostKey: hostKey{h.Name.String(), f.Port}, seen: micros(f.When), ends: micros(f.Until), doc: string(doc)}
			for _, o := range h.Observations {
				if o.Outcome == policy.SawTLS {
					row.tls = 1
				}
			}
			if f.Replace {
				row.replace = 1
			}
			if other, ok := byKey[row.hostKey]; !ok || row.seen >= other.seen {
				byKey[row.hostKey] = row
			}
		}
	}
	sorted := make([]hostRow, 0, len(byKey))
	for _, row := range byKey {
		sorted = append(sorted, row)
	}
	slices.SortFunc(sorted, func(a, b hostRow) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.port, b.port))
	})
	return sorted, nil
}

// hostList writes the order of a destination's hosts: "10/mx1.example 20/mx2.example", and "0i/host" for one without
// an MX record.
func hostList(hosts []policy.Host) string {
	var b strings.Builder
	for i, h := range hosts {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(strconv.Itoa(int(h.Preference)))
		if h.Implicit {
			b.WriteByte('i')
		}
		b.WriteByte('/')
		b.WriteString(h.Name.String())
	}
	return b.String()
}

// hostRef is one of a hostList.
type hostRef struct {
	name       string
	preference uint16
	implicit   bool
}

func parseHostList(s string) ([]hostRef, error) {
	if s == "" {
		return nil, nil
	}
	var refs []hostRef
	for part := range strings.SplitSeq(s, " ") {
		number, name, ok := strings.Cut(part, "/")
		number, implicit := strings.CutSuffix(number, "i")
		n, err := strconv.ParseUint(number, 10, 16)
		if !ok || err != nil || name == "" {
			return nil, fmt.Errorf("host list %q", s)
		}
		refs = append(refs, hostRef{name, uint16(n), implicit})
	}
	return refs, nil
}

// Touch stores when destinations last had mail. Times only move forward; it isn't told to other processes.
func (s *Store) Touch(ctx context.Context, used map[addr.Destination]time.Time) error {
	if len(used) == 0 {
		return nil
	}
	times := make(map[string]time.Time, len(used))
	names := make([]string, 0, len(used))
	for d, when := range used {
		names = append(names, d.String())
		times[d.String()] = when
	}
	slices.Sort(names)
	return s.update(ctx, "touch", func(t *work) error {
		for _, name := range names {
			err := t.exec(ctx, `INSERT INTO destination (name, born, used) VALUES (?1, ?2, ?3)
				ON CONFLICT (name) DO UPDATE SET used = excluded.used WHERE excluded.used > destination.used`,
				name, micros(t.now), micros(times[name]))
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// PutPolicy stores an MTA-STS policy in place of the domain's former one.
func (s *Store) PutPolicy(ctx context.Context, p Policy) error {
	return s.update(ctx, "put policy", func(t *work) error {
		err := t.exec(ctx, `INSERT INTO mtasts (domain, id, policy, fetched, ends) VALUES (?1, ?2, ?3, ?4, ?5)
			ON CONFLICT (domain) DO UPDATE
			SET id = excluded.id, policy = excluded.policy, fetched = excluded.fetched, ends = excluded.ends`,
			p.Domain.String(), clean(p.ID), clean(p.Text), micros(p.Fetched), micros(p.Until))
		if err != nil {
			return err
		}
		return t.changed(ctx, kindPolicy, p.Domain.String())
	})
}

// clean takes out what PostgreSQL can't keep in text.
func clean(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
