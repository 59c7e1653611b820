package maillog

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

//go:embed page.html
var pageHTML string

// HTML writes the report as one printable page that needs nothing else: no script, no picture, no other file.
func (p *Report) HTML(w io.Writer, title string, made time.Time) error {
	most := busiest(p.Days)
	page, err := template.New("report").Funcs(template.FuncMap{
		"time": func(t time.Time) string {
			if t.IsZero() {
				return "–"
			}
			return t.Format("2006-01-02 15:04:05 -07:00")
		},
		"bars":     func(r Row) []bar { return bars(r.Counts, most) },
		"chart":    func() chart { return newChart(p.Days) },
		"soft":     soft,
		"state":    func() string { _, state := p.Verdict(); return state },
		"versions": func() []Row { return versionRows(p.Versions) },
		"trust": func() []Row {
			var list []Row
			for _, t := range []Trust{Verified, Trusted, Untrusted, Anonymous, ""} {
				if n := p.Trust[t]; n > 0 {
					list = append(list, Row{orSaid(string(t)), Counts{Encrypted: n}})
				}
			}
			return list
		},
		"more":  func(n, listed int64) int64 { return max(0, n-listed) },
		"count": func(list []Entry) int64 { return int64(len(list)) },
		"first": func(list []Row) []Row { return list[:min(len(list), listedInHTML)] },
		"rest":  func(list []Row) int { return max(0, len(list)-listedInHTML) },
		"tls":   func(e Entry) string { return e.TLS.String() },
	}).Parse(pageHTML)
	if err != nil {
		return fmt.Errorf("page of the report: %w", err)
	}
	return page.Execute(w, struct {
		*Report
		Title string
		Made  time.Time
	}{p, title, made})
}

// soft has a name or an address break between its labels rather than in them, and
// not in the IP address of a host: "mx.a.example[192.0.2.1]:25".
func soft(s string) template.HTML {
	var b strings.Builder
	s, ip, found := strings.Cut(s, "[")
	for piece := range strings.SplitAfterSeq(s, ".") {
		for part := range strings.SplitAfterSeq(piece, "@") {
			if b.Len() > 0 && part != "" {
				b.WriteString("<wbr>")
			}
			b.WriteString(template.HTMLEscapeString(part))
		}
	}
	if found {
		b.WriteString("<wbr>" + template.HTMLEscapeString("["+ip))
	}
	return template.HTML(b.String()) // #nosec G203 -- each part is escaped
}

// listedInHTML is how many destinations the page lists.
const listedInHTML = 200

// String says in words what a session was: "TLS 1.3 TLS_AES_128_GCM_SHA256 128 bits, verified"; "" for none.
func (s *Session) String() string {
	if s == nil {
		return ""
	}
	text := "TLS"
	if s.Version != 0 {
		text += " " + s.Version.String()
	}
	if s.Cipher != "" {
		text += " " + s.Cipher
	}
	if s.Bits != 0 {
		text += fmt.Sprintf(" %d bits", s.Bits)
	}
	if s.Trust != "" {
		text += ", " + string(s.Trust)
	}
	return text
}

func orSaid(s string) string {
	if s == "" {
		return "not said"
	}
	return s
}

func versionRows(versions map[string]int64) []Row {
	var list []Row
	for _, v := range slices.Backward(slices.Sorted(maps.Keys(versions))) {
		name := "TLS " + v
		if v == "" {
			name = "not said"
		}
		list = append(list, Row{name, Counts{Encrypted: versions[v]}})
	}
	return list
}

// bar is a piece of a day's bar.
type bar struct {
	X, Width float64
	Class    string
}

// barWidth is that of the busiest day.
const barWidth = 240

func bars(c Counts, most int64) []bar {
	var list []bar
	x := 0.0
	for _, part := range parts(c) {
		if part.n > 0 {
			width := float64(part.n) / float64(most) * barWidth
			list = append(list, bar{x, width, part.class})
			x += width
		}
	}
	return list
}
