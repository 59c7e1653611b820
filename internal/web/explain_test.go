package web

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// send sends the form of a page as a browser does.
func send(s *Server, form string, headers ...string) *httptest.ResponseRecorder {
	return ask(s, "POST", "/explain", form, append([]string{"Accept", "text/html",
		"Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "same-origin"}, headers...)...)
}

// The page asks what the JSON interface asks, and shows the answer with its
// steps. A link only fills in a form.
func TestExplainPage(t *testing.T) {
	asked := 0
	counting := func(c *Config) {
		explain, delivery := c.Explain, c.ExplainDelivery
		c.Explain = func(ctx context.Context, from, to addr.Address, user string) Explanation {
			asked++
			return explain(ctx, from, to, user)
		}
		c.ExplainDelivery = func(ctx context.Context, to addr.Destination, from *addr.Address, recipient addr.Address) Explanation {
			asked++
			return delivery(ctx, to, from, recipient)
		}
	}
	s := newTest(t, populated(), counting)
	page := func(w *httptest.ResponseRecorder) *html.Node {
		doc, err := html.Parse(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		for _, problem := range faults(doc) {
			t.Error(problem)
		}
		return doc
	}
	value := func(doc *html.Node, id string) string {
		for _, n := range all(doc, atom.Input) {
			if attr(n, "id") == id {
				return attr(n, "value")
			}
		}
		return "no such field"
	}

	for _, link := range []string{"/explain", "/explain?to=a%40b.example&from=%3C%3E&user=lis", "/explain?delivery=lab.example"} {
		w := ask(s, "GET", link, "", "Accept", "text/html")
		status(t, w, 200)
		doc := page(w)
		if strings.Contains(link, "to=") && (value(doc, "to") != "a@b.example" || value(doc, "from") != "<>" || value(doc, "user") != "lis" || value(doc, "next") != "") {
			t.Errorf("%s: %s", link, w.Body)
		}
		if strings.Contains(link, "delivery=") && (value(doc, "next") != "lab.example" || value(doc, "to") != "") {
			t.Errorf("%s: %s", link, w.Body)
		}
	}
	if asked != 0 {
		t.Errorf("%d questions by links", asked)
	}

	for _, q := range []struct {
		form   string
		status int
		want   []string
	}{
		{"from=doctor@clinic.example&to=desk@lab.example&user=", 200, []string{"verdict accept", "Steps plan rule \"clinic\" (line 30) asks for encrypt",
			"observe lab.example: from memory, probed at 2026-11-23T07:00:00Z", "verdict accept"}},
		{"from=%3C%3E&to=desk@lab.example", 200, []string{"from <>"}},
		{"user=lis&to=desk@lab.example", 200, []string{"login lis"}},
		{"delivery=lab.example&from=doctor@clinic.example", 200, []string{`postfix asks the map "policy"`, "of doctor@clinic.example", `sendmail asks the map "sendmail"`, "demand by rule clinic"}},
		{"delivery=lab.example&from=", 200, []string{"of everybody"}},
		{"to=desk@lab.example", 400, []string{"want from"}},
		{"from=a@b..c&to=desk@lab.example", 400, []string{"from: "}},
		{"from=a@b.example&to=%3C%3E", 400, []string{"to: want an address"}},
		{"delivery=a..b", 400, []string{"delivery: "}},
		{"delivery=lab.example&to=c", 400, []string{"to "}},
		{"", 400, []string{"want from"}},
	} {
		before := asked
		w := send(s, q.form)
		status(t, w, q.status)
		doc := page(w)
		for _, part := range q.want {
			if !strings.Contains(text(doc), part) {
				t.Errorf("%s: no %q in %s", q.form, part, text(doc))
			}
		}
		if want := map[int]int{200: 1}[q.status]; asked-before != want {
			t.Errorf("%s: %d questions, want %d", q.form, asked-before, want)
		}
		if to := "desk@lab.example"; strings.Contains(q.form, "to="+to) && value(doc, "to") != to {
			t.Errorf("%s: the form has lost %s", q.form, to)
		}
	}

	none := newTest(t, populated(), func(c *Config) { c.Explain, c.ExplainDelivery = nil, nil })
	if doc := page(ask(none, "GET", "/explain", "", "Accept", "text/html")); len(all(doc, atom.Form)) != 0 {
		t.Error("forms for nobody")
	}
	status(t, send(none, "from=a@b.example&to=c@d.example"), 501)
}

// No page but one from here can have a browser send the form: what it asks may
// take a probe of a host that somebody else names.
func TestExplainCrossSite(t *testing.T) {
	s := newTest(t, populated(), nil)
	const form, media = "from=a@b.example&to=c@d.example", "application/x-www-form-urlencoded"
	for _, test := range []struct {
		headers []string
		status  int
	}{
		{[]string{"Content-Type", media, "Sec-Fetch-Site", "same-origin"}, 200},
		{[]string{"Content-Type", media + "; charset=utf-8", "Sec-Fetch-Site", "same-origin"}, 200},
		{[]string{"Content-Type", media, "Origin", "http://localhost:8691"}, 200},
		{[]string{"Content-Type", media}, 403},
		{[]string{"Content-Type", media, "Sec-Fetch-Site", "none"}, 403},
		{[]string{"Content-Type", media, "Sec-Fetch-Site", "same-site"}, 403},
		{[]string{"Content-Type", media, "Sec-Fetch-Site", "cross-site"}, 403},
		{[]string{"Content-Type", media, "Sec-Fetch-Site", "cross-site", "Origin", "http://localhost:8691"}, 403},
		{[]string{"Content-Type", media, "Origin", "https://attacker.example"}, 403},
		{[]string{"Content-Type", media, "Origin", "null"}, 403},
		{[]string{"Content-Type", "text/plain", "Sec-Fetch-Site", "same-origin"}, 415},
		{[]string{"Content-Type", "multipart/form-data; boundary=x", "Sec-Fetch-Site", "same-origin"}, 415},
		{[]string{"Content-Type", media, "Sec-Fetch-Site", "same-origin", "Host", "attacker.example"}, 421},
	} {
		if w := ask(s, "POST", "/explain", form, test.headers...); w.Code != test.status {
			t.Errorf("%v: %d %s", test.headers, w.Code, w.Body)
		}
	}
	status(t, send(s, "from="+strings.Repeat("x", maxBody)), 413)
	status(t, ask(s, "PUT", "/explain", ""), 405)
	hash := hashOf(t, "secret")
	s = newTest(t, populated(), func(c *Config) { c.Password = hash })
	status(t, send(s, form), 401)
	status(t, send(s, form, "Authorization", basic("secret")), 200)
}

// What others say of themselves, and what was asked, is text.
func TestExplainEscaped(t *testing.T) {
	const evil = `"><script>alert(1)</script>`
	s := newTest(t, populated(), func(c *Config) {
		c.Explain = func(context.Context, addr.Address, addr.Address, string) Explanation {
			return Explanation{Parts: []Part{{Title: evil, Facts: []Fact{{evil, evil}}, Steps: policy.Trace{{Stage: evil, Text: evil}}}}}
		}
	})
	for _, w := range []*httptest.ResponseRecorder{
		send(s, "from=a@b.example&to=c@d.example"),
		send(s, "from="+strings.ReplaceAll(evil, " ", "+")+"&to="+evil+"&user="+evil),
		send(s, "delivery="+evil),
		ask(s, "GET", "/explain?user=%22%3E%3Cscript%3E", ""),
	} {
		if body := w.Body.String(); strings.Contains(body, "<script") || !strings.Contains(body, "&lt;script") {
			t.Errorf("%d %s", w.Code, body)
		}
	}
}
