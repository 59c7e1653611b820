package web

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

// crawl asks for every page that can be reached from the overview by links and search forms.
func crawl(t *testing.T, s *Server) map[string]*html.Node {
	t.Helper()
	pages := map[string]*html.Node{}
	files := map[string]bool{}
	for todo := []string{"/"}; len(todo) > 0; todo = todo[1:] {
		path, _, _ := strings.Cut(todo[0], "#")
		if pages[path] != nil || files[path] {
			continue
		}
		w := ask(s, "GET", path, "", "Accept", "text/html")
		if w.Code != 200 && path != "/readyz" {
			t.Errorf("%s: %d", path, w.Code)
		}
		if !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
			files[path] = true
			continue
		}
		doc, err := html.Parse(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		pages[path] = doc
		for n := range doc.Descendants() {
			for _, name := range []string{"href", "src", "action"} {
				if link := attr(n, name); link != "" {
					if !strings.HasPrefix(link, "/") && !strings.HasPrefix(link, "#") {
						t.Errorf("%s: %s leads elsewhere", path, link)
					} else if strings.HasPrefix(link, "/") {
						todo = append(todo, link)
					}
				}
			}
		}
	}
	return pages
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func all(doc *html.Node, tags ...atom.Atom) []*html.Node {
	var found []*html.Node
	for n := range doc.Descendants() {
		if n.Type == html.ElementNode && slices.Contains(tags, n.DataAtom) {
			found = append(found, n)
		}
	}
	return found
}

// blocks are elements that begin a new piece of text.
var blocks = []atom.Atom{atom.Td, atom.Th, atom.Dt, atom.Dd, atom.Li, atom.P, atom.Div, atom.H1, atom.H2, atom.H3, atom.Caption}

func text(n *html.Node) string {
	var b strings.Builder
	for c := range n.Descendants() {
		if c.Type == html.TextNode {
			b.WriteString(c.Data)
		} else if slices.Contains(blocks, c.DataAtom) {
			b.WriteString(" ")
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// Every page of every state can be reached, used with a keyboard and read aloud, and has nothing that the policy forbids.
func TestPages(t *testing.T) {
	bare := newWorld()
	away := populated()
	away.away = errors.New("disk full")
	for name, s := range map[string]*Server{
		"populated": newTest(t, populated(), nil),
		"bare": newTest(t, bare, func(c *Config) {
			c.Meter, c.Counts, c.Checks, c.Advice, c.Outage, c.Forwards = NewMeter(func() time.Time { return noon }), nil, nil, nil, nil, nil
			c.Inbound, c.Binding, c.LastAsked = nil, nil, nil
		}),
		"store unavailable": newTest(t, away, func(c *Config) {
			c.Outage = func() string { return "port 25 is closed on the way out" }
			c.Binding = func() (Binding, bool) { return unbound(), true }
			c.Meter.Reloaded(noon, errors.New("tlsonly.toml:3: <b>wrong</b>"))
			c.Meter.Decided(Decision{"a rule that is gone", policy.Accept, "", policy.Enforce}, 0)
			c.Meter.Admitted(Decision{"an inbound rule that is gone", policy.Accept, "", policy.Enforce})
		}),
	} {
		t.Run(name, func(t *testing.T) {
			pages := crawl(t, s)
			if name == "populated" && len(pages) < 80 || len(pages) < 3 {
				t.Errorf("%d pages", len(pages))
			}
			for path, doc := range pages {
				for _, problem := range faults(doc) {
					t.Errorf("%s: %s", path, problem)
				}
			}
		})
	}
}

// faults are what a checker of accessibility and of our own policy would say.
func faults(doc *html.Node) (found []string) {
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	ids := map[string]bool{}
	level := 1
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		if id := attr(n, "id"); id != "" {
			if ids[id] {
				say("id %s is there twice", id)
			}
			ids[id] = true
		}
		for _, a := range n.Attr {
			if a.Key == "style" || strings.HasPrefix(a.Key, "on") {
				say("%s has %s", n.Data, a.Key)
			}
		}
		switch n.DataAtom {
		case atom.Script, atom.Style, atom.Iframe, atom.Object, atom.Embed, atom.Base:
			say("%s is there", n.Data)
		case atom.Img:
			if !slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == "alt" }) {
				say("an image without alt")
			}
		case atom.Table:
			if len(all(n, atom.Caption)) != 1 {
				say("a table without a caption")
			}
			for _, th := range all(n, atom.Th) {
				if attr(th, "scope") == "" {
					say("%q has no scope", text(th))
				}
			}
			rows := all(n, atom.Tr)
			head := len(all(rows[0], atom.Th))
			for _, row := range rows[1:] {
				if len(all(row, atom.Th)) != 1 || len(all(row, atom.Th, atom.Td)) != head {
					say("row %q doesn't fit the head", text(row))
				}
			}
		case atom.H1, atom.H2, atom.H3:
			if now := int(n.Data[1] - '0'); now > level+1 {
				say("heading %q leaves a level out", text(n))
			} else {
				level = now
			}
		case atom.A:
			if text(n) == "" {
				say("a link without text")
			}
		case atom.Form:
			if attr(n, "method") != "get" && attr(n, "action") != "/explain" {
				say("a form that changes something")
			}
		}
	}
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		for _, name := range []string{"aria-labelledby", "for"} {
			if id := attr(n, name); id != "" && !ids[id] {
				say("%s %s leads nowhere", name, id)
			}
		}
		if link := attr(n, "href"); strings.HasPrefix(link, "#") && !ids[link[1:]] {
			say("%s leads nowhere", link)
		}
		if class := attr(n, "class"); n.DataAtom == atom.Section && attr(n, "aria-labelledby") == "" {
			say("section %q has no name", class)
		} else if class == "scroll" && (attr(n, "tabindex") != "0" || attr(n, "role") != "region" || attr(n, "aria-label") == "") {
			say("what scrolls can't be reached with a keyboard")
		}
		if n.Data == "svg" && attr(n, "aria-hidden") != "true" {
			say("a picture that is read aloud without words")
		}
	}
	for _, label := range all(doc, atom.Input, atom.Select) {
		id := attr(label, "id")
		named := label.Parent.DataAtom == atom.Label || slices.ContainsFunc(all(doc, atom.Label), func(l *html.Node) bool { return id != "" && attr(l, "for") == id })
		if !named {
			say("%s has no label", attr(label, "name"))
		}
	}
	for tag, want := range map[atom.Atom]int{atom.Main: 1, atom.H1: 1, atom.Title: 1, atom.Header: 1, atom.Footer: 1} {
		if n := len(all(doc, tag)); n != want {
			say("%d of %s", n, tag)
		}
	}
	if first := all(doc, atom.A)[0]; attr(first, "href") != "#main" {
		say("the first link doesn't skip to the content")
	}
	if attr(all(doc, atom.Html)[0], "lang") != "en" {
		say("no language")
	}
	return found
}

