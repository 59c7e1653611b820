package config

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config/value"
	"tlsonly/internal/contract"
	"tlsonly/internal/inbound"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// table reads one table of the file.
type table struct {
	keys []string // that it can have; none: any
	read func(c *Config, t value.Table) []value.Fault
	// later is the header of a table that is documented for a later version and
	// not read; "" for none.
	later string
}

// tables says what each table of the file is.
func tables() map[string]table {
	return withFallback(map[string]table{
		"log": section("log", value.Keys[Config]{
			"format":    value.Into(func(c *Config) *bool { return &c.Log.JSON }, readChoice("text", "json")),
			"level":     value.Into(func(c *Config) *slog.Level { return &c.Log.Level }, readLogLevel),
			"addresses": value.Into(func(c *Config) *bool { return &c.Log.Hash }, readChoice("plain", "hash")),
		}),
		"milter": section("milter", value.Keys[Config]{
			"listen":         value.Into(func(c *Config) *Endpoint { return &c.Milter.Listen }, readEndpoint),
			"deadline":       value.Into(func(c *Config) *time.Duration { return &c.Milter.Deadline }, readDeadline),
			"attest":         value.Into(func(c *Config) *contract.Attest { return &c.Milter.Attest }, value.Word(contract.AttestOff, contract.AttestWarn, contract.AttestEnforce)),
			"redact_bounces": value.Into(func(c *Config) *bool { return &c.Milter.RedactBounces }, value.Bool),
			"inbound_header": value.Into(func(c *Config) *bool { return &c.Milter.InboundHeader }, value.Bool),
			"headers":        value.Into(func(c *Config) *bool { return &c.Milter.Headers }, value.Bool),
			"help":           value.Into(func(c *Config) *string { return &c.Milter.Help }, value.URL),
			"connections":    value.Into(func(c *Config) *int { return &c.Milter.Connections }, value.Int(1, 50000)),
		}),
		"socketmap": section("socketmap", value.Keys[Config]{
			"listen":      value.Into(func(c *Config) *Endpoint { return &c.Socketmap.Listen }, orEmpty(readEndpoint)),
			"postfix":     value.Into(func(c *Config) *string { return &c.Socketmap.Postfix }, readMTAVersion),
			"connections": value.Into(func(c *Config) *int { return &c.Socketmap.Connections }, value.Int(1, 50000)),
		}),
		"http": section("http", value.Keys[Config]{
			"listen":       value.Into(func(c *Config) *string { return &c.HTTP.Listen }, orEmpty(readHostPort)),
			"password":     value.Into(func(c *Config) *string { return &c.HTTP.Password }, orEmpty(readHash)),
			"cert":         value.Into(func(c *Config) *string { return &c.HTTP.Cert }, orEmpty(readFile)),
			"key":          value.Into(func(c *Config) *string { return &c.HTTP.Key }, orEmpty(readFile)),
			"behind_proxy": value.Into(func(c *Config) *bool { return &c.HTTP.BehindProxy }, value.Bool),
		}),
		"dns": section("dns", value.Keys[Config]{
			"resolver":       value.Into(func(c *Config) *string { return &c.DNS.Resolver }, orEmpty(readResolver)),
			"dnssec":         value.Into(func(c *Config) *string { return &c.DNS.DNSSEC }, value.Word("auto", "on", "off")),
			"trust_resolver": value.Into(func(c *Config) *bool { return &c.DNS.TrustResolver }, value.Bool),
		}),
		"probe": section("probe", value.Keys[Config]{
			"helo":        value.Into(func(c *Config) *string { return &c.Probe.HELO }, orEmpty(readHELO)),
			"port":        value.Into(func(c *Config) *uint16 { return &c.Probe.Port }, readPort),
			"timeout":     value.Into(func(c *Config) *time.Duration { return &c.Probe.Timeout }, value.Duration(time.Second, 2*time.Minute)),
			"confirm":     value.Into(func(c *Config) *time.Duration { return &c.Probe.Confirm }, value.Duration(time.Millisecond, time.Minute)),
			"concurrency": value.Into(func(c *Config) *int { return &c.Probe.Concurrency }, value.Int(1, 10000)),
			"per_host":    value.Into(func(c *Config) *int { return &c.Probe.PerHost }, value.Int(1, 100)),
			"ca_file":     value.Into(func(c *Config) *string { return &c.Probe.CAFile }, orEmpty(readPath)),
			"prefer":      value.Into(func(c *Config) *bool { return &c.Probe.PreferIPv6 }, readChoice("ipv4", "ipv6")),
		}),
		"cache": section("cache", value.Keys[Config]{
			"success": value.Into(func(c *Config) *time.Duration { return &c.Cache.Success }, readServing),
			"failure": value.Into(func(c *Config) *time.Duration { return &c.Cache.Failure }, readServing),
			"unknown": value.Into(func(c *Config) *time.Duration { return &c.Cache.Unknown }, readServing),
		}),
		"store": section("store", value.Keys[Config]{
			"url":       value.Into(func(c *Config) *string { return &c.Store.URL }, readStore),
			"retention": value.Into(func(c *Config) *time.Duration { return &c.Store.Retention }, readDays),
		}),
		"binding": section("binding", value.Keys[Config]{
			"senders": value.Into(func(c *Config) *contract.Senders { return &c.Binding.Senders }, value.Word(contract.SendersMap, contract.SendersTable)),
			"others":  value.Into(func(c *Config) *contract.Others { return &c.Binding.Others }, value.Word(contract.OthersPinned, contract.OthersPublished, contract.OthersOff)),
			"bounces": value.Into(func(c *Config) *contract.Bounces { return &c.Binding.Bounces }, value.Word(contract.BouncesEncrypt, contract.BouncesOthers)),
			"on_lost": value.Into(func(c *Config) *contract.OnLost { return &c.Binding.OnLost }, value.Word(contract.OnLostDefer, contract.OnLostBounce)),
			"keep":    value.Into(func(c *Config) *time.Duration { return &c.Binding.Keep }, readDays),
			"watch":   value.Into(func(c *Config) *time.Duration { return &c.Binding.Watch }, readWatch),
		}),
		"senders": section("senders", value.Keys[Config]{
			"delimiter": value.Into(func(c *Config) *string { return &c.Senders.Delimiter }, readDelimiter),
			"srs":       value.Into(func(c *Config) *addr.SRS { return &c.Senders.SRS }, value.Word(addr.SRSIgnore, addr.SRSMatch)),
		}),
		"monitor": section("monitor", value.Keys[Config]{
			"every":  value.Into(func(c *Config) *time.Duration { return &c.Monitor.Every }, value.Duration(time.Minute, 30*24*time.Hour)),
			"forget": value.Into(func(c *Config) *time.Duration { return &c.Monitor.Forget }, readDays),
		}),
		"notify": section("notify", value.Keys[Config]{
			"command": value.Into(func(c *Config) *[]string { return &c.Notify.Command }, readCommand),
			"mail":    value.Into(func(c *Config) *addr.Address { return &c.Notify.Mail }, orEmpty(readMail)),
		}),
		"forwarding": section("forwarding", value.Keys[Config]{
			"postfix":  value.Into(func(c *Config) *string { return &c.Forwarding.Postfix }, readPostfix),
			"postconf": value.Into(func(c *Config) *string { return &c.Forwarding.Postconf }, orEmpty(readPath)),
			"sendmail": value.Into(func(c *Config) *string { return &c.Forwarding.Sendmail }, readPostfix),
			"aliases":  value.Into(func(c *Config) *[]string { return &c.Forwarding.Aliases }, value.List(readPath)),
			"virtual":  value.Into(func(c *Config) *[]string { return &c.Forwarding.Virtual }, value.List(readPath)),
			"forward":  value.Into(func(c *Config) *[]string { return &c.Forwarding.Forward }, value.List(readPath)),
			"sieve":    value.Into(func(c *Config) *[]string { return &c.Forwarding.Sieve }, value.List(readPath)),
			"local":    value.Into(func(c *Config) *map[addr.Domain]bool { return &c.Forwarding.local }, readDomains),

			"unreadable": value.Into(func(c *Config) *contract.Unreadable { return &c.Forwarding.Unreadable }, value.Word(contract.UnreadableLocal, contract.UnreadableDefer)),
		}),
		"doctor": section("doctor", value.Keys[Config]{
			"accept": value.Into(func(c *Config) *[]Acceptance { return &c.Doctor.Accept }, value.List(readAcceptance)),
		}),
		"relay": {read: readRelay},
	})
}

