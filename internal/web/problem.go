package web

import (
	"encoding/json"
	"net/http"
	"strings"
)

// problem is an error as RFC 9457 writes it. Its type is about:blank, so the title is that of the status.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
}

// failed answers with an error: a problem for programs, a page for people, a line for the rest.
func failed(w http.ResponseWriter, r *http.Request, status int, detail string) {
	h := w.Header()
	switch {
	case strings.HasPrefix(r.URL.Path, "/v1/") || prefers(r, "json"):
		h.Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		write(w, problem{"about:blank", http.StatusText(status), status, detail})
	case prefers(r, "html"):
		h.Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(status)
		writeErrorPage(w, status, detail)
	default:
		h.Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(http.StatusText(status) + ": " + detail + "\n")) // #nosec G705 -- plain text, said so above
	}
}

// write writes JSON for programs and for people who look at it. An error is the client's going away.
func write(w http.ResponseWriter, v any) {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	_ = e.Encode(v)
}

// prefers reports whether a client asked for a kind of answer, "json" or "html", before the other.
func prefers(r *http.Request, kind string) bool {
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		media, parameters, _ := strings.Cut(strings.ToLower(strings.TrimSpace(part)), ";")
		if strings.ReplaceAll(parameters, " ", "") == "q=0" {
			continue
		}
		switch strings.TrimSpace(media) {
		case "application/json", "application/problem+json":
			return kind == "json"
		case "text/html", "application/xhtml+xml":
			return kind == "html"
		}
	}
	return false
}