// What is shown is what there is.
func TestShown(t *testing.T) {
	w := populated()
	s := newTest(t, w, nil)
	get := func(path string) string {
		rec := ask(s, "GET", path, "")
		status(t, rec, 200)
		doc, err := html.Parse(rec.Body)
		if err != nil {
			t.Fatal(err)
		}
		return text(doc)
	}
	for path, want := range map[string][]string{
		"/": {"Overview In the last 24 hours mail of protected senders to 2 083 recipients was accepted, and leaves over TLS or not at all; 37 were refused.",
			"1 destination lost TLS, its protected mail waits: pharmacy.example.", "Destinations 72", "No TLS 2", "Unreachable 1", "Lost TLS 1", "pharmacy.example lost TLS: no-starttls", "clinic encrypt accept 97 %, defer < 1 %, reject 2 % 1 843 0 0 16 37",
			"alice@clinic.example alice.private@legacy.example /home/alice/.forward:3 clinic no-starttls", "dane 13 18 %", "1 min behind", "Not bound no recipient"},
		"/destinations/lab.example": {"Level reached dane", "by rule:clinic, 2026-05-07 12:00:00 UTC (200 days ago)", "encrypt 1.2 128", "MX 10 mx1.lab.example",
			"TLS 1.3, TLS_AES_256_GCM_SHA384, 256 bits, X25519MLKEM768", "matched (dane-ee)", "60 days left", "level encrypt → dane seen by mx1"},
		"/destinations/pharmacy.example":            {"may lost TLS", "3 assessments since", "no: no-starttls", "does not offer STARTTLS", "sign the zone of pharmacy.example"},
		"/destinations/insurance.example":           {"Mode enforce", "*.insurance.example", "named by the policy"},
		"/destinations/selfsigned.example":          {"self-signed: the leaf signed itself", "expired"},
		"/destinations/unreachable.example":         {"unreachable at connect: connect: connection refused", "12 assessments"},
		"/destinations/gone.example":                {"no-such-domain", "NXDOMAIN"},
		"/destinations/forgotten.example":           {"Level reached unknown", "forgotten: no mail since 2026-08-25"},
		"/destinations/new.example":                 {"Level reached unknown", "Nothing changed yet."},
		"/destinations/%5Brelay.example.net%5D:587": {"[relay.example.net]:587", "host relay.example.net"},
		"/destinations?query=Hospital":              {"2 of 72 destinations", "hospital.example"},
		"/destinations?fault=no-mail":               {"1 of 72 destinations", "gone.example", "accepts no mail, 5 assessments"},
		"/destinations?failing=true":                {"3 of 72 destinations"},
		"/destinations?fault=gone":                  {`fault "gone": want one of no-tls, unreachable, no-mail`},
		"/destinations?lost=true":                   {"1 of 72 destinations", "pharmacy.example lost TLS"},
		"/destinations?level=dane&pinned=true":      {"13 of 72 destinations"},
		"/destinations?level=wrong":                 {`level "wrong": want one of dane, secure, encrypt, may, none, unknown`},
		"/destinations?query=nobody":                {"None."},
		"/rules": {"legacy exception contract 4711, until their new server", "@legacy.example", "Ends after 2027-01-23", "login lis", "mail.provider.example",
			"reject no-starttls 37", "trial observe", "accept weak-tls 9"},
	} {
		shown := get(path)
		for _, part := range want {
			if !strings.Contains(shown, part) {
				t.Errorf("%s: no %q in %s", path, part, shown)
			}
		}
	}
	w.away = errors.New("disk full")
	for path, want := range map[string]string{
		"/": "Overview tlsonly doesn’t work as it should, and protected mail may wait: store.", "/destinations": "The store doesn’t answer.", "/destinations/lab.example": "The store doesn’t answer.",
	} {
		if shown := get(path); !strings.Contains(shown, want) {
			t.Errorf("%s with the store away: %s", path, shown)
		}
	}
}

