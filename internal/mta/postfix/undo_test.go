package postfix

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"tlsonly/internal/contract"
	"tlsonly/internal/policy"
	"tlsonly/internal/testnet/rig"
)

// factsOf makes Facts of the two files as postconf(1) would, of the version.
func factsOf(t *testing.T, version, main, master string, r *record) Facts {
	t.Helper()
	defaults := map[string]string{
		"mail_version": version, "config_directory": "/etc/postfix", "queue_directory": "/var/spool/postfix", "compatibility_level": "3.6",
		verifyMaps: "$" + senderMaps, "default_transport": "smtp", "cleanup_service_name": "cleanup",
		"milter_default_action": "tempfail", "milter_command_timeout": "30s", "milter_content_timeout": "300s",
	}
	for _, name := range []string{smtpdMilters, otherMilters, senderMaps, policyMaps, "smtp_tls_CAfile", "smtp_dns_support_level", "content_filter"} {
		defaults[name] = ""
	}
	if strings.HasPrefix(version, "3.1") {
		defaults[requiredEnable] = "yes"
	}
	var p Postconf
	for _, name := range slices.Sorted(maps.Keys(defaults)) {
		p.All += name + " = " + defaults[name] + "\n"
	}
	for _, b := range blocks(main) {
		raw := main[b.from:b.to]
		if name, _, ok := strings.Cut(raw, "="); ok {
			p.Set += strings.TrimSpace(name) + " = " + folded(blockValue(raw)) + "\n"
		}
	}
	for _, b := range blocks(master) {
		raw := plain(master[b.from:b.to])
		words := wordsOf(raw)
		if len(words) < 8 {
			continue
		}
		var line []string
		for _, w := range words {
			line = append(line, folded(raw[w.from:w.to]))
		}
		p.Services += strings.Join(line, " ") + "\n"
		for i := 8; i < len(line); i++ {
			option, ok := strings.CutPrefix(line[i], "-o")
			if ok && option == "" && i+1 < len(line) {
				i++
				option = line[i]
			}
			if inner, braced := strings.CutPrefix(option, "{"); braced {
				option = strings.TrimSuffix(inner, "}")
			}
			if name, value, is := strings.Cut(option, "="); ok && is {
				p.Options += line[0] + "/" + line[1] + "/" + strings.TrimSpace(name) + " = " + strings.TrimSpace(value) + "\n"
			}
		}
	}
	f, err := p.Facts()
	if err != nil {
		t.Skip(err)
	}
	f.main, f.master, f.record, f.Bundle = main, master, r, "/etc/ssl/certs/ca-certificates.crt"
	if r != nil {
		f.Files[f.path(recordFile)] = "x"
	}
	return f
}

// site is the text of the two files.
type site struct {
	version, main, master string
	record                *record
	files                 map[string]string
	senders               SiteSenders
}

func (s site) facts(t *testing.T) Facts {
	t.Helper()
	f := factsOf(t, s.version, s.main, s.master, s.record)
	maps.Copy(f.Files, s.files)
	f.SiteSenders = s.senders
	return f
}

// with makes the changes of a plan.
func (s site) with(t *testing.T, plan Setup) site {
	t.Helper()
	made, err := plan.texts(s.facts(t))
	if err != nil {
		t.Fatal(err)
	}
	next := site{version: s.version, main: made.main, master: made.master, files: maps.Clone(s.files), senders: s.senders}
	if next.files == nil {
		next.files = make(map[string]string)
	}
	for _, c := range plan.Changes {
		if c.Kind == KindFile {
			next.files[c.Name] = c.New
		}
	}
	if made.record != "" {
		next.record = new(record)
		if err := json.Unmarshal([]byte(made.record), next.record); err != nil {
			t.Fatal(err)
		}
	}
	return next
}

func (s site) applied(t *testing.T, settings Settings) (site, bool) {
	t.Helper()
	plan, err := Plan(settings, s.facts(t))
	if err != nil {
		return s, false
	}
	return s.with(t, plan), true
}

func (s site) undone(t *testing.T, settings Settings) site {
	t.Helper()
	return s.with(t, PlanUndo(settings, s.facts(t)))
}

