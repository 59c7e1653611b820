package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// The log as [log] asks for it: an object a line, and no address that could be read.
func TestMTALog(t *testing.T) {
	isolated(t)
	newWorld(t)
	d := startDaemon(t, "[log]\nformat = \"json\"\naddresses = \"hash\"\n"+daemonHead+clinicRule)
	_, m := startPostfix(t, nil, nil)
	c := dial(t, m.address)
	c.expect("MAIL FROM:<doctor@clinic.example>", "250")
	c.expect("RCPT TO:<bob@good.example>", "250")
	c.expect("RCPT TO:<eva@none.example>", "550 5.7.10 TLS required: none.example does not offer STARTTLS (mail host mx1.none.example)")
	c.data("250", "Subject: x")
	d.wait("the decision to be logged", func() bool { return strings.Contains(d.log(), `"verdict":"accept"`) })
	decisions := 0
	for line := range strings.Lines(d.log()) {
		var found map[string]any
		if err := json.Unmarshal([]byte(line), &found); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if found["msg"] != "decision" {
			continue
		}
		decisions++
		for _, key := range []string{"time", "level", "qid", "from", "rcpt", "rule", "destination", "verdict", "reason"} {
			if _, ok := found[key]; !ok {
				t.Errorf("no %s in %s", key, line)
			}
		}
	}
	if decisions != 2 {
		t.Errorf("%d decisions in the log", decisions)
	}
	for _, secret := range []string{"doctor@", "bob@", "eva@"} {
		if strings.Contains(d.log(), secret) {
			t.Errorf("%s is in the log", secret)
		}
	}
}
