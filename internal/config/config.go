// Package config reads the daemon's one configuration file. It answers what the file asks for, with every default
// filled in, or everything that is wrong with it, line by line: a program that enforces must not start on a typo.
//
// The whole file that the manual describes is known. A key whose work this version doesn't do is checked like any
// other and then refused, unless its value says what this version does anyway: nothing is accepted and ignored.
// Keys are taken only as they are written in the manual; TOML tells On_Fail from on_fail, and so does this.
//
// It decides nothing about mail (package rules does) and opens nothing but the file: that an address can be bound
// or a resolver answers is found out by who uses it. Besides package rules only this one knows the form of the
// file. TOML 1.0 and 1.1 are read.
//
// A Config is not changed after it was made; to reload, the caller loads another and keeps the old one if that
// fails.
package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config/value"
	"tlsonly/internal/contract"
	"tlsonly/internal/inbound"
	"tlsonly/internal/place"
	"tlsonly/rules"
)

// DefaultPath is where the file is when no other is named.
const DefaultPath = place.Config

// maxSize is far above what 100,000 rules need.
const maxSize = 16 << 20

// Config is what the file asks for. Default gives what an empty file does.
type Config struct {
	Log        Log
	Milter     Milter
	DNS        DNS
	Probe      Probe
	Cache      Cache
	Socketmap  Socketmap
	Senders    Senders
	HTTP       HTTP
	Binding    Binding
	Store      Store
	Monitor    Monitor
	Notify     Notify
	Forwarding Forwarding
	Relay      Relay
	Doctor     Doctor
	Fallback   Fallback
	OpenPGP    OpenPGP
	SMIME      SMIME
	Rules      *rules.Set   // never nil
	Inbound    *inbound.Set // never nil

	name string // of the file
}

// Log is the table [log].
type Log struct {
	JSON  bool // an object a line
	Level slog.Level
	Hash  bool // no local part of an address and no login is written, but a hash
}

// Milter is the table [milter].
type Milter struct {
	Listen        Endpoint
	Deadline      time.Duration // a recipient is answered by then
	Help          string        // a URL added to refusals, or ""
	Headers       bool          // look at headers too, to refuse "TLS-Required: no"
	Attest        contract.Attest
	RedactBounces bool // bounces of protected mail carry headers only
	InboundHeader bool // TLS-Only-Inbound is added to what comes from elsewhere
	Connections   int  // served at the same time, more wait
}

// DNS is the table [dns].
type DNS struct {
	Resolver      string // "address:port"; "" is the first of /etc/resolv.conf
	DNSSEC        string // "auto", "on" or "off"
	TrustResolver bool   // believe AD from a resolver that isn't on this host, too
}

// Probe is the table [probe].
type Probe struct {
	HELO        string // "" is the host's name
	Port        uint16
	Timeout     time.Duration // one host, connect to QUIT
	Confirm     time.Duration // between two probes that a refusal takes
	Concurrency int           // probes under way at once
	PerHost     int           // of them to one MX host
	CAFile      string        // roots that certificates of mail and policy hosts are judged by; "" is the system's
	PreferIPv6  bool          // which addresses of a host are tried first
}

// Cache is the table [cache]: how long an answer serves.
type Cache struct {
	Success time.Duration
	Failure time.Duration
	Unknown time.Duration
}

// Socketmap is the table [socketmap].
type Socketmap struct {
	Listen      Endpoint // zero: off
	Postfix     string   // the oldest version that asks: "3.7"
	Connections int      // served at the same time, more are closed at once
}

// Senders is the table [senders]: the forms in which senders come.
type Senders struct {
	// Delimiter holds the characters that begin an address extension; "auto":
	// those of the Postfix on this host.
	Delimiter string
	SRS       addr.SRS // whose mail is that under a rewritten sender
}

// forms are those that rules go by until the MTA has been asked.
func (s Senders) forms() addr.Forms {
	f := addr.Forms{Delimiter: s.Delimiter, SRS: s.SRS}
	if s.Delimiter == "auto" {
		f.Delimiter = ""
	}
	return f
}

// WithDelimiter returns the configuration with the MTA's delimiters of address
// extensions in place of [senders] delimiter = "auto".
func (c *Config) WithDelimiter(chars string) *Config {
	if c.Senders.Delimiter != "auto" {
		return c
	}
	other, forms := *c, c.Senders.forms()
	forms.Delimiter = chars
	other.Rules = c.Rules.With(forms)
	return &other
}

// Binding is the table [binding].
type Binding struct {
	Senders contract.Senders
	Others  contract.Others
	Bounces contract.Bounces
	OnLost  contract.OnLost
	Keep    time.Duration // how long accepted mail may wait: what binds it lasts as long
	Watch   time.Duration // how often the daemon looks whether the MTA is bound; 0: never
}

// KnowsTLSRPT reports whether every Postfix that asks knows the attributes for TLS reports (RFC 8460), which came with 3.10.
func (s Socketmap) KnowsTLSRPT() bool {
	major, minor, _ := strings.Cut(s.Postfix, ".")
	a, _ := strconv.Atoi(major)
	b, _ := strconv.Atoi(minor)
	return a > 3 || a == 3 && b >= 10
}

// Store is the table [store].
type Store struct {
	URL       string        // "sqlite:///path" or "postgres://…"
	Retention time.Duration // of history
}

// Monitor is the table [monitor].
type Monitor struct {
	Every  time.Duration // every known destination is looked at again this often
	Forget time.Duration // what had no mail for so long is forgotten
}

