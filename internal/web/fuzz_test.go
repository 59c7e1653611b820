package web

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// FuzzRequest asks for anything: nothing goes wrong in here, every answer has its headers, and what came with the request is
// never markup.
func FuzzRequest(f *testing.F) {
	for _, seed := range [][4]string{
		{"GET", "/", "", ""},
		{"GET", "/destinations", "query=<script>&level=dane&after=x&limit=3&failing=1", ""},
		{"GET", "/destinations/%5Brelay.example.net%5D:587", "", ""},
		{"GET", "/destinations/<script>", "", ""},
		{"GET", "/v1/changes", "since=9223372036854775808", ""},
		{"GET", "/v1/destinations/x:99999/history", "limit=-1", ""},
		{"POST", "/v1/explain", "", `{"from":"a@b.example","to":"c@d.example","user":"u"}`},
		{"POST", "/v1/check", "", `{"destination":"[lab.example]:26"}`},
		{"POST", "/v1/forwards/test", "", `{"owner":"a@b.example","target":"c@d.example"}`},
		{"PUT", "/v1/log-level", "", `{"level":"debug"}`},
		{"GET", "/explain", "to=<script>&from=%22", ""},
		{"POST", "/explain", "", "from=<script>&to=c@d.example"},
		{"OPTIONS", "*", "", "["},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	s := newTest(f, populated(), nil)
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		u, err := url.ParseRequestURI(path)
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		u.RawQuery = query
		r, err := http.NewRequest(method, "http://localhost/", strings.NewReader(body))
		if err != nil {
			return
		}
		r.URL.Path, r.URL.RawPath, r.URL.RawQuery = u.Path, u.RawPath, u.RawQuery
		r.RemoteAddr = "127.0.0.1:1"
		r.Header.Set("Content-Type", "application/json")
		if path == "/explain" {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set("Sec-Fetch-Site", "same-origin")
		}
		r.Header.Set("Accept", "text/html")
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		switch {
		case w.Code == http.StatusInternalServerError:
			t.Errorf("%s %s: %s", method, path, w.Body)
		case w.Header().Get("Content-Security-Policy") != contentPolicy:
			t.Errorf("%s %s: %v", method, path, w.Header())
		case strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") && strings.Contains(strings.ToLower(w.Body.String()), "<script"):
			t.Errorf("%s %s: %s", method, path, w.Body)
		}
	})
}
