package store

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"sync"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Snapshot is all that a daemon holds in memory.
type Snapshot struct {
	Destinations []Entry // in no order
	Policies     []Policy
}

// Filter selects destinations; the zero Filter selects all. What is set is joined by "and".
type Filter struct {
	Failing bool         // the last look failed
	Pinned  bool         //
	Level   policy.Level // at least this level was demanded
}

// Load reads everything, as of one moment. Error: ErrDamaged, when what is there can't be understood.
func (s *Store) Load(ctx context.Context) (*Snapshot, error) {
	snap := &Snapshot{}
	err := s.view(ctx, "load", func(t tx) error {
		var err error
		if snap.Destinations, err = entries(ctx, t, ``); err != nil {
			return err
		}
		snap.Policies, err = policies(ctx, t, ``)
		return err
	})
	if err != nil {
		return nil, err
	}
	return snap, nil
}

// Get reads one destination. Error: ErrUnknown.
func (s *Store) Get(ctx context.Context, d addr.Destination) (Entry, error) {
	var found []Entry
	err := s.view(ctx, "get", func(t tx) error {
		var err error
		found, err = entries(ctx, t, ` WHERE name = ?1`, d.String())
		return err
	})
	if err != nil {
		return Entry{}, err
	}
	if len(found) == 0 {
		return Entry{}, fmt.Errorf("store: %s: %w", d, ErrUnknown)
	}
	return found[0], nil
}

// GetPolicy reads one MTA-STS policy. Error: ErrUnknown.
func (s *Store) GetPolicy(ctx context.Context, domain addr.Domain) (Policy, error) {
	var found []Policy
	err := s.view(ctx, "get policy", func(t tx) error {
		var err error
		found, err = policies(ctx, t, ` WHERE domain = ?1`, domain.String())
		return err
	})
	if err != nil {
		return Policy{}, err
	}
	if len(found) == 0 {
		return Policy{}, fmt.Errorf("store: MTA-STS policy of %s: %w", domain, ErrUnknown)
	}
	return found[0], nil
}

// List hands the selected destinations to each, sorted by name, until it returns an error, which List returns.
func (s *Store) List(ctx context.Context, f Filter, each func(Entry) error) error {
	where, args := ` WHERE 1 = 1`, []any(nil)
	if f.Failing {
		where += ` AND failures > 0`
	}
	if f.Pinned {
		where += ` AND pin_by <> ''`
	}
	if f.Level != "" {
		where += ` AND demand_level IN (''`
		for _, level := range policy.Levels() {
			if level.Rank() >= f.Level.Rank() {
				args = append(args, string(level))
				where += fmt.Sprintf(`, ?%d`, len(args))
			}
		}
		where += `) AND demand_level <> ''`
	}
	// each may take its time, so it runs after the transaction.
	var found []Entry
	err := s.view(ctx, "list", func(t tx) error {
		var err error
		found, err = entries(ctx, t, where+` ORDER BY name`, args...)
		return err
	})
	if err != nil {
		return err
	}
	for _, e := range found {
		if err := each(e); err != nil {
			return err
		}
	}
	return nil
}

const columns = `name, used, port, seen, ends, doc, hosts, demand_level, demand_min, demand_bits, demand_since,
	pin_by, pin_since, first_success, last_success, failing_since, failures, failing_days, failing_counted, next`

// source is what an Entry's assessment is put together from.
type source struct{ doc, hosts string }

func readEntry(r rows, e *Entry, from *source) error {
	var name, level, by string
	var used, port, seen, ends, minimum, bits, demanded, pinned, first, last, failing, failures, days, counted, next int64
	err := r.Scan(&name, &used, &port, &seen, &ends, &from.doc, &from.hosts, &level, &minimum, &bits, &demanded,
		&by, &pinned, &first, &last, &failing, &failures, &days, &counted, &next)
	if err != nil {
		return err
	}
	if e.Destination, err = addr.ParseDestination(name); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if level != "" {
		l, err := policy.ParseLevel(level)
		if err != nil {
			return fmt.Errorf("%w: demand of %s: %w", ErrDamaged, name, err)
		}
		e.Demand = Demand{l, policy.Version(minimum), int(bits), fromMicros(demanded)}
	}
	if by != "" {
		e.Pin = &Pin{fromMicros(pinned), by}
	}
	e.Port = uint16(port)
	e.Used, e.Next = fromMicros(used), fromMicros(next)
	e.Track = Track{fromMicros(first), fromMicros(last), fromMicros(failing), int(failures), int(days), fromMicros(counted)}
	e.Assessment.When, e.Assessment.Until = fromMicros(seen), fromMicros(ends)
	return nil
}