// section makes a table of keys.
func section(name string, keys value.Keys[Config]) table {
	return table{
		keys: slices.Sorted(maps.Keys(keys)),
		read: func(c *Config, t value.Table) []value.Fault { return keys.Read(c, t, "["+name+"] ") },
	}
}

// build makes a Config of the whole file.
func build(root value.Table, now time.Time) (*Config, []value.Fault) {
	c := Default()
	all := tables()
	all["rule"], all["inbound"] = table{}, table{} // for the suggestion; read below
	var faults []value.Fault
	astray := map[string]int{}
	for key, v := range root.Keys {
		known, ok := all[key]
		switch t, isTable := v.Any.(value.Table); {
		case key == "rule":
			rs, wrong := readRules(key, v, now, rules.Parse)
			c.Rules = rules.New(rs)
			faults = append(faults, wrong...)
		case key == "inbound":
			rs, wrong := readRules(key, v, now, inbound.Parse)
			c.Inbound = inbound.New(rs)
			faults = append(faults, wrong...)
		case known.later != "":
			faults = append(faults, value.Fault{Line: v.Line, Text: known.later + " is not supported yet"})
		case !ok && (isTable || tablesOnly(v)):
			faults = append(faults, value.Fault{Line: v.Line, Text: value.Unknown("table", key, all)})
		case !ok && len(homesOf(key, all)) > 0:
			astray[key] = v.Line
		case !ok:
			faults = append(faults, value.Fault{Line: v.Line, Text: value.Unknown("key", key, all)})
		case !isTable:
			faults = append(faults, value.Fault{Line: v.Line, Text: fmt.Sprintf("%s: want one table, [%s]", key, key)})
		default:
			faults = append(faults, known.read(c, t)...)
			if key == "dns" && !c.DNS.believable() {
				faults = append(faults, value.Fault{Line: t.Keys["dnssec"].Line, Text: `[dns] dnssec "on" needs a ` +
					`resolver on a loopback address, or trust_resolver = true: else nobody vouches for its word`})
			}
		}
	}
	faults = append(faults, homeless(astray, all)...)
	c.Rules = c.Rules.With(c.Senders.forms())
	if c.DNS.DNSSEC == "off" {
		list, _ := root.Keys["rule"].Any.([]value.Value)
		for i, r := range c.Rules.Rules() {
			if t, ok := list[i].Any.(value.Table); ok && r.Level == policy.LevelDane {
				faults = append(faults, value.Fault{Line: t.Keys["tls"].Line,
					Text: fmt.Sprintf(`rule %q: tls = "dane" can't be satisfied with [dns] dnssec = "off"`, r.Name)})
			}
		}
	}
	if m := c.Milter.Listen; m == c.Socketmap.Listen && !strings.HasSuffix(m.Address, ":0") { // 0: the system chooses two
		line := 1
		for _, name := range []string{"milter", "socketmap"} {
			if t, ok := root.Keys[name].Any.(value.Table); ok {
				line = max(line, t.Keys["listen"].Line)
			}
		}
		faults = append(faults, value.Fault{Line: line, Text: fmt.Sprintf("[socketmap] listen %q: is also that of [milter]", m)})
	}
	faults = append(faults, c.httpFaults(root)...)
	faults = append(faults, c.fallbackFaults(root)...)
	return c, faults
}