func settingsOf(r *rand.Rand) Settings {
	s := inet()
	s.DANE = r.IntN(2) == 0
	s.Classes = []Class{{Number: 1}, {Number: 2, MinVersion: policy.TLS13}}[:r.IntN(3)]
	if r.IntN(4) > 0 {
		s.Read = "/etc/postfix" // and makes twins
	}
	s.HideHeader = r.IntN(4) == 0
	if r.IntN(4) == 0 {
		s.OnLost = contract.OnLostBounce
	}
	if r.IntN(4) == 0 {
		s.Others = contract.OthersOff
	}
	if r.IntN(4) == 0 {
		s.Bounces = contract.BouncesOthers
	}
	if r.IntN(4) == 0 {
		s.Senders = contract.SendersTable
	}
	if r.IntN(3) == 0 {
		s.Milter, s.Socketmap = "unix:tlsonly/milter.sock", "unix:tlsonly/map.sock"
	}
	return s
}

// randomSite writes a main.cf and a master.cf in the ways in which people do.
func randomSite(r *rand.Rand) site {
	pick := func(from ...string) string { return from[r.IntN(len(from))] }
	var b strings.Builder
	noise := func() {
		b.WriteString(pick("", "", "\n", "# smtpd_milters = inet:c:3\n", "  # indented\n", "mynetworks=127.0.0.0/8\n", "foo = bar\n  baz\n", "\t\n"))
	}
	item := func(name string) string {
		if strings.HasSuffix(name, "milters") {
			return pick("inet:a:1", "unix:opendkim/sock", "{ inet:b:2, default_action=accept }", "{ inet:b:2,\n   default_action=accept }", "$mua", "inet:127.0.0.1:8891")
		}
		return pick("hash:/etc/postfix/a", "inline:{ {x@y.test = smtp:} }", "proxy:mysql:/x.cf", "texthash:$config_directory/b", "socketmap:inet:127.0.0.1:1:senders")
	}
	parameter := func(name string) {
		b.WriteString(name + pick("=", " = ", "  =\t", " ="))
		for n := range r.IntN(4) {
			if n > 0 {
				b.WriteString(pick(", ", " ", ",\n    ", "\n\t", ",\n# between\n  ", " ,  ", "\n\n  "))
			} else if r.IntN(4) == 0 {
				b.WriteString("\n   ")
			}
			b.WriteString(item(name))
		}
		b.WriteString(pick("", "", " ", ",") + "\n")
	}
	noise()
	for range r.IntN(7) {
		switch name := pick(smtpdMilters, otherMilters, senderMaps, policyMaps, verifyMaps, "single", "mua", "limit"); name {
		case "single":
			b.WriteString(pick("smtp_tls_CAfile = /site.pem\n", "smtp_tls_CAfile =\n", "smtp_dns_support_level=\n  enabled\n", "tls_required_enable = yes\n",
				"smtp_dns_support_level =  \n", "tls_required_enable=no\n", "smtp_tls_CApath = /etc/ssl/certs\n", "non_smtpd_milters = $smtpd_milters\n",
				verifyMaps+" = static:DUNNO,\n  $"+senderMaps+"\n"))
		case "limit":
			b.WriteString(pick("slow_destination_rate_delay = 1s\n", "slow_destination_concurrency_limit=\n  2\n", "smtp_destination_recipient_limit = 5\n",
				"relay_initial_destination_concurrency =\t3\n", "default_transport = slow\n", "default_transport = smtp:[relay.test]:26\n"))
		case "mua":
			b.WriteString("mua = inet:m:1\n")
		default:
			parameter(name)
		}
		noise()
	}
	main := b.String()
	if r.IntN(4) == 0 {
		main = strings.TrimSuffix(main, "\n")
	}
	b.Reset()
	b.WriteString("# services\nsmtp inet n - y - - smtpd\ncleanup unix n - y - 0 cleanup\nrewrite unix - - y - - trivial-rewrite\n")
	b.WriteString("smtp      unix  -       -       " + pick("y", "n") + "       -       -       smtp" + pick("", "\n  -o smtp_tls_loglevel=2", " -o smtp_bind_address=192.0.2.1") + "\n")
	for _, name := range []string{"slow", "relay", "uucp"} {
		b.WriteString(pick("", name+" unix - - n - 2 "+pick("smtp", "smtp", "lmtp")+pick("", " -o smtp_bind_address=192.0.2.2", "\n# its own\n  -o smtp_tls_security_level=secure\n  -o smtp_header_checks=regexp:/h")+"\n"))
	}
	for _, name := range []string{"submission", "smtps", "127.0.0.1:10025"} {
		b.WriteString(pick("", "\n", "# noise\n", "  # noise\n"))
		if r.IntN(3) == 0 {
			continue
		}
		b.WriteString(name + " inet n - y - - smtpd" + pick("", " -v") + "\n")
		for range r.IntN(3) {
			b.WriteString(pick("  -o content_filter=\n", "#  -o smtpd_milters=no\n", "  -o smtpd_milters=inet:a:1,inet:b:2\n", "  -o smtpd_milters=\n", "  -o { smtpd_milters = inet:a:1, $mua }\n",
				"\t-o {smtpd_milters=$mua}\n", "  -o syslog_name=x -o smtpd_milters=$smtpd_milters\n", "  -o receive_override_options=no_milters\n"))
		}
	}
	master := b.String()
	if r.IntN(4) == 0 {
		master = strings.TrimSuffix(master, "\n")
	}
	senders := SiteSenders{Transports: []string{"slow", "relay"}[:1+r.IntN(2)]}
	if r.IntN(2) == 0 {
		senders.Unlisted = []string{"proxy:mysql:/x.cf"}
	}
	return site{version: pick("3.7.11", "3.10.2"), main: main, master: master, senders: senders}
}