// few is up to how many hosts are asked for one by one.
const few = 100

// entries reads destinations and, once each, the hosts they need.
func entries(ctx context.Context, t tx, where string, args ...any) ([]Entry, error) {
	var count int
	condition, _, _ := strings.Cut(where, " ORDER")
	err := scan(ctx, t, func(r rows) error { return r.Scan(&count) }, `SELECT count(*) FROM destination`+condition, args...)
	if err != nil {
		return nil, err
	}
	a := assembler{assessments: map[string]policy.Assessment{}, lists: map[hostKey][]policy.Host{}, hosts: map[hostKey]policy.Host{}}
	found, sources := make([]Entry, 0, count), make([]source, 0, count)
	err = scan(ctx, t, func(r rows) error {
		var e Entry
		var from source
		if err := readEntry(r, &e, &from); err != nil {
			return err
		}
		if err := a.need(&from, e.Port); err != nil {
			return fmt.Errorf("%w: assessment of %s: %w", ErrDamaged, e.Destination, err)
		}
		found, sources = append(found, e), append(sources, from)
		return nil
	}, `SELECT `+columns+` FROM destination`+where, args...)
	if err != nil {
		return nil, err
	}
	if err := a.readHosts(ctx, t); err != nil {
		return nil, err
	}
	for i := range found {
		a.assemble(&found[i], sources[i])
	}
	return found, nil
}

// assembler puts entries together so that they share what is equal: thousands of destinations have one provider's
// hosts.
type assembler struct {
	assessments map[string]policy.Assessment // by document
	lists       map[hostKey][]policy.Host    // by host list and port
	hosts       map[hostKey]policy.Host      // needed ones
}

// need notes what an entry needs.
func (a *assembler) need(from *source, port uint16) error {
	if _, ok := a.assessments[from.doc]; !ok && from.doc != "" {
		var stored storedAssessment
		if err := json.Unmarshal([]byte(from.doc), &stored); err != nil {
			return err
		}
		a.assessments[from.doc] = stored.Assessment
	}
	list := hostKey{from.hosts, port}
	if _, ok := a.lists[list]; ok {
		return nil
	}
	a.lists[list] = nil
	refs, err := parseHostList(from.hosts)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		a.hosts[hostKey{ref.name, port}] = policy.Host{}
	}
	return nil
}

func (a *assembler) readHosts(ctx context.Context, t tx) error {
	needed := a.hosts
	d := newDecoder()
	read := func(r rows) error {
		var key hostKey
		var port int64
		var doc string
		if err := r.Scan(&key.name, &port, &doc); err != nil {
			return err
		}
		key.port = uint16(port)
		if _, ok := needed[key]; ok {
			d.decode(key, doc)
		}
		return nil
	}
	var err error
	if len(needed) > few {
		err = scan(ctx, t, read, `SELECT name, port, doc FROM host`)
	} else {
		for key := range needed {
			if err = scan(ctx, t, read, `SELECT name, port, doc FROM host WHERE name = ?1 AND port = ?2`, key.name, int64(key.port)); err != nil {
				break
			}
		}
	}
	hosts, decodeErr := d.wait()
	if err != nil {
		return err
	}
	if decodeErr != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, decodeErr)
	}
	a.hosts = hosts
	for list := range a.lists {
		a.lists[list] = a.list(list)
	}
	return nil
}

// list returns the hosts of a list in their order, nil when one isn't stored any more.
func (a *assembler) list(list hostKey) []policy.Host {
	refs, _ := parseHostList(list.name) // need has seen that it can be parsed
	hosts := make([]policy.Host, 0, len(refs))
	for _, ref := range refs {
		h, ok := a.hosts[hostKey{ref.name, list.port}]
		if !ok {
			return nil
		}
		h.Preference, h.Implicit = ref.preference, ref.implicit
		hosts = append(hosts, h)
	}
	return hosts
}

