package main

import (
	"bytes"
	"crypto/tls"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
	"tlsonly/internal/testnet"
)

// checkWorld has a destination of every kind, good and broken.
type checkWorld struct {
	*matrixWorld
	config  string
	address map[string]string // of a case's last host
}

func newCheckWorld(t *testing.T) *checkWorld {
	t.Helper()
	w := &checkWorld{matrixWorld: newMatrixWorld(t), address: map[string]string{}}
	none := strings.Repeat("00", 32)
	for i, c := range []matrixCase{
		{name: "dane", hosts: []mailHost{{by: "stranger", tlsa: []string{"3 1 1 leaf"}}}},
		{name: "mismatch", hosts: []mailHost{{tlsa: []string{"3 1 1 =" + none}}}},
		{name: "anchor", hosts: []mailHost{{by: "low", tlsa: []string{"2 0 1 mid"}}}},
		{name: "anchored-other", hosts: []mailHost{{by: "low", names: "other.test", tlsa: []string{"2 0 1 mid"}}}},
		{name: "unusable", hosts: []mailHost{{tlsa: []string{"1 1 1 leaf"}}}},
		{name: "signed", hosts: []mailHost{{}}},
		{name: "insecure-mx", hosts: []mailHost{{in: "hosts", tlsa: []string{"3 1 1 leaf"}}}, more: destinationOf{unsigned: true}},
		{name: "sts", hosts: []mailHost{{}}, more: destinationOf{unsigned: true, sts: "*.@"}},
		{name: "sts-other", hosts: []mailHost{{}}, more: destinationOf{unsigned: true, sts: "mail.@"}},
		{name: "sts-testing", hosts: []mailHost{{}}, more: destinationOf{unsigned: true, sts: "mx1.@", testing: true}},
		{name: "sts-404", hosts: []mailHost{{}}, more: destinationOf{unsigned: true, sts: "mx1.@", noPolicy: true}},
		{name: "sts-expired", hosts: []mailHost{{}}, more: destinationOf{unsigned: true, sts: "mx1.@"}},
		{name: "own", hosts: []mailHost{{names: "@"}}, more: destinationOf{unsigned: true}},
		{name: "expired", hosts: []mailHost{{leaf: expired}, {leaf: expired}}, more: destinationOf{unsigned: true}},
		{name: "self", hosts: []mailHost{{by: "self"}}, more: destinationOf{unsigned: true}},
		{name: "none", hosts: []mailHost{{noTLS: true}, {noTLS: true}}, more: destinationOf{unsigned: true}},
		{name: "old", hosts: []mailHost{{only: tls.VersionTLS10}}, more: destinationOf{unsigned: true}},
		{name: "alias", hosts: []mailHost{{alias: "here", end: []string{"3 1 1 leaf"}}}},
		{name: "alias-plain", hosts: []mailHost{{alias: "plain"}}},
		{name: "implicit", hosts: []mailHost{{in: "-", tlsa: []string{"3 1 1 leaf"}}}},
		{name: "two", hosts: []mailHost{{tlsa: []string{"3 1 1 leaf"}}, {noTLS: true}, {}}},
		{name: "null", more: destinationOf{records: "null.example. MX 0 ."}},
		{name: "refused", hosts: []mailHost{{}}, more: destinationOf{unsigned: true}},
		{name: "closed", hosts: []mailHost{{}}, more: destinationOf{unsigned: true}},
		{name: "xn--bcher-kva", hosts: []mailHost{{}}, more: destinationOf{unsigned: true}},
		{name: "half", hosts: []mailHost{{tlsa: []string{"3 1 1 leaf"}}}},
		{name: "six", hosts: []mailHost{{tlsa: []string{"3 1 1 leaf"}}}},
	} {
		c.more.label = c.name
		w.place(i, c)
		if len(c.hosts) == 0 {
			continue
		}
		last := w.hosts[len(w.hosts)-1]
		w.address[c.name] = last.Address().Addr().String()
		switch c.name {
		case "sts-expired":
			w.sts.SetFault("sts-expired.example", testnet.STSExpired)
		case "refused":
			last.SetFault(testnet.STARTTLS454)
		case "closed":
			if err := last.Close(); err != nil {
				t.Fatal(err)
			}
		case "half": // nobody listens there
			w.add("half.example", "mx1.half.example. A 127.0.1.200")
		case "six":
			w.add("six.example", "mx1.six.example. AAAA ::1")
			smtp, err := testnet.StartSMTP(testnet.SMTPConfig{Listen: "[::1]:25", Name: "mx1.six.example"})
			if err != nil {
				t.Fatal(err)
			}
			w.closes(smtp.Close)
		}
	}
	w.zone(signedName, false, false)
	w.serve()
	w.config = w.configure(w.unbound.Addr)
	return w
}