// What others say of themselves is text, never markup.
func TestEscaped(t *testing.T) {
	const evil = `"><script>alert(1)</script>`
	w := newWorld()
	w.add(seen("evil.example", noon, policy.SawTLS, func(a *policy.Assessment) {
		o := &a.Hosts[0].Observations[0]
		o.Banner, o.Extensions, o.Detail, o.Chain[0].Subject, o.Chain[0].Issuer = evil, []string{evil}, evil, evil, evil
		o.Chain[0].Names = []string{evil}
		a.MTASTS = policy.STS{Problem: evil}
		a.Detail = evil
	}), nil)
	w.events = []store.Event{{ID: 1, When: noon, Destination: addr.MustDestination("evil.example"), What: store.HostsChanged, To: evil, Why: evil, Host: evil}}
	s := newTest(t, w, func(c *Config) { c.Meter.Decided(Decision{evil, policy.Accept, "", policy.Enforce}, 0) })
	for _, path := range []string{"/", "/destinations/evil.example", "/rules", "/destinations?query=" + "%22%3E%3Cscript%3Ealert(1)%3C/script%3E"} {
		body := ask(s, "GET", path, "").Body.String()
		if strings.Contains(body, "<script") || !strings.Contains(body, "&lt;script") {
			t.Errorf("%s: %s", path, body)
		}
	}
}