// homesOf names the tables that have a key, as their headers are written.
func homesOf(key string, all map[string]table) []string {
	var homes []string
	for name, t := range all {
		if slices.Contains(t.keys, key) {
			homes = append(homes, "["+name+"]")
		}
	}
	slices.Sort(homes)
	if slices.Contains(rules.Keys(), key) {
		homes = slices.Insert(homes, 0, "[[rule]]")
	}
	return homes
}

// homeless makes the faults of keys that stand above the first table, by line:
// one for neighbours that belong to the same table.
func homeless(astray map[string]int, all map[string]table) []value.Fault {
	keys := slices.SortedFunc(maps.Keys(astray), func(a, b string) int { return cmp.Compare(astray[a], astray[b]) })
	var faults []value.Fault
	for len(keys) > 0 {
		homes := homesOf(keys[0], all)
		n := 1
		for ; n < len(keys); n++ {
			common := slices.DeleteFunc(slices.Clone(homes), func(home string) bool {
				return !slices.Contains(homesOf(keys[n], all), home)
			})
			if len(common) == 0 {
				break
			}
			homes = common
		}
		faults = append(faults, value.Fault{Line: astray[keys[0]], Text: fmt.Sprintf("%s: put %s above it",
			strings.Join(keys[:n], ", "), strings.Join(homes, " or "))})
		keys = keys[n:]
	}
	return faults
}