// What setup does is undone to the octet, whatever it found; done twice it is
// done once.
func TestUndoRestores(t *testing.T) {
	rig.Long(t)
	tried, twins := 0, 0
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 1))
		before, s := randomSite(r), settingsOf(r)
		after, ok := before.applied(t, s)
		if !ok {
			continue
		}
		tried++
		if strings.Contains(after.master, "\ntlsonly-") {
			twins++
		}
		if after.main == before.main {
			t.Errorf("seed %d: nothing was done to\n%s", seed, before.main)
		}
		if strings.Contains(after.main+after.master, "$tlsonly") {
			t.Errorf("seed %d: a reference is in\n%s\n%s", seed, after.main, after.master)
		}
		if again, err := Plan(s, after.facts(t)); err != nil || !again.Empty() {
			t.Errorf("seed %d: the second time it changes %q, %v, in\n%s\n%s", seed, again.Changes, err, after.main, after.master)
		}
		// Other settings in between, and back.
		last := s
		if r.IntN(2) == 0 {
			last = settingsOf(r)
			if _, err := Plan(last, after.facts(t)); err != nil {
				last.Senders = contract.SendersMap // a table can't follow this site's
			}
			if after, ok = after.applied(t, last); !ok {
				t.Fatalf("seed %d: other settings can't be applied", seed)
			}
			if r.IntN(2) == 0 { // and other tables
				after.senders = SiteSenders{}
			}
			if after, ok = after.applied(t, last); !ok {
				t.Fatalf("seed %d: other tables can't be applied", seed)
			}
			if again, err := Plan(last, after.facts(t)); err != nil || !again.Empty() {
				t.Errorf("seed %d: with what is surplus it changes %q, %v, in\n%s\n%s", seed, again.Changes, err, after.main, after.master)
			}
		}
		undone := after.undone(t, last)
		if undone.main != before.main || undone.master != before.master {
			t.Errorf("seed %d: undone it is\n%q\n%q\nbefore\n%q\n%q\nafter\n%q\n%q", seed, undone.main, undone.master, before.main, before.master, after.main, after.master)
		}
		if again := PlanUndo(last, undone.facts(t)); !again.Empty() {
			t.Errorf("seed %d: undone twice it changes %q", seed, again.Changes)
		}
		if t.Failed() {
			return
		}
	}
	if twins < 80 {
		t.Errorf("only %d sites had twins", twins)
	}
	if tried < 700 {
		t.Errorf("only %d of 1000 sites were tried", tried)
	}
}