func (a *assembler) assemble(e *Entry, from source) {
	when, until := e.Assessment.When, e.Assessment.Until
	e.Assessment = policy.Assessment{}
	hosts := a.lists[hostKey{from.hosts, e.Port}]
	// An assessment whose host was pruned is none: it ended long ago.
	if from.doc == "" || from.hosts != "" && hosts == nil {
		return
	}
	e.Assessment = a.assessments[from.doc]
	e.Assessment.Destination, e.Assessment.When, e.Assessment.Until = e.Destination, when, until
	if from.hosts != "" {
		e.Assessment.Hosts = hosts
	}
}

// decoder decodes documents of hosts on all processors.
type decoder struct {
	jobs  chan []hostDoc
	batch []hostDoc
	group sync.WaitGroup

	mu    sync.Mutex
	hosts map[hostKey]policy.Host
	names interner
	err   error
}

type hostDoc struct {
	key hostKey
	doc string
}

const decodeBatch = 256

func newDecoder() *decoder {
	d := &decoder{jobs: make(chan []hostDoc, 4), hosts: map[hostKey]policy.Host{}, names: interner{}}
	for range runtime.GOMAXPROCS(0) {
		d.group.Go(d.work)
	}
	return d
}

func (d *decoder) decode(key hostKey, doc string) {
	d.batch = append(d.batch, hostDoc{key, doc})
	if len(d.batch) == decodeBatch {
		d.jobs <- d.batch
		d.batch = nil
	}
}

func (d *decoder) work() {
	for batch := range d.jobs {
		hosts := make([]policy.Host, len(batch))
		var failed error
		for i, job := range batch {
			h, err := decodeHost(job)
			if err != nil {
				failed = fmt.Errorf("mail host %s: %w", job.key.name, err)
			}
			hosts[i] = h
		}
		d.mu.Lock()
		for i, job := range batch {
			d.names.host(&hosts[i])
			d.hosts[job.key] = hosts[i]
		}
		if d.err == nil {
			d.err = failed
		}
		d.mu.Unlock()
	}
}

func decodeHost(job hostDoc) (policy.Host, error) {
	var stored storedHost
	if err := json.Unmarshal([]byte(job.doc), &stored); err != nil {
		return policy.Host{}, err
	}
	var err error
	stored.Host.Name, err = addr.ParseDomain(job.key.name)
	return stored.Host, err
}

func (d *decoder) wait() (map[hostKey]policy.Host, error) {
	d.jobs <- d.batch
	close(d.jobs)
	d.group.Wait()
	return d.hosts, d.err
}

// interner keeps one copy of texts that many hosts share.
type interner map[string]string

func (in interner) text(s *string) {
	if kept, ok := in[*s]; ok {
		*s = kept
	} else {
		in[*s] = *s
	}
}

func (in interner) host(h *policy.Host) {
	in.text((*string)(&h.DANE))
	in.text(&h.DANEDetail)
	for i := range h.Observations {
		o := &h.Observations[i]
		in.text((*string)(&o.Outcome))
		in.text((*string)(&o.Stage))
		in.text(&o.Cipher)
		in.text(&o.Exchange)
		in.text((*string)(&o.Trust))
		in.text(&o.TrustDetail)
		in.text((*string)(&o.DANE))
		for j := range o.Extensions {
			in.text(&o.Extensions[j])
		}
		for j := range o.Chain {
			c := &o.Chain[j]
			in.text(&c.Issuer)
			in.text(&c.Key)
			in.text(&c.Signature)
			if j > 0 { // an authority's
				in.text(&c.Subject)
				in.text(&c.Fingerprint)
			}
		}
	}
}

func policies(ctx context.Context, t tx, where string, args ...any) ([]Policy, error) {
	var found []Policy
	err := scan(ctx, t, func(r rows) error {
		var p Policy
		var domain string
		var fetched, ends int64
		err := r.Scan(&domain, &p.ID, &p.Text, &fetched, &ends)
		if err != nil {
			return err
		}
		if p.Domain, err = addr.ParseDomain(domain); err != nil {
			return fmt.Errorf("%w: MTA-STS policy: %w", ErrDamaged, err)
		}
		p.Fetched, p.Until = fromMicros(fetched), fromMicros(ends)
		found = append(found, p)
		return nil
	}, `SELECT domain, id, policy, fetched, ends FROM mtasts`+where, args...)
	return found, err
}
