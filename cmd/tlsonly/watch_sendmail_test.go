package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

// A sendmail.cf that is made anew without our lines is noticed.
func TestMTAWatchSendmail(t *testing.T) {
	isolated(t)
	w := &watched{wire: newSendmailWire(t, sendmailCase{}, true), lost: map[string]int{}}
	w.knowsSendmail(clinicRule)
	w.serve("[forwarding]\npostfix = \"off\"\nsendmail = \""+w.sendmail.Cf+"\"\n", "")
	w.waitBound()
	cf := w.sendmail.Cf
	bound := readFileOf(t, cf)
	info, err := os.Stat(cf)
	if err != nil {
		t.Fatal(err)
	}
	var without strings.Builder
	for line := range strings.Lines(bound) {
		if !strings.HasPrefix(line, "Xtlsonly") && !strings.HasPrefix(line, "O InputMailFilters=") && !strings.HasPrefix(line, "Ktls_r") {
			without.WriteString(line)
		}
	}
	began := time.Now()
	replace(t, cf, without.String())
	w.notices(began, "filter", "sendmail-filter-missing")
	if value := w.metric(`tlsonly_bound{check="map"}`); value != "0" {
		t.Errorf("tlsonly_bound of map is %q", value)
	}
	replace(t, cf, bound)
	// Sendmail runs with this file: it was never read otherwise.
	if err := os.Chtimes(cf, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	w.boundAgain()
}