// What the admin does in between stays, wherever that is.
func TestUndoKeepsEdits(t *testing.T) {
	rig.Long(t)
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 2))
		before, s := randomSite(r), settingsOf(r)
		after, ok := before.applied(t, s)
		if !ok {
			continue
		}
		lists := []string{smtpdMilters, otherMilters, senderMaps, policyMaps}
		name := lists[r.IntN(len(lists))]
		edit := map[string]func(text string) string{
			"append to the file": func(text string) string {
				if !strings.HasSuffix(text, "\n") {
					text += "\n"
				}
				return text + "relayhost = [relay.test]\n# done\n"
			},
			"put something first": func(text string) string { return "# mine\nrelayhost = [relay.test]\n" + text },
			"set it again": func(text string) string {
				if !strings.HasSuffix(text, "\n") {
					text += "\n"
				}
				return text + name + " = static:admin\n"
			},
			"add to a list": func(text string) string {
				raw, _ := rawParameter(text, name)
				return withValue(text, name, joinLists(false, blockValue(raw), "static:admin"), true)
			},
		}
		how := slices.Sorted(maps.Keys(edit))[r.IntN(len(edit))]
		edited := before
		edited.main = edit[how](before.main)
		after.main = edit[how](after.main)
		if r.IntN(2) == 0 {
			var ok bool
			if after, ok = after.applied(t, s); !ok {
				continue
			}
		}
		undone := after.undone(t, s)
		want, got := edited.facts(t), undone.facts(t)
		for _, f := range []Facts{want, got} {
			for name, value := range f.Set {
				f.Set[name] = strings.Join(splitList(value), " ")
			}
			maps.DeleteFunc(f.Set, func(_, value string) bool { return value == "" }) // as the default is
		}
		if !maps.Equal(got.Set, want.Set) || undone.master != before.master {
			t.Fatalf("seed %d: %s, %s: undone it sets\n%q\nwant\n%q\nof\n%s\n%s", seed, how, name, got.Set, want.Set, after.main, after.master)
		}
		for _, comment := range []string{"# mine\n", "# done\n"} {
			if strings.Contains(after.main, comment) && !strings.Contains(undone.main, comment) {
				t.Errorf("seed %d: the comment %q is lost", seed, comment)
			}
		}
	}
}

// Without the record, as where main.cf was made anew, the lists are still
// undone, by the shape of what is in them; single values stay, and are named.
func TestUndoWithoutRecord(t *testing.T) {
	rig.Long(t)
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 3))
		before, s := randomSite(r), settingsOf(r)
		after, ok := before.applied(t, s)
		if !ok {
			continue
		}
		after.record = nil
		plan := PlanUndo(s, after.facts(t))
		undone := after.with(t, plan)
		got, want := undone.facts(t), before.facts(t)
		for _, name := range []string{smtpdMilters, otherMilters, senderMaps, policyMaps, "mua"} {
			if a, b := splitList(got.Set[name]), splitList(want.Set[name]); !slices.Equal(a, b) {
				t.Fatalf("seed %d: %s is %q, want %q", seed, name, a, b)
			}
		}
		if undone.master != before.master && undone.master != before.master+"\n" {
			t.Fatalf("seed %d: master.cf is\n%s\nwant\n%s", seed, undone.master, before.master)
		}
		for _, name := range []string{"smtp_tls_CAfile", "smtp_dns_support_level", requiredEnable} {
			named := slices.ContainsFunc(plan.Notes, func(n string) bool { return strings.HasPrefix(n, name+" = ") })
			if got.Set[name] != want.Set[name] && !named {
				t.Errorf("seed %d: %s = %s is left, and nobody says so: %q", seed, name, got.Set[name], plan.Notes)
			}
		}
		// What is lost is found again by the next setup.
		if again, err := Plan(s, after.facts(t)); err != nil || !again.Empty() {
			t.Errorf("seed %d: without the record setup changes %q, %v", seed, again.Changes, err)
		}
	}
}