// Notify is the table [notify]: who is told of changes.
type Notify struct {
	Command []string     // a program, absolute, and its arguments; none: no command
	Mail    addr.Address // null: no mail
}

// Forwarding is the table [forwarding]: where forwards stand.
type Forwarding struct {
	Postfix  string   // "auto", "off" or a configuration folder: its own tables are read
	Postconf string   // where Postfix's commands are: a folder, or postconf itself; "": where they usually are
	Sendmail string   // "auto", "off" or a sendmail.cf: the files it names are read
	Aliases  []string // where no MTA says: alias files, virtual tables
	Virtual  []string
	Forward  []string // per-user files; ~ is the user's home directory
	Sieve    []string // scripts: %d domain, %n local part, %u both
	// Unreadable is what becomes of mail to who may have a .forward that can't
	// be read: "local", delivered, and held by the MTA if it is sent on, or
	// "defer".
	Unreadable contract.Unreadable
	local      map[addr.Domain]bool
}

// WithPostfix returns the configuration with a Postfix's configuration folder in place of [forwarding] postfix = "auto".
func (c *Config) WithPostfix(directory string) *Config {
	other := *c
	other.Forwarding.Postfix = directory
	return &other
}

// IsLocal reports whether mail to d is delivered here; that to domains below it isn't.
func (f Forwarding) IsLocal(d addr.Domain) bool { return f.local[d] }

// Sources returns f without what is delivered here: what is read once, at the start.
func (f Forwarding) Sources() Forwarding {
	f.local = nil
	return f
}

// Domains returns the domains that are delivered here, sorted.
func (f Forwarding) Domains() []addr.Domain {
	return slices.SortedFunc(maps.Keys(f.local), func(a, b addr.Domain) int { return strings.Compare(a.String(), b.String()) })
}

// Default returns what an empty file asks for: no rules, every other setting as the manual says.
func Default() *Config {
	return &Config{
		Milter: Milter{
			Listen:   Endpoint{Network: "tcp", Address: "127.0.0.1:8689"},
			Deadline: 20 * time.Second,
			Attest:   contract.AttestWarn, RedactBounces: true, Connections: 2000,
		},
		DNS:       DNS{DNSSEC: "auto"},
		Probe:     Probe{Port: 25, Timeout: 15 * time.Second, Confirm: 4 * time.Second, Concurrency: 64, PerHost: 1},
		Socketmap: Socketmap{Endpoint{Network: "tcp", Address: "127.0.0.1:8690"}, "3.7", 10000},
		Senders:   Senders{Delimiter: "auto", SRS: addr.SRSIgnore},
		HTTP:      HTTP{Listen: "127.0.0.1:8691"},
		Binding:   Binding{Senders: contract.SendersMap, Others: contract.OthersPinned, Bounces: contract.BouncesEncrypt, OnLost: contract.OnLostDefer, Keep: 6 * 24 * time.Hour, Watch: 5 * time.Minute},
		Store:     Store{URL: "sqlite://" + place.Data + "/tlsonly.db", Retention: 2 * 365 * 24 * time.Hour},
		Monitor:   Monitor{Every: 24 * time.Hour, Forget: 90 * 24 * time.Hour},
		Cache:     Cache{Success: 24 * time.Hour, Failure: 15 * time.Minute, Unknown: time.Minute},
		Forwarding: Forwarding{Postfix: "auto", Sendmail: "auto", Aliases: []string{place.Aliases}, Forward: []string{"~/.forward"},
			Unreadable: contract.UnreadableLocal},
		Fallback: Fallback{Subject: "[...]"},
		OpenPGP:  defaultOpenPGP(),
		SMIME:    defaultSMIME(),
		Rules:    rules.New(nil),
		Inbound:  inbound.New(nil),
	}
}

// Fault is something wrong on one line of the file, or, from Warnings, something odd.
type Fault struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Text string `json:"text"`
}

// String returns "FILE:LINE: text".
func (f Fault) String() string { return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.Text) }

// Error is everything wrong with a file, sorted by line. The caller starts nothing, or keeps what it has.
type Error struct{ Faults []Fault }

// Error returns one line a fault.
func (e *Error) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// Load reads the file at path. The error is an *Error when it could be read and is wrong.
func Load(path string) (*Config, error) {
	data, err := Read(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data, time.Now())
}

// Read reads the file for Parse, which refuses one that is too long.
func Read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return data, nil
}

// Parse reads data as the file called name. The location of now says which time zone a rule's last day is meant in.
// Every error is an *Error.
func Parse(name string, data []byte, now time.Time) (*Config, error) {
	if len(data) > maxSize {
		return nil, &Error{[]Fault{{name, 1, fmt.Sprintf("larger than %d MiB", maxSize>>20)}}}
	}
	root, err := parseTree(string(data))
	if wrong := (*value.Error)(nil); errors.As(err, &wrong) {
		return nil, &Error{[]Fault{{name, wrong.Line, wrong.Text}}}
	}
	c, faults := build(root, now)
	if len(faults) > 0 {
		return nil, &Error{named(name, faults)}
	}
	c.name = name
	return c, nil
}

// named sorts faults and says of which file they are.
func named(name string, faults []value.Fault) []Fault {
	value.Sort(faults)
	fs := make([]Fault, len(faults))
	for i, f := range faults {
		fs[i] = Fault{name, f.Line, f.Text}
	}
	return fs
}
