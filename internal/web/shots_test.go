//go:build screenshots

package web

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestScreenshots has a browser make pictures of the pages, for people to look at: "make screenshots".
func TestScreenshots(t *testing.T) {
	dir, err := filepath.Abs("../../bin/screenshots")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := newTest(t, populated(), nil)
	mux := http.NewServeMux()
	mux.Handle("/", s)
	// A browser without hands can't send a form.
	mux.HandleFunc("GET /explained", func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(send(s, r.URL.RawQuery).Body.Bytes())
	})
	served := httptest.NewServer(mux)
	t.Cleanup(served.Close)
	profile := t.TempDir()
	for _, page := range []struct{ name, path, wide, narrow string }{
		{"overview", "/", "1200,1900", "360,3300"},
		{"destination", "/destinations/lab.example", "1200,2100", "360,4300"},
		{"weak", "/destinations/pharmacy.example", "1200,1500", "360,3000"},
		{"destinations", "/destinations", "1200,2900", "360,3000"},
		{"rules", "/rules", "1200,2300", "360,3300"},
		{"explain", "/explained?from=doctor@clinic.example&to=desk@lab.example", "1200,1100", "360,1600"},
		{"delivery", "/explained?delivery=lab.example&from=doctor@clinic.example", "1200,1300", "360,1900"},
	} {
		for _, look := range []struct{ name, size, dark string }{{"light", page.wide, ""}, {"dark", page.wide, "--blink-settings=preferredColorScheme=0"}, {"narrow", page.narrow, ""}} {
			file := filepath.Join(dir, page.name+"-"+look.name+".png")
			url := served.URL + page.path
			args := []string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run", "--disable-background-networking",
				"--user-data-dir=" + profile, "--window-size=" + look.size, "--screenshot=" + file}
			if look.dark != "" {
				args = append(args, look.dark)
			}
			cmd := exec.CommandContext(t.Context(), "chromium", append(args, url)...)
			out, err := cmd.CombinedOutput()
			if info, serr := os.Stat(file); err != nil || serr != nil || info.Size() < 10_000 {
				t.Fatalf("%s: %v %v\n%s", file, err, serr, out)
			}
			t.Log(file, strings.Count(string(out), "\n"))
		}
	}
}
