package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback/keyring"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

// keyRow is a key, and a line of keys --json. tlsonly-keys(8) documents every
// field.
type keyRow struct {
	Address     addr.Address  `json:"address"`
	Method      policy.Method `json:"method"`
	State       string        `json:"state"` // a store.KeyState, or "file"
	Used        bool          `json:"used"`
	Fingerprint string        `json:"fingerprint,omitempty"`
	Algorithm   string        `json:"algorithm,omitempty"`
	Created     time.Time     `json:"created,omitzero"`
	Expires     time.Time     `json:"expires,omitzero"`
	Source      string        `json:"source,omitempty"`
	Found       time.Time     `json:"found,omitzero"`
	Seen        time.Time     `json:"seen,omitzero"`
	Problem     string        `json:"problem,omitempty"` // why it can't be used
}

// keys shows and changes the keys of recipients, beside a running daemon.
func (p *program) keys(ctx context.Context, args []string) int {
	fs := flag.NewFlagSet("keys", flag.ContinueOnError)
	file := configFlag(fs)
	asJSON := fs.Bool("json", false, "answer in JSON, an object a line and key")
	method := fs.String("method", "", "only keys for `METHOD`: openpgp or smime")
	fingerprint := fs.String("fingerprint", "", "trust, forget: only the key with this `FINGERPRINT`")
	waiting := fs.Bool("waiting", false, "list: only those that wait until they are trusted")
	rest, code, ok := p.parse(fs, args)
	if !ok {
		return code
	}
	action := "list"
	if len(rest) > 0 {
		action, rest = rest[0], rest[1:]
	}
	want, known := map[string]int{"list": 0, "show": 1, "add": 2, "fetch": 1, "trust": 1, "forget": 1}[action]
	switch {
	case !known:
		return p.fail("keys %s: want list, show, add, fetch, trust or forget", action)
	case len(rest) != want && want == 0:
		return p.fail("keys list takes no arguments; keys show ADDRESS shows one's")
	case len(rest) != want && want == 2:
		return p.fail("keys add needs an address and a file, - for standard input")
	case len(rest) != want:
		return p.fail("keys %s needs one address", action)
	case *fingerprint != "" && action != "trust" && action != "forget":
		return p.fail("--fingerprint is for trust and forget")
	case *waiting && action != "list":
		return p.fail("--waiting is for list")
	}
	methods := policy.Methods()
	if *method != "" {
		if !slices.Contains(methods, policy.Method(*method)) {
			return p.fail("--method %q: want openpgp or smime", *method)
		}
		methods = []policy.Method{policy.Method(*method)}
	}
	var a addr.Address
	if want > 0 {
		var err error
		if a, err = addr.ParsePath(rest[0]); err != nil || a.IsNull() || a.Domain.IsZero() {
			return p.fail("%q: want an address, local@domain", rest[0])
		}
	}
	c, ok := p.load(*file, false)
	if !ok {
		return exitUsage
	}
	if action != "add" { // whose file the daemon may not be able to read
		if code, done := p.asDaemon(ctx, c, *file, append([]string{"keys"}, args...)...); done {
			return code
		}
	}
	s, err := openStore(ctx, c)
	if err != nil {
		return p.notOpened(err)
	}
	defer s.Close()
	rs, err := newRings(c, methods, s, slog.New(slog.DiscardHandler), time.Now, nil)
	if err != nil {
		return p.fail("%v", err)
	}
	k := keysCommand{p, rs, s, strings.ToUpper(strings.ReplaceAll(*fingerprint, " ", "")), *asJSON}
	switch action {
	case "list":
		return k.list(ctx, *waiting)
	case "show":
		return k.show(ctx, a)
	case "add":
		return k.add(ctx, a, rest[1])
	case "fetch":
		return k.fetch(ctx, a)
	case "trust":
		return k.trust(ctx, a)
	}
	return k.forget(ctx, a)
}

// keysCommand is what its actions work with.
type keysCommand struct {
	*program
	rings       rings
	store       *store.Store
	fingerprint string // "": any
	asJSON      bool
}

// rows returns all keys, or those of one address.
func (k keysCommand) rows(ctx context.Context, of addr.Address) ([]keyRow, error) {
	now := time.Now()
	var rows []keyRow
	for _, r := range k.rings {
		filed := map[addr.Address]bool{}
		for _, a := range r.Files() {
			if !of.IsNull() && a != of.Fold() {
				continue
			}
			f, is, err := r.Filed(a)
			if !is {
				continue
			}
			filed[a] = true
			rows = append(rows, rowOf(a, r.Method(), "file", f, err, err == nil))
		}
		method := r.Method()
		if of.IsNull() {
			method = "" // of all
		}
		kept, err := k.store.Keys(ctx, method, of)
		if err != nil {
			return nil, err
		}
		for _, key := range kept {
			if key.Method != r.Method() {
				continue
			}
			f, err := r.Describe(key, now)
			row := rowOf(key.Address, key.Method, string(key.State), f, err, err == nil && key.State.Used() && !filed[key.Address])
			row.Fingerprint, row.Source, row.Found, row.Seen = key.Fingerprint, key.Source, key.Found, key.Seen
			rows = append(rows, row)
		}
	}
	slices.SortStableFunc(rows, func(x, y keyRow) int { return strings.Compare(x.Address.String(), y.Address.String()) })
	return rows, nil
}

