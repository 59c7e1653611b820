package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// answer asks for JSON and reads it into a T.
func answer[T any](t *testing.T, s *Server, method, path, body string) T {
	t.Helper()
	w := ask(s, method, path, body)
	var v T
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	d := json.NewDecoder(w.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return v
}

func TestListing(t *testing.T) {
	w := populated()
	s := newTest(t, w, nil)
	var names []string
	for after := ""; ; {
		list := answer[destinationList](t, s, "GET", "/v1/destinations?limit=7&after="+url.QueryEscape(after), "")
		if list.Matched != len(w.known) {
			t.Fatalf("%d of %d", list.Matched, len(w.known))
		}
		for _, d := range list.Destinations {
			names = append(names, d.Destination.String())
		}
		if after = list.Next; after == "" {
			break
		}
	}
	if len(names) != len(w.known) {
		t.Errorf("%d names of %d", len(names), len(w.known))
	}
	for i := range names[1:] {
		if names[i] >= names[i+1] {
			t.Errorf("%s before %s", names[i], names[i+1])
		}
	}
	list := answer[destinationList](t, s, "GET", "/v1/destinations?query=PHARM&failing=true&pinned=1&lost=true&level=may", "")
	if len(list.Destinations) != 1 || list.Incomplete {
		t.Fatal(list)
	}
	d := list.Destinations[0]
	if d.Pin == nil || d.Pin.By != "rule:clinic" || !d.LostTLS || d.Failures != 3 || d.Level != policy.LevelMay || d.Since.IsZero() || d.Assessment != nil {
		t.Errorf("%+v", d)
	}
	if list := answer[destinationList](t, s, "GET", "/v1/destinations?query=nobody", ""); list.Destinations == nil || list.Matched != 0 {
		t.Error("want an empty list")
	}
	w.away = errors.New("disk full")
	list = answer[destinationList](t, s, "GET", "/v1/destinations?lost=true", "")
	if !list.Incomplete || len(list.Destinations) != 1 || !list.Destinations[0].Pinned || list.Destinations[0].LastLook.IsZero() {
		t.Errorf("from memory: %+v", list)
	}
}

func TestOne(t *testing.T) {
	s := newTest(t, populated(), nil)
	d := answer[Destination](t, s, "GET", "/v1/destinations/LAB.example.", "")
	if d.Level != policy.LevelDane || d.Assessment == nil || len(d.Assessment.Hosts) != 2 || d.Demand == nil {
		t.Errorf("%+v", d)
	}
	h := answer[changeList](t, s, "GET", "/v1/destinations/lab.example/history?limit=2", "")
	if len(h.Changes) != 2 || h.Changes[0].ID < h.Changes[1].ID {
		t.Error(h)
	}
	if h := answer[changeList](t, s, "GET", "/v1/destinations/nobody.example/history", ""); h.Changes == nil {
		t.Error("want an empty list")
	}
}

func TestChanges(t *testing.T) {
	w := populated()
	s := newTest(t, w, nil)
	var since int64
	count := 0
	for {
		list := answer[changeList](t, s, "GET", fmt.Sprintf("/v1/changes?limit=5&since=%d", since), "")
		if len(list.Changes) == 0 {
			if list.Last != since {
				t.Errorf("last %d after %d", list.Last, since)
			}
			break
		}
		count += len(list.Changes)
		since = list.Last
	}
	if count != len(w.events) {
		t.Errorf("%d changes of %d", count, len(w.events))
	}
}

func TestAsking(t *testing.T) {
	s := newTest(t, populated(), nil)
	e := answer[map[string]string](t, s, "POST", "/v1/explain", `{"from":"<>","to":"a@b.example","user":"lis"}`)
	if e["from"] != "<>" || e["to"] != "a@b.example" || e["user"] != "lis" {
		t.Error(e)
	}
	for _, q := range []struct{ body, want string }{
		{`{"delivery":"[lab.example]:587"}`, "[lab.example]:587 everybody <>"},
		{`{"delivery":"lab.example","from":"<>"}`, "lab.example <> <>"},
		{`{"delivery":"lab.example","from":"a@b.example","to":"c@d.example"}`, "lab.example a@b.example c@d.example"},
	} {
		e := answer[map[string]string](t, s, "POST", "/v1/explain", q.body)
		if got := e["delivery"] + " " + e["from"] + " " + e["to"]; got != q.want {
			t.Errorf("%s: %s, want %s", q.body, got, q.want)
		}
	}
	c := answer[checkedNow](t, s, "POST", "/v1/check", `{"destination":"lab.example"}`)
	if c.Level != policy.LevelEncrypt || c.Reason != "" || !c.Assessment.When.Equal(noon) || len(c.Advice) == 0 {
		t.Errorf("%+v", c)
	}
	f := answer[map[string]string](t, s, "POST", "/v1/forwards/test", `{"owner":"a@b.example","target":"c@d.example"}`)
	if f["target"] != "c@d.example" {
		t.Error(f)
	}
	if f := answer[map[string][]Forward](t, s, "GET", "/v1/forwards", ""); len(f["forwards"]) != 2 || f["forwards"][0].Reason != policy.NoSTARTTLS {
		t.Error(f)
	}
}

// What is refused is refused as a problem.
func TestRefused(t *testing.T) {
	bare := func(c *Config) {
		c.Explain, c.ExplainDelivery, c.Assess, c.TestForward, c.Forwards, c.LogLevel = nil, nil, nil, nil, nil, nil
	}
	post := func(path, body string) []string { return []string{"POST", path, body} }
	get := func(path string) []string { return []string{"GET", path, ""} }
	for _, test := range []struct {
		ask    []string
		status int
		detail string
		change func(*Config)
	}{
		{get("/v1/destinations?limit=0"), 400, `limit "0": want 1 to 500`, nil},
		{get("/v1/destinations?limit=501"), 400, `limit "501": want 1 to 500`, nil},
		{get("/v1/destinations?level=good&failing=maybe"), 400, "failing \"maybe\": want true or false\nlevel \"good\": want one of", nil},
		{get("/v1/destinations?query=" + strings.Repeat("x", 300)), 400, "want 255 octets at most", nil},
		{get("/v1/destinations/nobody.example"), 404, "nothing is known of it", nil},
		{get("/v1/destinations/a..b"), 400, "destination", nil},
		{get("/v1/destinations/a..b/history"), 400, "destination", nil},
		{get("/v1/changes?since=-1"), 400, `since "-1": want the id of a change`, nil},
		{get("/v1/changes?limit=x"), 400, "limit", nil},
		{post("/v1/explain", `{`), 400, "unexpected EOF", nil},
		{post("/v1/explain", `{"from":"a@b.example","to":"c@d.example"} x`), 400, "want one object", nil},
		{post("/v1/explain", `{"form":"a@b.example"}`), 400, `unknown field "form"`, nil},
		{post("/v1/explain", `{"to":"c@d.example"}`), 400, "want from", nil},
		{post("/v1/explain", `{"from":"a@b.example","to":"<>"}`), 400, "to: want an address", nil},
		{post("/v1/explain", `{"from":"a@b..c","to":"c@d.example"}`), 400, "from: ", nil},
		{post("/v1/explain", `{"from":"`+strings.Repeat("x", maxBody)+`"}`), 413, "65536 octets at most", nil},
		{post("/v1/check", `{"destination":"nobody.example"}`), 404, "nothing is known of it", nil},
		{post("/v1/check", `{"destination":"a..b"}`), 400, "destination", nil},
		{post("/v1/check", `{}`), 400, "want a destination", nil},
		{post("/v1/forwards/test", `{"owner":"a","target":"c@d.example"}`), 400, `owner "a": want local@domain`, nil},
		{post("/v1/forwards/test", `{"owner":"a@b.example","target":""}`), 400, `target "": want local@domain`, nil},
		{post("/v1/forwards/test", `{"owner":"a@b.example","target":"x@away.example"}`), 503, "resolver away", nil},
		{post("/v1/forwards/test", `{"owner":"a@b.example","target":"c@d.example"}`), 501, "isn't set up", bare},
		{get("/v1/forwards"), 501, "isn't set up", bare},
		{post("/v1/explain", `{}`), 501, "isn't set up", bare},
		{post("/v1/explain", `{"delivery":"lab.example"}`), 501, "[socketmap] listen isn't set up", bare},
		{post("/v1/explain", `{"delivery":"b..d"}`), 400, "delivery: ", nil},
		{post("/v1/explain", `{"delivery":"lab.example","from":"a@b..d"}`), 400, "from: ", nil},
		{post("/v1/explain", `{"delivery":"lab.example","to":"c"}`), 400, "to ", nil},
		{post("/v1/explain", `{"delivery":"lab.example","user":"lis"}`), 400, "no login is known", nil},
		{post("/v1/check", `{}`), 501, "isn't set up", bare},
		{[]string{"PUT", "/v1/log-level", `{"level":"debug"}`}, 501, "isn't set up", bare},
		{get("/v1/log-level"), 501, "isn't set up", bare},
		{[]string{"PUT", "/v1/log-level", `{"level":"loud"}`}, 400, `level "loud": want debug, info, warn or error`, nil},
	} {
		s := newTest(t, populated(), test.change)
		w := ask(s, test.ask[0], test.ask[1], test.ask[2])
		var p problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%v: %v %s", test.ask[:2], err, w.Body)
		}
		if w.Code != test.status || p.Status != test.status || p.Type != "about:blank" || p.Title != http.StatusText(test.status) || !strings.Contains(p.Detail, test.detail) {
			t.Errorf("%v: %d %+v", test.ask[:2], w.Code, p)
		}
	}
}