// tablesOnly reports whether a value is a list of tables, as [[key]] makes one.
func tablesOnly(v value.Value) bool {
	list, _ := v.Any.([]value.Value)
	return len(list) > 0 && !slices.ContainsFunc(list, func(e value.Value) bool {
		_, ok := e.Any.(value.Table)
		return !ok
	})
}

// believable reports whether the resolver named, if any, can be asked as dnssec says.
func (d DNS) believable() bool {
	if d.DNSSEC != "on" || d.TrustResolver || d.Resolver == "" {
		return true
	}
	ap, err := netip.ParseAddrPort(d.Resolver)
	return err == nil && ap.Addr().Unmap().IsLoopback()
}

// readRules reads all tables of one kind of rule.
func readRules[R any](key string, v value.Value, now time.Time,
	parse func([]value.Table, time.Time) ([]R, []value.Fault)) ([]R, []value.Fault) {
	list, ok := v.Any.([]value.Value)
	tables := make([]value.Table, len(list))
	for i, e := range list {
		var isTable bool
		tables[i], isTable = e.Any.(value.Table)
		ok = ok && isTable
	}
	if !ok {
		return nil, []value.Fault{{Line: v.Line, Text: fmt.Sprintf("%s: want tables, each [[%s]]", key, key)}}
	}
	rs, faults := parse(tables, now)
	if len(faults) > 0 {
		return nil, faults
	}
	return rs, nil
}

// orEmpty makes a reader take "", too.
func orEmpty[T any](read func(value.Value) (T, error)) func(value.Value) (T, error) {
	return func(v value.Value) (T, error) {
		if v.Any == "" {
			var zero T
			return zero, nil
		}
		return read(v)
	}
}

// readChoice takes one of two words, of which the second is true.
func readChoice(no, yes string) func(value.Value) (bool, error) {
	return func(v value.Value) (bool, error) {
		word, err := value.Word(no, yes)(v)
		return word == yes, err
	}
}

func readLogLevel(v value.Value) (slog.Level, error) {
	word, err := value.Word("debug", "info", "warn", "error")(v)
	if err != nil {
		return 0, err
	}
	var level slog.Level
	return level, level.UnmarshalText([]byte(word))
}

// readDeadline leaves time below the 30 seconds after which Postfix (milter_command_timeout) gives a filter up: an
// answer that comes later is none. Sendmail waits as long as its own setting, T=R:, says.
func readDeadline(v value.Value) (time.Duration, error) {
	d, err := value.Duration(time.Second, 25*time.Second)(v)
	if err != nil {
		return 0, value.Wrong(v, `want a duration from "1s" to "25s", for Postfix gives a filter up after 30s`)
	}
	return d, nil
}

func readServing(v value.Value) (time.Duration, error) {
	return value.Duration(time.Second, 30*24*time.Hour)(v)
}

func readPort(v value.Value) (uint16, error) {
	n, err := value.Int(1, 65535)(v)
	return uint16(n), err
}

// readHELO takes a host name or an address literal (RFC 5321, section 4.1.1.1).
func readHELO(v value.Value) (string, error) {
	d, err := value.Domain(v)
	return d.String(), err
}

// readPath takes the path of a file: from the root, or below "~", the user's home directory.
func readPath(v value.Value) (string, error) {
	s, err := value.Text(v)
	if err == nil && !strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "~/") {
		err = value.Wrong(v, "want a path that begins with /")
	}
	return s, err
}

func readPostfix(v value.Value) (string, error) {
	if v.Any == "auto" || v.Any == "off" {
		return v.Any.(string), nil
	}
	s, err := readPath(v)
	if err != nil {
		err = value.Wrong(v, "want auto, off or a path")
	}
	return s, err
}