func rowOf(a addr.Address, method policy.Method, state string, f keyring.Found, err error, used bool) keyRow {
	row := keyRow{Address: a, Method: method, State: state, Used: used, Fingerprint: f.Fingerprint, Algorithm: f.Algorithm,
		Created: f.Created, Expires: f.Expires, Source: f.Source}
	if err != nil {
		row.Problem = oneLine(err.Error())
	}
	return row
}

func (k keysCommand) list(ctx context.Context, waiting bool) int {
	rows, err := k.rows(ctx, addr.Address{})
	if err != nil {
		return k.away(err)
	}
	if waiting {
		rows = slices.DeleteFunc(rows, func(r keyRow) bool { return r.State != string(store.KeyWaiting) })
	}
	code := k.problems()
	if k.asJSON {
		k.encode(rows)
		return code
	}
	now := time.Now()
	t := newTable(k.stdout, "ADDRESS", "METHOD", "STATE", "USED", "FINGERPRINT", "EXPIRES", "SEEN", "SOURCE")
	for _, r := range rows {
		used, expires := "no", "never"
		if r.Used {
			used = "yes"
		}
		if !r.Expires.IsZero() {
			expires = r.Expires.Local().Format(time.DateOnly)
		}
		t.row(r.Address.String(), string(r.Method), r.State, used, dash(r.Fingerprint), expires, ago(now, r.Seen), dash(r.Source))
	}
	t.flush()
	return code
}

// problems prints what is wrong with files, which may have had a key.
func (k keysCommand) problems() int {
	code := exitOK
	for _, r := range k.rings {
		for _, err := range r.Problems() {
			fmt.Fprintf(k.stderr, "tlsonly: %s: %v\n", r.Method(), err)
			code = exitUnknown
		}
	}
	return code
}

func (k keysCommand) show(ctx context.Context, a addr.Address) int {
	rows, err := k.rows(ctx, a)
	if err != nil {
		return k.away(err)
	}
	code := k.problems()
	k.print(rows)
	switch {
	case slices.ContainsFunc(rows, func(r keyRow) bool { return r.Used }):
		return exitOK
	case code != exitOK:
		return code
	case len(rows) == 0:
		fmt.Fprintf(k.stderr, "tlsonly: no key of %s is known here; \"tlsonly keys fetch %s\" looks where it may be published\n", a, a)
	}
	return exitNo
}

// print shows keys one below the other.
func (k keysCommand) print(rows []keyRow) {
	if k.asJSON {
		k.encode(rows)
		return
	}
	line := func(key, value string) {
		if value != "" && value != "-" {
			fmt.Fprintf(k.stdout, "%-12s %s\n", key, clean(value))
		}
	}
	for i, r := range rows {
		if i > 0 {
			fmt.Fprintln(k.stdout)
		}
		state := r.State
		switch {
		case r.Used:
			state += ", used"
		case r.State == string(store.KeyWaiting):
			state += fmt.Sprintf(", not used; tlsonly keys trust %s --fingerprint %s", r.Address, r.Fingerprint)
		default:
			state += ", not used"
		}
		line("address", r.Address.String())
		line("method", string(r.Method))
		line("state", state)
		line("fingerprint", r.Fingerprint)
		line("algorithm", r.Algorithm)
		line("created", stamp(r.Created))
		line("expires", stamp(r.Expires))
		line("source", r.Source)
		line("found", stamp(r.Found))
		line("seen", stamp(r.Seen))
		line("problem", r.Problem)
	}
}

func (k keysCommand) encode(rows []keyRow) {
	enc := json.NewEncoder(k.stdout)
	for _, r := range rows {
		_ = enc.Encode(r)
	}
}

func (k keysCommand) away(err error) int {
	fmt.Fprintf(k.stderr, "tlsonly: %v\n", err)
	return exitUnknown
}

// maxKeyFile is how long a file may be that is added, in octets.
const maxKeyFile = 16 << 20