// FuzzUndo takes any text for main.cf.
func FuzzUndo(f *testing.F) {
	f.Add("smtpd_milters = inet:a:1,\n# c\n\n  inet:b:2 \nsmtpd_milters =\n", uint64(1))
	f.Add(" x\nsmtp_tls_CAfile", uint64(2))
	f.Add("smtp_tls_policy_maps={a, b} }{ c\n\r\n#", uint64(3))
	f.Fuzz(func(t *testing.T, main string, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 4))
		before, s := randomSite(r), settingsOf(r)
		if strings.ContainsAny(main, "\r\v\f") || strings.Contains(main, "tlsonly") || strings.Contains(main, "config_directory") || !balanced(main) {
			t.Skip()
		}
		before.main = main
		after, ok := before.applied(t, s)
		if !ok {
			return
		}
		if undone := after.undone(t, s); undone.main != before.main || undone.master != before.master {
			t.Errorf("undone it is\n%q\nbefore\n%q\nafter\n%q", undone.main, before.main, after.main)
		}
	})
}

// balanced reports whether braces can't swallow what is added to a list:
// Postfix refuses others.
func balanced(text string) bool {
	for _, b := range blocks(text) {
		depth := 0
		for _, c := range plain(text[b.from:b.to]) {
			switch c {
			case '{':
				depth++
			case '}':
				depth--
			}
			if depth < 0 {
				return false
			}
		}
		if depth != 0 {
			return false
		}
	}
	return true
}

// Limits that an administrator has set for our transports by hand aren't setup's:
// they stay, whatever they are and whenever they were set.
func TestUndoLimitsByHand(t *testing.T) {
	const delay, limit, many = "_destination_rate_delay", "_destination_concurrency_limit", "_destination_recipient_limit"
	parameter := func(text, name string) string {
		raw, _ := rawParameter(text, name)
		return strings.Join(strings.Fields(raw), " ")
	}
	for _, c := range []struct {
		name         string
		main         string // before setup
		hand         string // added after it
		after, again string // what a second setup leaves and what the undo leaves
	}{
		{"before setup, as the client's", "smtp_destination_rate_delay = 1s\ntlsonly1_destination_rate_delay = 1s\n", "",
			"tlsonly1" + delay + " = 1s", "tlsonly1" + delay + " = 1s"},
		{"before setup, another", "smtp_destination_concurrency_limit = 5\ntlsonly1_destination_concurrency_limit = 3\n", "",
			"tlsonly1" + limit + " = 3", "tlsonly1" + limit + " = 3"},
		{"after setup, where the client has none", "", "tlsonly1_destination_recipient_limit = 7\n",
			"tlsonly1" + many + " = 7", "tlsonly1" + many + " = 7"},
		{"after setup, over ours", "smtp_destination_concurrency_limit = 5\n", "tlsonly1_destination_concurrency_limit = 9\n",
			"tlsonly1" + limit + " = 9", ""},
		{"by setup", "smtp_destination_concurrency_limit = 5\n", "", "tlsonly1" + limit + " = 5", ""},
	} {
		before := site{version: "3.7.11", main: c.main, master: randomSite(rand.New(rand.NewPCG(1, 1))).master}
		after, ok := before.applied(t, inet())
		if !ok {
			t.Fatalf("%s: can't be applied", c.name)
		}
		name, _, _ := strings.Cut(c.after, " = ")
		if c.hand != "" {
			after.main = withBlock(after.main, name, "") + c.hand
		}
		if plan, err := Plan(inet(), after.facts(t)); err != nil || !plan.Empty() {
			t.Errorf("%s: setup again changes %q, %v", c.name, plan.Changes, err)
		}
		if after, ok = after.applied(t, inet()); !ok || parameter(after.main, name) != c.after {
			t.Errorf("%s: after setup it is %q, want %q", c.name, parameter(after.main, name), c.after)
		}
		undone := after.undone(t, inet())
		want := c.again
		if c.hand != "" {
			want = strings.TrimSpace(c.hand)
		}
		if got := parameter(undone.main, name); got != want {
			t.Errorf("%s: after undo it is %q, want %q", c.name, got, want)
		}
		if c.name == "by setup" { // whose record is from before limits were in it
			delete(after.record.Parameters, name)
			after.record.Limits = false
			if got := parameter(after.undone(t, inet()).main, name); got != "" {
				t.Errorf("%s, with an older record: after undo it is %q", c.name, got)
			}
		}
		if c.hand == "" && undone.main != before.main {
			t.Errorf("%s: undone it is\n%q, before\n%q", c.name, undone.main, before.main)
		}
	}
}