// readDelimiter takes characters as Postfix's recipient_delimiter has them, none for + alone.
func readDelimiter(v value.Value) (string, error) {
	s, err := value.Text(v)
	if err != nil || s == "auto" {
		return s, err
	}
	if strings.Trim(s, "!#$%&*+,-./:;=?^_`|~") != "" {
		return "", value.Wrong(v, `want auto, or the characters of recipient_delimiter, such as "+-"`)
	}
	return s, nil
}

// readMTAVersion takes the two numbers that say what a Postfix knows.
func readMTAVersion(v value.Value) (string, error) {
	s, err := value.Text(v)
	if err != nil {
		return "", err
	}
	major, minor, _ := strings.Cut(s, ".")
	for _, part := range []string{major, minor} {
		if _, err := strconv.ParseUint(part, 10, 8); err != nil {
			return "", value.Wrong(v, `want a version in quotes, such as "3.7"`)
		}
	}
	return s, nil
}

// readDays takes a time after which something is dropped.
func readDays(v value.Value) (time.Duration, error) {
	return value.Duration(24*time.Hour, 10*365*24*time.Hour)(v)
}

// readWatch takes a duration, or "off", which is 0.
func readWatch(v value.Value) (time.Duration, error) {
	if v.Any == "off" {
		return 0, nil
	}
	d, err := value.Duration(10*time.Second, 24*time.Hour)(v)
	if err != nil {
		return 0, value.Wrong(v, `want "off", or a duration from "10s" to "24h"`)
	}
	return d, nil
}

// readCommand takes a program with its arguments, one a string: there is no shell that would take them apart.
func readCommand(v value.Value) ([]string, error) {
	argv, err := value.List(value.Text)(v)
	if err == nil && len(argv) > 0 && !strings.HasPrefix(argv[0], "/") {
		err = value.Wrong(v, `want ["/absolute/path", "argument", …]`)
	}
	return argv, err
}

func readMail(v value.Value) (addr.Address, error) {
	s, err := value.Text(v)
	if err != nil {
		return addr.Address{}, err
	}
	a, err := addr.ParsePath(s)
	if err != nil || a.Domain.IsZero() || strings.HasPrefix(a.Local, "-") {
		return addr.Address{}, value.Wrong(v, "want an address, local@domain")
	}
	return a, nil
}

func readStore(v value.Value) (string, error) {
	s, err := value.Text(v)
	if err == nil && !strings.HasPrefix(s, "sqlite:///") && !strings.HasPrefix(s, "postgres://") && !strings.HasPrefix(s, "postgresql://") {
		err = value.Wrong(v, `want "sqlite:///path" or "postgres://…"`)
	}
	return s, err
}

func readDomains(v value.Value) (map[addr.Domain]bool, error) {
	ds, err := value.List(value.Domain)(v)
	set := make(map[addr.Domain]bool, len(ds))
	for _, d := range ds {
		set[d] = true
	}
	return set, err
}

func readHostPort(v value.Value) (string, error) {
	s, err := value.Text(v)
	if err != nil {
		return "", err
	}
	hp, ok := hostPort(s)
	if !ok {
		return "", value.Wrong(v, "want host:port")
	}
	return hp, nil
}

// readResolver takes an address, "address:port" and "[address]:port". A name won't do: who would resolve it?
func readResolver(v value.Value) (string, error) {
	s, err := value.Text(v)
	if err != nil {
		return "", err
	}
	if ip, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(ip, 53).String(), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return "", value.Wrong(v, "want an IP address or address:port")
	}
	return ap.String(), nil
}

// hostPort takes "host:port" with a host that is an IP address or a name.
func hostPort(s string) (string, bool) {
	host, port, err := net.SplitHostPort(s)
	if err != nil || !isHost(host) || !isPort(port) {
		return "", false
	}
	return net.JoinHostPort(host, port), true
}

func isHost(s string) bool {
	if net.ParseIP(s) != nil {
		return true
	}
	d, err := addr.ParseDomain(s)
	return err == nil && !d.IsLiteral()
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && strconv.FormatUint(n, 10) == s
}