// configure writes a configuration file.
func (w *checkWorld) configure(resolver string) string {
	return write(w.dir(), "check.toml", fmt.Sprintf("[dns]\nresolver = %q\n[probe]\nhelo = \"mta.test\"\ntimeout = \"5s\"\nca_file = %q\n",
		resolver, w.caFile))
}

// ran is what came of a run of the program.
type ran struct {
	out, err string
	status   int
}

// command makes a run of the program with the world's configuration.
func (w *checkWorld) command(args ...string) *exec.Cmd {
	w.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.CommandContext(patient(w.t), exe)
	cmd.Args = append([]string{"tlsonly"}, append(args, "-c", w.config)...)
	return cmd
}

// program runs the program with the world's configuration.
func (w *checkWorld) program(stdin string, args ...string) ran {
	w.t.Helper()
	cmd := w.command(args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return ran{out.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// seen is what is wanted of one destination.
type seen struct {
	destination string
	level, next policy.Level
	reason      policy.Reason // why not encrypt
	ways        string        // to what is missing
	text        []string      // in what people see
	not         []string      // not in it
}

func checkCases() []seen {
	const offer = "offer STARTTLS (RFC 3207)"
	return []seen{
		{"dane.example", "dane", "", "", "", []string{"dane.example: dane\n", "  MX records         signed by DNSSEC\n", "    TLSA               3 1 1 ", "matched\n", "      DANE               dane-ee\n", "authorities  unknown-issuer, which DANE does without: ",
			"TLS 1.3 TLS_AES_128_GCM_SHA256, 128 bits, X25519MLKEM768 (post-quantum)\n", "accepts            TLS 1.2, 1.3\n", "(less than a day left)"}, []string{"for level"}},
		{"mismatch.example", "may", "encrypt", "dane-mismatch", "encrypt", []string{"mismatch.example: dane-mismatch (asked encrypt, reached may)\n", "DANE               mismatch: the host's certificate is none",
			"mx1.mismatch.example: publish a TLSA record for the certificate that is shown, _25._tcp.mx1.mismatch.example. IN TLSA 3 1 1 "}, []string{"matched\n"}},
		{"anchor.example", "dane", "", "", "", []string{"DANE               dane-ta\n", "                   CN=mid, by CN=root, until "}, []string{"for level"}},
		{"anchored-other.example", "may", "encrypt", "dane-mismatch", "encrypt", []string{"dane-ta, but the certificate is for other.test\n",
			"show a certificate for mx1.anchored-other.example, as trust-anchor records (usage 2) want: this one is for other.test\n"}, nil},
		{"unusable.example", "encrypt", "secure", "", "secure dane", []string{"certificate usage is not 2 or 3", "publish a record that clients can use"}, []string{"MTA-STS:"}},
		{"signed.example", "encrypt", "secure", "", "secure dane, secure mta-sts", []string{"  for level secure, by DANE:\n    mx1.signed.example: publish _25._tcp.mx1.signed.example. IN TLSA 3 1 1 ",
			"  or, by MTA-STS:\n    announce a policy in the TXT record _mta-sts.signed.example, "}, []string{"sign the zone"}},
		{"insecure-mx.example", "encrypt", "secure", "", "secure dane", []string{"sign the zone of insecure-mx.example with DNSSEC\n"}, []string{"publish", "announce"}},
		{"sts.example", "secure", "dane", "", "dane dane", []string{"  MTA-STS            enforce, id 1, until ", ", mx *.sts.example\n", "    MTA-STS            matches the policy\n", "  for level dane:\n"}, []string{"for level secure"}},
		{"sts-other.example", "may", "encrypt", "mta-sts-mismatch", "encrypt", []string{"does not match the policy: the policy does not name it\n",
			"be named in the MTA-STS policy, which names mail.sts-other.example, or leave the MX records\n"}, nil},
		{"sts-testing.example", "encrypt", "secure", "", "secure mta-sts", []string{"change the policy's mode from testing to enforce", "matches the policy"}, []string{"DANE:"}},
		{"sts-404.example", "encrypt", "secure", "", "secure mta-sts", []string{"  MTA-STS            not known: HTTP status 404", "announces: HTTP status 404, not 200\n"}, []string{"DANE:"}},
		{"sts-expired.example", "encrypt", "secure", "", "secure mta-sts", []string{"announces: tls: failed to verify certificate: x509: certificate has expired"}, []string{"DANE:"}},
		{"own.example", "secure", "dane", "", "dane dane", []string{"certificate        own.example, by CN=root, until "}, []string{"by MTA-STS"}},
		{"expired.example", "encrypt", "secure", "", "secure mta-sts, secure dane", []string{"(expired for 3", "days)", "    authorities        expired: ",
			"mx1.expired.example, mx2.expired.example: show a valid certificate for its own name: this one is not valid, expired: "}, nil},
		{"self.example", "encrypt", "secure", "", "secure mta-sts, secure dane", []string{"mx1.self.example, by itself, until "}, nil},
		{"none.example", "may", "encrypt", "no-starttls", "encrypt", []string{"STARTTLS           not offered\n", "  for level encrypt:\n    mx1.none.example, mx2.none.example: " + offer + "\n"}, nil},
		{"old.example", "may", "encrypt", "weak-tls", "encrypt", []string{"accepts            TLS 1.0\n", "offer TLS 1.2 or later with a cipher of 128 bits or more"}, []string{"post-quantum"}},
		{"alias.example", "dane", "", "", "", []string{"    alias of           at1.alias.example, which a mail host should not be (RFC 5321, section 5.1)\n"}, nil},
		{"alias-plain.example", "encrypt", "secure", "", "secure dane, secure mta-sts",
			[]string{"sign the zone of mx1.alias-plain.example, and that of at1.alias-plain.plain.example, which it is an alias of, with DNSSEC\n"}, nil},
		{"implicit.example", "dane", "", "", "", []string{"MX records none, signed by DNSSEC\n", "  no MX, the domain itself implicit.example: dane\n"}, []string{"MX 0"}},
		{"two.example", "dane", "", "", "encrypt, dane dane", []string{"  MX 10 mx1.two.example: dane\n", "  MX 20 mx2.two.example: no-starttls\n", "  MX 30 mx3.two.example: encrypt\n",
			"  for level encrypt at every host:\n    mx2.two.example: " + offer + "\n  for level dane at every host:\n    mx3.two.example: publish "}, nil},
		{"null.example", "none", "encrypt", "null-mx", "", []string{"null.example: null-mx (asked encrypt)\n"}, nil},
		{"nowhere.example", "none", "encrypt", "no-such-domain", "", []string{"nowhere.example: no-such-domain (asked encrypt)\n"}, nil},
		{"refused.example", "may", "encrypt", "handshake", "encrypt", []string{"      STARTTLS           refused: 454 4.7.0 ", "make STARTTLS work: 454 "}, nil},
		{"closed.example", "", "encrypt", "unreachable", "encrypt", []string{"closed.example: unreachable (asked encrypt)\n", "      connect            unreachable: ", "let itself be reached: "}, nil},
		{"bücher.example", "encrypt", "secure", "", "secure mta-sts, secure dane", []string{"xn--bcher-kva.example: encrypt\n  in letters         bücher.example\n",
			"  MX 10 mx1.xn--bcher-kva.example (mx1.bücher.example): encrypt\n"}, nil},
		{"half.example", "dane", "", "", "", []string{"    127.0.1.200:25\n      connect unreachable: "}, []string{"for level"}},
		{"six.example", "dane", "", "", "encrypt", []string{"    [::1]:25\n", "    mx1.six.example at [::1]:25: " + offer + "\n"}, nil},
		{"[mx1.dane.example]:25", "dane", "", "", "", []string{"  host mx1.dane.example: dane\n"}, []string{"MX ", "MTA-STS"}},
		{"[mx1.self.example]", "encrypt", "secure", "", "secure dane, secure certificate", []string{"  or, by its certificate:\n"}, []string{"MTA-STS", "MX records"}},
		{"[127.0.1.1]", "encrypt", "secure", "", "secure", []string{"nobody can prove to be an address"}, []string{"DNSSEC", "TLSA", "MTA-STS"}},
	}
}

// TestMTACheck looks at destinations in zones that are really signed, and at what administrators are told of them.
func TestMTACheck(t *testing.T) {
	isolated(t)
	w := newCheckWorld(t)
	var names []string
	for _, c := range checkCases() {
		names = append(names, c.destination)
	}
	stdin := strings.Join(names, "\n")
	r := w.program(stdin, "check", "-")
	if r.status != exitNo || r.err != "" || strings.Contains(r.out, "\x1b") {
		t.Errorf("status %d, %q", r.status, r.err)
	}
	blocks := regexp.MustCompile(`(?m)^\S.*\n(?: .*\n)*`).FindAllString(r.out, -1)
	j := w.program(stdin, "check", "--json", "-")
	answers := decode(t, j.out)
	if len(blocks) != len(names) || len(answers) != len(names) {
		t.Fatalf("%d destinations, %d texts, %d objects\n%s%s", len(names), len(blocks), len(answers), r.out, j.out)
	}
	paths := map[string]bool{}
	for i, c := range checkCases() {
		squeezed := squeeze(blocks[i])
		for _, want := range c.text {
			if !strings.Contains(squeezed, squeeze(want)) {
				t.Errorf("%s: no %q in\n%s", c.destination, want, blocks[i])
			}
		}
		for _, no := range c.not {
			if strings.Contains(squeezed, no) {
				t.Errorf("%s: %q in\n%s", c.destination, no, blocks[i])
			}
		}
		for line := range strings.Lines(blocks[i]) {
			// Values begin in one column; advice and headings have none.
			if m := regexp.MustCompile(`^ +(?:[A-Z]|MX records|alias of|in letters|[a-zA-Z-]+) {2,}`).FindString(line); m != "" && len(m) != keyed {
				t.Errorf("%s: a value in column %d: %s", c.destination, len(m), line)
			}
		}
		a := answers[i]
		var ways []string
		for _, m := range a.Missing {
			ways = append(ways, strings.TrimSpace(string(m.Level)+" "+m.Mechanism))
		}
		if got := strings.Join(slices.Compact(ways), ", "); got != c.ways {
			t.Errorf("%s: missing for %q, want %q", c.destination, got, c.ways)
		}
		if a.Level != c.level || a.Next != c.next || a.Reason != c.reason || a.Satisfied != (c.reason == "") || a.Demanded != policy.LevelEncrypt {
			t.Errorf("%s: level %q, next %q, reason %q, satisfied %t; want %q, %q, %q", c.destination, a.Level, a.Next, a.Reason, a.Satisfied,
				c.level, c.next, c.reason)
		}
		for line := range strings.Lines(j.out) {
			var v any
			if err := json.Unmarshal([]byte(line), &v); err != nil {
				t.Fatal(err)
			}
			walkJSON(v, "", paths)
		}
	}
	documented := documentedFields(t)
	for path := range paths {
		if !documented[path] {
			t.Errorf("not documented: %s", path)
		}
	}
	for _, path := range []string{"missing[].address", "hosts[].mta_sts_fits", "hosts[].mta_sts_detail", "assessment.mta_sts.problem", "assessment.hosts[].cname",
		"assessment.hosts[].observations[].tlsa_matched", "assessment.hosts[].observations[].chain[].names[]", "assessment.hosts[].observations[].key_digest"} {
		if !paths[path] {
			t.Errorf("never seen: %s", path)
		}
	}

	// The exit status is for the level that is asked.
	for _, c := range []struct {
		destination, level string
		want               int
	}{
		{"dane.example", "dane", exitOK}, {"sts.example", "dane", exitNo}, {"sts.example", "secure", exitOK}, {"signed.example", "secure", exitNo},
		{"closed.example", "encrypt", exitUnknown}, {"closed.example", "may", exitOK},
	} {
		if r := w.program("", "check", "--tls", c.level, c.destination); r.status != c.want {
			t.Errorf("--tls %s %s: status %d, want %d\n%s", c.level, c.destination, r.status, c.want, r.out)
		}
	}

	if r := w.program("", "check", "--tls", "may", "closed.example"); !strings.HasPrefix(r.out, "closed.example: not known (asked may)\n") ||
		!strings.Contains(r.out, "MX 10 mx1.closed.example: not known\n") {
		t.Errorf("not known, and nothing asked:\n%s", r.out)
	}

	// A resolver that doesn't validate is told of once, and nobody else is blamed for it.
	blind, err := testnet.StartDNS("127.0.0.1:0", "$ORIGIN example.\n@ 60 IN SOA a. b. 1 1 1 1 1\nsigned.example. 60 IN MX 10 mx1.signed.example.\nmx1.signed.example. 60 IN A "+
		w.address["signed"]+"\ndane.example. 60 IN MX 10 mx1.dane.example.\nmx1.dane.example. 60 IN A "+w.address["dane"]+
		"\nown.example. 60 IN MX 10 mx1.own.example.\nmx1.own.example. 60 IN A "+w.address["own"]+"\n")
	if err != nil {
		t.Fatal(err)
	}
	w.closes(blind.Close)
	w.config = w.configure(blind.Addr())
	r = w.program("", "check", "signed.example", "dane.example", "[127.0.1.1]")
	if n := strings.Count(r.out, "doesn't validate"); n != 1 || !strings.HasPrefix(r.out, "our resolver: ") || strings.Contains(r.out, "sign the zone") ||
		!strings.Contains(r.out, "not known from here whether signed by DNSSEC") {
		t.Errorf("told %d times\n%s", n, r.out)
	}
	answers = decode(t, w.program("", "check", "--json", "signed.example", "dane.example", "own.example", "[127.0.1.1]").out)
	for i, want := range []bool{true, true, true, false} {
		if told := answers[i].Resolver != ""; told != want {
			t.Errorf("%s: of the resolver %q", answers[i].Destination, answers[i].Resolver)
		}
		for _, m := range answers[i].Missing {
			if m.Mechanism == judge.ByDANE {
				t.Errorf("%s: %s", answers[i].Destination, m.Text)
			}
		}
	}
	if answers[2].Level != policy.LevelSecure {
		t.Errorf("own.example: %q", answers[2].Level)
	}
}

// squeeze makes one of several spaces between words.
func squeeze(s string) string { return regexp.MustCompile(`(\S) +`).ReplaceAllString(s, "$1 ") }

// decode reads what --json wrote, which must be no more than checked has.
func decode(t *testing.T, text string) []checked {
	t.Helper()
	var all []checked
	for line := range strings.Lines(text) {
		dec := json.NewDecoder(strings.NewReader(line))
		dec.DisallowUnknownFields()
		var c checked
		if err := dec.Decode(&c); err != nil {
			t.Fatalf("%v\n%s", err, line)
		}
		all = append(all, c)
	}
	return all
}

// walkJSON collects the paths of all fields.
func walkJSON(v any, path string, into map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			at := strings.TrimPrefix(path+"."+key, ".")
			if _, list := value.([]any); !list {
				into[at] = true
			}
			walkJSON(value, at, into)
		}
	case []any:
		into[path+"[]"] = true
		for _, value := range v {
			walkJSON(value, path+"[]", into)
		}
	}
}

// documentedFields are those that the manual page has.
func documentedFields(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("../../packaging/man/tlsonly-check.8")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n.Sh JSON\n")
	section, _, ok2 := strings.Cut(section, "\n.Sh ")
	if !ok || !ok2 {
		t.Fatal("the page has no section JSON")
	}
	found := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\.It Li (\S+)$`).FindAllStringSubmatch(section, -1) {
		if found[m[1]] {
			t.Errorf("%s twice", m[1])
		}
		found[m[1]] = true
	}
	return found
}

// Every field of check --json is documented, and nothing else. What an earlier
// probe saw has the fields of the last one's.
func TestCheckSchema(t *testing.T) {
	const last, earlier = "assessment.hosts[].observations[]", "assessment.hosts[].earlier[]"
	documented := documentedFields(t)
	fields := map[string]bool{}
	walkType(reflect.TypeFor[checked](), "", fields)
	for path := range fields {
		if field, ok := strings.CutPrefix(path, earlier+"."); ok && fields[last+"."+field] {
			continue
		}
		if !documented[path] {
			t.Errorf("not documented: %s", path)
		}
	}
	for path := range documented {
		if !fields[path] {
			t.Errorf("documented, and not there: %s", path)
		}
	}
}

// walkType collects the paths of all fields that encoding/json would write.
func walkType(t reflect.Type, path string, into map[string]bool) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
	case t.Kind() == reflect.Slice:
		walkType(t.Elem(), path+"[]", into)
		return
	case t.Kind() == reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "-" {
				walkType(f.Type, strings.TrimPrefix(path+"."+name, "."), into)
			}
		}
	}
	if path != "" {
		into[path] = true
	}
}

// check --watch tells what it saw first, then only what is new, with the time, and ends with the status of its last look.
func TestMTACheckWatch(t *testing.T) {
	isolated(t)
	w := newCheckWorld(t)
	host := w.hosts[0] // of dane.example
	cmd := w.command("check", "--watch", "--every", "1s", "dane.example")
	out := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	looks := func(n int) { // each has a first connection, and one for each version where there is TLS
		t.Helper()
		before := host.Connections()
		waitFor(t, "more looks", func() bool { return host.Connections() >= before+5*n })
	}
	const dane, none = "\ndane.example: dane\n", "\ndane.example: no-starttls (asked encrypt, reached may)\n"
	waitFor(t, "the first look", func() bool { return strings.Contains(out.String(), dane) })
	looks(2)
	if n := strings.Count(out.String(), dane); n != 1 {
		t.Errorf("told %d times:\n%s", n, out.String())
	}
	host.SetFault(testnet.NoSTARTTLS)
	waitFor(t, "the news", func() bool { return strings.Contains(out.String(), none) })
	before := host.Connections()
	waitFor(t, "another look", func() bool { return host.Connections() >= before+2 })
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-ended
	// A look in the middle of which the host changed may be told, too.
	const stamp, details = `\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`, `(?: .*\n)+`
	want := "^(?:" + stamp + dane + details + "){1,2}" + stamp + regexp.QuoteMeta(none) + details + "$"
	if !regexp.MustCompile(want).MatchString(out.String()) {
		t.Errorf("told:\n%s", out.String())
	}
	if got := cmd.ProcessState.ExitCode(); got != exitNo {
		t.Errorf("exit status %d, want that of the last look, %d", got, exitNo)
	}
}

// Interrupted in its first look, check knows nothing and says nothing.
func TestMTACheckInterrupted(t *testing.T) {
	isolated(t)
	w := newCheckWorld(t)
	host := w.hosts[0] // of dane.example
	host.SetFault(testnet.HangConnect)
	for _, args := range [][]string{{"check", "dane.example"}, {"check", "--watch", "dane.example"}} {
		cmd := w.command(args...)
		out := &lockedBuffer{}
		cmd.Stdout, cmd.Stderr = out, out
		before := host.Connections()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the look", func() bool { return host.Connections() > before })
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // its status is looked at
		if got := cmd.ProcessState.ExitCode(); got != exitUnknown || out.String() != "" {
			t.Errorf("%q: exit status %d, %q", args, got, out.String())
		}
	}
}

// A hundred destinations at the same time, and their answers in the order given.
func TestMTACheckMany(t *testing.T) {
	isolated(t)
	w := newCheckWorld(t)
	var names []string
	for i := range 100 {
		names = append(names, []string{"dane.example", "none.example", "closed.example", "null.example", "sts.example", fmt.Sprintf("nowhere%d.example", i)}[i%6])
	}
	r := w.program("# many\n"+strings.Join(names, "  # one of them\n")+"\n", "check", "--json", "-")
	answers := decode(t, r.out)
	if r.status != exitNo || r.err != "" || len(answers) != len(names) {
		t.Fatalf("status %d, %d answers, %q", r.status, len(answers), r.err)
	}
	for i, a := range answers {
		if a.Destination != names[i] {
			t.Errorf("answer %d is of %s, want %s", i, a.Destination, names[i])
		}
	}
}

// What our resolver is worth is asked beside the look: where that has no answer, nobody waits for the end of its time.
func TestCheckSlowResolver(t *testing.T) {
	resolver := startDNS(t, "127.0.0.1:0")
	conf := config.Default()
	conf.DNS.Resolver = resolver.Addr()
	if problem := askResolver(t.Context(), conf)(); !strings.Contains(problem, "doesn't validate") {
		t.Errorf("it answers: %q", problem)
	}
	conf.DNS.DNSSEC = "off"
	if problem := askResolver(t.Context(), conf)(); !strings.Contains(problem, `"off"`) {
		t.Errorf("nobody asks: %q", problem)
	}
	conf.DNS.DNSSEC = "auto"
	resolver.SetFault(signedName, 0, testnet.DNSDrop)
	if problem := askResolver(t.Context(), conf)(); problem != "" {
		t.Errorf("waited until the resolver's time was over: %s", problem)
	}
}

// lockedBuffer is what a process writes while it is read.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestCheckDaysLeft(t *testing.T) {
	now := time.Date(2026, 1, 10, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		left time.Duration
		want string
	}{
		{90*24*time.Hour + time.Hour, "90 days left"},
		{25 * time.Hour, "1 day left"},
		{23 * time.Hour, "less than a day left"},
		{0, "less than a day left"},
		{-time.Minute, "expired less than a day ago"},
		{-25 * time.Hour, "expired for 1 day"},
		{-49 * time.Hour, "expired for 2 days"},
	} {
		if got := daysLeft(now.Add(c.left), now); got != c.want {
			t.Errorf("%s: %q, want %q", c.left, got, c.want)
		}
	}
}

func TestCheckWrap(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"one two three", "one two|three"},
		{"exactly ten", "exactly|ten"},
		{"0123456789 x", "0123456789|x"},
		{"longerthanten longerthanten", "longerthanten|longerthanten"},
		{"a longerthanten", "a|longerthanten"},
		{"longerthanten", "longerthanten"},
	} {
		if got := strings.Join(wrap(c.in, 10), "|"); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
}

// What is new and what isn't.
func TestCheckNews(t *testing.T) {
	look := func(change func(*policy.Assessment)) checked {
		a := policy.Assessment{Destination: addr.MustDestination("a.example"), When: time.Now(), Hosts: []policy.Host{
			{Name: addr.MustDomain("mx1.a.example"), Observations: []policy.Observation{
				{Address: netip.MustParseAddrPort("192.0.2.1:25"), Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 128, Banner: "one"},
				{Address: netip.MustParseAddrPort("192.0.2.2:25"), Outcome: policy.SawTimeout, Detail: "from port 4711"},
			}}, {Name: addr.MustDomain("mx2.a.example")},
		}}
		change(&a)
		return checkedAs(a, policy.DefaultDemand(), "")
	}
	same := func(*policy.Assessment) {}
	for _, c := range []struct {
		name   string
		change func(*policy.Assessment)
		tells  bool
	}{
		{"nothing", same, false},
		{"time", func(a *policy.Assessment) { a.When = a.When.Add(time.Hour); a.Hosts[0].Observations[0].Took = 5 }, false},
		{"a host's own words", func(a *policy.Assessment) {
			a.Hosts[0].Observations[0].Banner, a.Hosts[0].Observations[1].Detail = "two", "from port 4712"
		}, false},
		{"order", func(a *policy.Assessment) { slices.Reverse(a.Hosts); slices.Reverse(a.Hosts[1].Observations) }, false},
		{"outcome", func(a *policy.Assessment) { a.Hosts[0].Observations[0].Outcome = policy.SawNoSTARTTLS }, true},
		{"DNSSEC", func(a *policy.Assessment) { a.Secure = true }, true},
		{"a host is gone", func(a *policy.Assessment) { a.Hosts = a.Hosts[:1] }, true},
		{"certificate", func(a *policy.Assessment) {
			a.Hosts[0].Observations[0].Chain = []policy.Certificate{{Fingerprint: "0a"}}
		}, true},
	} {
		told := 0
		tell := news(func(checked) { told++ })
		tell(look(same))
		tell(look(c.change))
		if got := told == 2; got != c.tells {
			t.Errorf("%s: told %d times", c.name, told)
		}
	}
}

// What comes from the other side is no command for a terminal.
func TestCheckClean(t *testing.T) {
	var out bytes.Buffer
	page{w: &out}.row(2, "key", "%s", "\x1b[31mred\x07\u202e\n")
	if got, want := out.String(), "  key"+strings.Repeat(" ", keyed-5)+"?[31mred???\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