// Rules about how mail comes in stand with the others, with what they decided.
func TestInboundRules(t *testing.T) {
	s := newTest(t, populated(), func(c *Config) { c.Meter.Admitted(Decision{"former", policy.Accept, "", policy.Enforce}) })
	for path, want := range map[string][]string{
		"/":      {`<a href="/rules#inbound-70">insurer</a>`, `<span class="tag">inbound</span> verified`, `former <span class="dim">(gone)</span>`, `reject 100 %`},
		"/rules": {`<h2 id="inbound-70">insurer`, "gw.insurer.example", "<dd>@insurer.example</dd>", "<td>no-tls</td>", "contract 4712", "TLS 1.2 or later, 128 bits"},
	} {
		body := ask(s, "GET", path, "").Body.String()
		for _, text := range want {
			if !strings.Contains(body, text) {
				t.Errorf("%s lacks %s", path, text)
			}
		}
	}
}

// Bars fill their chart and nothing that happened is too narrow to be seen.
func TestBars(t *testing.T) {
	for _, counts := range [][]uint64{{1, 0, 0, 0, 0}, {1000000, 1, 1, 1, 1}, {1, 1, 1, 1, 1000000}, {1, 1, 1, 1, 1}} {
		row := ruleRow{}
		for i, v := range verdicts() {
			row.Reasons = append(row.Reasons, counted{Decision{"r", v, "", policy.Enforce}, counts[i]})
			row.Total += counts[i]
		}
		row.chart()
		end := 0.0
		for _, b := range row.Bars {
			if b.X != end || b.Width < 1 {
				t.Errorf("%v: %v", counts, row.Bars)
			}
			end += b.Width
		}
		if math.Abs(end-100) > 0.001 {
			t.Errorf("%v: they end at %v", counts, end)
		}
	}
}

// Texts can be read, in both schemes: WCAG 2.2, success criterion 1.4.3 (4.5 to 1), and graphics: 1.4.11 (3 to 1).
func TestContrast(t *testing.T) {
	css, err := assets.ReadFile("assets/style.css")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile(`:root \{([^}]*)\}`).FindAllStringSubmatch(string(css), -1)
	if len(blocks) != 2 {
		t.Fatalf("%d colour schemes", len(blocks))
	}
	colours := map[string]string{}
	for i, scheme := range []string{"light", "dark"} {
		for _, m := range regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]{6});`).FindAllStringSubmatch(blocks[i][1], -1) {
			colours[m[1]] = m[2]
		}
		check := func(front, back string, least float64) {
			t.Helper()
			if colours[front] == "" || colours[back] == "" {
				t.Errorf("%s: no colour %s or %s", scheme, front, back)
			} else if got := contrast(colours[front], colours[back]); got < least {
				t.Errorf("%s: %s on %s: %.2f, want %.1f", scheme, front, back, got, least)
			}
		}
		for _, front := range []string{"ink", "dim", "link", "good", "bad", "warn", "dane", "secure", "encrypt", "may", "none", "unknown"} {
			check(front, "card", 4.5)
		}
		for _, front := range []string{"ink", "dim", "link"} {
			check(front, "paper", 4.5)
		}
		for _, back := range []string{"good-back", "warn-back", "bad-back", "ground"} {
			check("ink", back, 4.5)
			check("link", back, 4.5)
		}
		for _, state := range []string{"good", "warn", "bad"} {
			check(state, state+"-back", 4.5)
		}
		check("card", "link", 4.5) // buttons
		for _, front := range []string{"dane", "secure", "encrypt", "may", "none", "unknown"} {
			check(front, "ground", 3)
		}
		for _, front := range []string{"accept", "hold", "defer", "reject"} {
			check(front, "card", 2.5) // the numbers stand beside it
		}
	}
}

func contrast(a, b string) float64 {
	luminance := func(colour string) float64 {
		n, _ := strconv.ParseUint(colour[1:], 16, 32)
		sum := 0.0
		for i, weight := range []float64{0.0722, 0.7152, 0.2126} {
			c := float64(n>>(8*i)&255) / 255
			if c <= 0.04045 {
				c /= 12.92
			} else {
				c = math.Pow((c+0.055)/1.055, 2.4)
			}
			sum += weight * c
		}
		return sum
	}
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}
