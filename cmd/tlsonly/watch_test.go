package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The tests named TestMTAWatch… take the binding away from a real MTA, as other
// programs do, and see that the daemon notices.

// watched is a Postfix, or a Sendmail, with a daemon that watches it.
type watched struct {
	*wire
	lost  map[string]int // lines of the log that said so, by code
	again int            // lines that said that it is bound again
	told  int            // changes that the command was told of
	notes string
}

const watchHTTP = "127.0.0.1:8691"

// newWatched binds a Postfix by setup, with nothing of ours in main.cf above a
// line that says Overrides.
func newWatched(t *testing.T, more string) *watched {
	t.Helper()
	w := &watched{wire: newWire(t, wireCase{main: func(string) map[string]string {
		return map[string]string{"max_use": "1"} // new processes read main.cf anew, without a reload
	}}, false), lost: map[string]int{}}
	w.wire.bound = true
	main := filepath.Join(w.postfix.Etc, "main.cf")
	w.run("postconf", "-X", "smtpd_milters", "non_smtpd_milters")
	text := readFileOf(t, main)
	if err := os.WriteFile(main, []byte(text+"\n# Overrides #\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.setup()
	w.reload()
	w.serve("[forwarding]\npostfix = \""+w.postfix.Etc+"\"\n", more)
	w.waitBound()
	return w
}

// serve starts the daemon anew, with a command that gets each change.
func (w *watched) serve(tables, more string) {
	w.t.Helper()
	w.notes = filepath.Join(w.dir, "notes")
	command := write(w.dir, "note", "#!/bin/sh\ncat >>"+w.notes+"\n")
	if err := os.Chmod(command, 0o755); err != nil {
		w.t.Fatal(err)
	}
	w.daemon.stop(syscall.SIGTERM)
	w.daemon.write(daemonHead + "[http]\nlisten = \"" + watchHTTP + "\"\n[notify]\ncommand = [\"" + command + "\"]\n" + tables + more + clinicRule)
	w.daemon.start()
}

func readFileOf(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// ask asks the daemon over HTTP.
func (w *watched) ask(path string) (status int, text string) {
	w.t.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + watchHTTP + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

// lines returns the lines of the daemon's log that have all the words.
func (w *watched) lines(words ...string) (found []string) {
	for line := range strings.Lines(w.daemon.log()) {
		all := true
		for _, word := range words {
			all = all && strings.Contains(line, word)
		}
		if all {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// metric returns a metric's value, "" where it isn't there.
func (w *watched) metric(name string) string {
	_, text := w.ask("/metrics")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func (w *watched) waitBound() {
	w.t.Helper()
	within(w.t, 3*time.Minute, "the daemon to see that it is bound", func() bool {
		_, text := w.ask("/readyz")
		return strings.Contains(text, "binding: ok")
	})
}

// within is waitFor with another end.
func within(t *testing.T, limit time.Duration, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// notices waits until a check has every channel say that the binding is gone,
// and returns how long that took.
func (w *watched) notices(began time.Time, check, code string) time.Duration {
	w.t.Helper()
	ready := ""
	within(w.t, time.Minute, "/readyz to fail", func() bool {
		status, text := w.ask("/readyz")
		ready = text
		return status == http.StatusServiceUnavailable
	})
	took := time.Since(began)
	w.t.Logf("noticed after %s", took.Round(10*time.Millisecond))
	for line := range strings.Lines(ready) {
		if strings.HasPrefix(line, "binding:") {
			w.t.Log(strings.TrimSpace(line))
		}
	}
	if !strings.Contains(ready, "binding: "+w.mta()+" isn't bound: ") || !strings.Contains(ready, code) {
		w.t.Errorf("/readyz doesn't say %s:\n%s", code, ready)
	}
	if value := w.metric(`tlsonly_bound{check="` + check + `"}`); value != "0" {
		w.t.Errorf("tlsonly_bound of %s is %q", check, value)
	}
	w.lost[code]++
	within(w.t, time.Minute, "a line at ERROR", func() bool { return len(w.saidLost(code)) >= w.lost[code] })
	w.noMore()
	w.tells(`"what":"unbound"`)
	if _, page := w.ask("/"); !strings.Contains(page, `<span class="alarm">not bound</span>`) || !strings.Contains(page, code) {
		w.t.Error("the status page doesn't say so")
	}
	if _, changes := w.ask("/v1/changes?since=0"); !strings.Contains(changes, `"what": "unbound"`) {
		w.t.Errorf("the history doesn't say so: %s", changes)
	}
	return took
}

// saidLost returns the lines at ERROR that name a finding first.
func (w *watched) saidLost(code string) []string {
	return w.lines("level=ERROR", "isn't bound", "code="+code+" ", "remedy=")
}

// noMore checks that nothing was said at ERROR, but what was waited for, once.
func (w *watched) noMore() {
	w.t.Helper()
	for code, n := range w.lost {
		if lines := w.saidLost(code); len(lines) != n {
			w.t.Errorf("%d lines at ERROR, want %d: %q", len(lines), n, lines)
		}
	}
}

// boundAgain waits until all ways say that the binding is back.
func (w *watched) boundAgain() {
	w.t.Helper()
	w.waitBound()
	w.again++
	within(w.t, time.Minute, "a line that it is bound again", func() bool { return len(w.lines("level=INFO", "bound again")) == w.again })
	w.tells(`"what":"bound"`)
	if _, page := w.ask("/"); !strings.Contains(page, "bound since") {
		w.t.Error("the status page doesn't say so")
	}
	for line := range strings.Lines(w.metrics()) {
		if strings.HasPrefix(line, "tlsonly_bound{") && !strings.HasSuffix(line, " 1\n") {
			w.t.Errorf("bound again: %s", line)
		}
	}
}

func (w *watched) metrics() string {
	_, text := w.ask("/metrics")
	return text
}

func (w *watched) mta() string {
	if w.sendmail != nil {
		return "sendmail"
	}
	return "postfix"
}

// tells waits for the next event that the command gets.
func (w *watched) tells(what string) {
	w.t.Helper()
	w.told++
	within(w.t, time.Minute, what+" to be told", func() bool {
		text, _ := os.ReadFile(w.notes)
		n := 0
		for line := range strings.Lines(string(text)) {
			if n += strings.Count(line, `bound"`); n >= w.told {
				return strings.Contains(line, what)
			}
		}
		return false
	})
}

// replace puts another file in the place of one, as editors and generators do.
func replace(t *testing.T, path, text string) {
	t.Helper()
	fresh := path + ".new"
	if err := os.WriteFile(fresh, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh, path); err != nil {
		t.Fatal(err)
	}
}

// cutAt ends a text at the line with a word, as sed '/word/q' does.
func cutAt(text, word string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(line)
		if strings.Contains(line, word) {
			break
		}
	}
	return b.String()
}

// flow sends a protected message again and again to a host without TLS, until
// stop is called, and says how many were accepted after what time.
func (w *watched) flow(began time.Time) (stop func() (accepted []time.Duration, refused int)) {
	end, done := make(chan struct{}), make(chan struct{})
	var accepted []time.Duration
	refused := 0
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			select {
			case <-end:
				return
			case <-time.After(100 * time.Millisecond):
			}
			if w.try(n) {
				accepted = append(accepted, time.Since(began))
			} else {
				refused++
			}
		}
	}()
	return func() ([]time.Duration, int) {
		close(end)
		<-done
		return accepted, refused
	}
}

// try sends one message and reports whether it was accepted.
func (w *watched) try(n int) bool {
	c, err := dialQuietly(w.address)
	if err != nil {
		return false
	}
	defer c.conn.Close()
	for _, line := range []struct{ say, want string }{
		{"MAIL FROM:<" + doctor + ">", "250"}, {"RCPT TO:<u@none.example>", "250"}, {"DATA", "354"},
		{fmt.Sprintf("Subject: %s\r\n\r\n%d\r\n.", w.marker, n), "250"},
	} {
		if got, err := c.say(line.say); err != nil || !strings.HasPrefix(got, line.want) {
			return false
		}
	}
	return true
}