func (k keysCommand) add(ctx context.Context, a addr.Address, name string) int {
	var text []byte
	var err error
	source := "standard input"
	if name == "-" {
		text, err = io.ReadAll(io.LimitReader(k.stdin, maxKeyFile+1))
	} else {
		var f *os.File
		if f, err = os.Open(name); err == nil {
			text, err = io.ReadAll(io.LimitReader(f, maxKeyFile+1))
			f.Close()
		}
		if source, _ = filepath.Abs(name); source == "" {
			source = name
		}
	}
	switch {
	case err != nil:
		return k.fail("%v", err)
	case len(text) > maxKeyFile:
		return k.fail("%s: longer than %d MiB", source, maxKeyFile>>20)
	}
	var why []error
	for _, r := range k.rings {
		if _, err := r.Read(a, text, source); err != nil {
			why = append(why, fmt.Errorf("%s: %w", r.Method(), err))
			continue
		}
		if _, err := r.Add(ctx, a, text, source); err != nil {
			return k.away(err)
		}
		if _, is, _ := r.Filed(a); is {
			fmt.Fprintf(k.stderr, "tlsonly: kept, but a file has a key of %s, too, which wins\n", a)
		}
		rows, err := k.rows(ctx, a)
		if err != nil {
			return k.away(err)
		}
		k.print(slices.DeleteFunc(rows, func(row keyRow) bool { return row.Method != r.Method() }))
		return exitOK
	}
	return k.fail("%s", oneLine(errors.Join(why...).Error()))
}

func (k keysCommand) fetch(ctx context.Context, a addr.Address) int {
	code, found := exitNo, false
	for _, r := range k.rings {
		_, none, err := r.Fetch(ctx, a)
		switch {
		case none:
			fmt.Fprintf(k.stderr, "tlsonly: %s: %s\n", r.Method(), oneLine(err.Error()))
		case err != nil:
			fmt.Fprintf(k.stderr, "tlsonly: %s: not known: %s\n", r.Method(), oneLine(err.Error()))
			code = exitUnknown
		default:
			found = true
		}
	}
	rows, err := k.rows(ctx, a)
	if err != nil {
		return k.away(err)
	}
	k.print(rows)
	if found && slices.ContainsFunc(rows, func(r keyRow) bool { return r.Used }) {
		return exitOK
	}
	return code
}

func (k keysCommand) trust(ctx context.Context, a addr.Address) int {
	// Of several methods it is that of the key that waits.
	candidates := func(state ...store.KeyState) (found rings, err error) {
		for _, r := range k.rings {
			kept, err := k.store.Keys(ctx, r.Method(), a)
			if err != nil {
				return nil, err
			}
			if slices.ContainsFunc(kept, func(key store.Key) bool {
				return slices.Contains(state, key.State) && (k.fingerprint == "" || key.Fingerprint == k.fingerprint)
			}) {
				found = append(found, r)
			}
		}
		return found, nil
	}
	found, err := candidates(store.KeyWaiting)
	if err == nil && len(found) == 0 {
		found, err = candidates(store.KeyFound, store.KeyGone, store.KeyTrusted)
	}
	switch {
	case err != nil:
		return k.away(err)
	case len(found) == 0:
		fmt.Fprintf(k.stderr, "tlsonly: no such key of %s was found published\n", a)
		return exitNo
	case len(found) > 1:
		return k.fail("%s has keys for several methods: say which with --method or --fingerprint", a)
	}
	if _, err := found[0].Trust(ctx, a, k.fingerprint); err != nil {
		return k.changed(err)
	}
	rows, err := k.rows(ctx, a)
	if err != nil {
		return k.away(err)
	}
	k.print(slices.DeleteFunc(rows, func(r keyRow) bool { return r.State != string(store.KeyTrusted) || r.Method != found[0].Method() }))
	return exitOK
}

func (k keysCommand) forget(ctx context.Context, a addr.Address) int {
	done := 0
	for _, r := range k.rings {
		dropped, err := r.Drop(ctx, a, k.fingerprint)
		if err != nil && !errors.Is(err, keyring.ErrNothing) {
			return k.away(err)
		}
		done += len(dropped)
		if f, is, _ := r.Filed(a); is {
			fmt.Fprintf(k.stderr, "tlsonly: a file has an %s key of %s still, and only you remove that: %s\n", r.Method(), a, dash(f.Source))
		}
		for _, key := range dropped {
			if !k.asJSON {
				fmt.Fprintf(k.stdout, "%s: %s key %s forgotten\n", a, r.Method(), key.Fingerprint)
			}
		}
	}
	if done == 0 {
		fmt.Fprintf(k.stderr, "tlsonly: no such key of %s is kept\n", a)
		return exitNo
	}
	return exitOK
}

// changed is the exit status of a change that failed.
func (k keysCommand) changed(err error) int {
	if errors.Is(err, keyring.ErrNothing) {
		fmt.Fprintf(k.stderr, "tlsonly: %v\n", err)
		return exitNo
	}
	return k.away(err)
}