// Another site's page can't have a browser ask for anything but what it can't read.
func TestCrossSite(t *testing.T) {
	s := newTest(t, populated(), nil)
	const body = `{"from":"a@b.example","to":"c@d.example"}`
	for _, test := range []struct {
		headers []string
		status  int
	}{
		{nil, 200},
		{[]string{"Content-Type", "text/plain"}, 415},
		{[]string{"Content-Type", "application/x-www-form-urlencoded"}, 415},
		{[]string{"Content-Type", "application/json; charset=utf-8"}, 200},
		{[]string{"Sec-Fetch-Site", "cross-site"}, 403},
		{[]string{"Sec-Fetch-Site", "same-origin"}, 200},
		{[]string{"Origin", "https://attacker.example"}, 403},
		{[]string{"Origin", "http://localhost:8691"}, 200},
		{[]string{"Origin", "null"}, 403},
	} {
		if w := ask(s, "POST", "/v1/explain", body, test.headers...); w.Code != test.status {
			t.Errorf("%v: %d %s", test.headers, w.Code, w.Body)
		}
	}
}

func TestLogLevel(t *testing.T) {
	var level slog.LevelVar
	with := func(change func(*Config)) *Server {
		return newTest(t, populated(), func(c *Config) {
			c.LogLevel = &level
			if change != nil {
				change(c)
			}
		})
	}
	put := func(s *Server, remote, to string, headers ...string) int {
		r, err := http.NewRequest("PUT", "http://localhost/v1/log-level", strings.NewReader(`{"level":"`+to+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		r.RemoteAddr = remote
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		w := &recorder{header: http.Header{}, status: 200}
		s.ServeHTTP(w, r)
		return w.status
	}
	const here, far = "127.0.0.1:1", "192.0.2.1:1"
	hash := hashOf(t, "secret")
	for _, test := range []struct {
		name   string
		server *Server
		remote string
		given  []string
		status int
	}{
		{"here", with(nil), here, nil, 200},
		{"far", with(nil), far, nil, 403},
		{"by a proxy", with(func(c *Config) { c.BehindProxy = true }), here, nil, 403},
		{"without the password", with(func(c *Config) { c.Password = hash }), here, nil, 401},
		{"with it", with(func(c *Config) { c.Password = hash }), far, []string{"Authorization", basic("secret")}, 200},
		{"with it by a proxy", with(func(c *Config) { c.Password, c.BehindProxy = hash, true }), here, []string{"Authorization", basic("secret")}, 200},
	} {
		level.Set(slog.LevelInfo)
		if got := put(test.server, test.remote, "debug", test.given...); got != test.status || (got == 200) != (level.Level() == slog.LevelDebug) {
			t.Errorf("%s: %d, level %s", test.name, got, level.Level())
		}
	}
	s := with(nil)
	for _, word := range []string{"debug", "info", "warn", "error"} {
		if got := put(s, here, word); got != 200 {
			t.Errorf("%s: %d", word, got)
		}
		if l := answer[logLevel](t, s, "GET", "/v1/log-level", ""); l.Level != word {
			t.Errorf("%s, not %s", l.Level, word)
		}
	}
}

type recorder struct {
	header http.Header
	status int
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(p []byte) (int, error) { return len(p), nil }

// No more is looked at at a time than there are slots; who waits too long is told so.
func TestSlots(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	s := newTest(t, populated(), func(c *Config) {
		c.Explain = func(context.Context, addr.Address, addr.Address, string) Explanation {
			entered <- struct{}{}
			<-leave
			return Explanation{}
		}
	})
	const body = `{"from":"a@b.example","to":"c@d.example"}`
	done := make(chan int, maxSlow)
	for i := range maxSlow {
		go func() {
			if i%2 == 0 { // the page and the interface share them
				done <- send(s, "from=a@b.example&to=c@d.example").Code
			} else {
				done <- ask(s, "POST", "/v1/explain", body).Code
			}
		}()
		<-entered
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := slot(ctx, s.slow); err == nil {
		t.Error("one more look")
	}
	close(leave)
	for range maxSlow {
		if code := <-done; code != 200 {
			t.Error(code)
		}
	}
}

// A request ends in time, whatever it waits for.
func TestTimeout(t *testing.T) {
	s := newTest(t, populated(), func(c *Config) {
		c.Timeout = time.Millisecond
		c.TestForward = func(ctx context.Context, _, _ addr.Address) (any, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	w := ask(s, "POST", "/v1/forwards/test", `{"owner":"a@b.example","target":"c@d.example"}`)
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "it took too long") {
		t.Error(w.Code, w.Body)
	}
}
