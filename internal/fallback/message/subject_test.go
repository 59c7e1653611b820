package message

import (
	"bytes"
	"strings"
	"testing"
)

func TestCutWords(t *testing.T) {
	words := []string{"[secure]", "#private"}
	long := strings.TrimSpace(strings.Repeat("wörter ", 40))
	for _, tt := range []struct {
		field string
		want  string // the whole field; "" for the same
		text  string // the subject as people read it
	}{
		{"Subject: [secure] Findings\r\n", "Subject: Findings\r\n", "Findings"},
		{"Subject: Findings [SECURE]\r\n", "Subject: Findings\r\n", "Findings"},
		{"Subject: Findings [Secure] of today\r\n", "Subject: Findings of today\r\n", "Findings of today"},
		{"SUBJECT:[secure]Findings\r\n", "SUBJECT:Findings\r\n", "Findings"},
		{"Subject: Re: [secure] #private x\r\n", "Subject: Re: x\r\n", "Re: x"},
		{"Subject: [secure]\r\n", "Subject:\r\n", ""},
		{"Subject: [sec[secure]ure] x\r\n", "Subject: x\r\n", "x"},
		{"Subject: Findings\r\n [secure]\r\n\tof today\r\n", "Subject: Findings of today\r\n", "Findings of today"},
		{"Subject: [secure] =?utf-8?Q?Gr=C3=B6=C3=9Fe?=\r\n", "Subject: =?utf-8?Q?Gr=C3=B6=C3=9Fe?=\r\n", "Größe"},
		{"Subject: =?utf-8?Q?=5Bsecure=5D_Gr=C3=B6=C3=9Fe?=\r\n", "Subject: =?utf-8?b?R3LDtsOfZQ==?=\r\n", "Größe"},
		{"Subject: =?utf-8?B?W3NlY3VyZV0gRmluZGluZ3M=?=\r\n", "Subject: Findings\r\n", "Findings"},
		{"Subject: =?utf-8?Q?=5Bsec?= =?utf-8?Q?ure=5D?= x\r\n", "Subject: x\r\n", "x"},
		{"Subject: =?no-such-charset?Q?x?= =?utf-8?Q?=5Bsecure=5D?= y\r\n", "Subject: xy\r\n", "xy"},
		{"Subject: Findings\r\n", "", "Findings"},
		{"Subject: secure\r\n", "", "secure"},
		{"Subject: =?utf-8?Q?Gr=C3=B6=C3=9Fe?=\r\n", "", "Größe"},
		{"Comments: [secure]\r\n", "", ""},
	} {
		m, err := Read(strings.NewReader(tt.field + "\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		found := m.CutWords(words)
		want := tt.want
		if want == "" {
			want = tt.field
		}
		if got := string(m.Fields[0].Raw); got != want || found != (tt.want != "") || readable(m.first("Subject")) != tt.text {
			t.Errorf("%q became %q, %v, read as %q", tt.field, got, found, readable(m.first("Subject")))
		}
	}
	// A long subject is folded, and is still one field.
	m, err := Read(strings.NewReader("Subject: =?utf-8?Q?=5Bsecure=5D_" + strings.ReplaceAll(strings.ReplaceAll(long, "ö", "=C3=B6"), " ", "_") + "?=\r\n\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	m.CutWords(words)
	for line := range bytes.Lines(m.Fields[0].Raw) {
		if len(line) > 100 {
			t.Errorf("line of %d octets", len(line))
		}
	}
	again, err := Read(bytes.NewReader(append(bytes.Clone(m.Fields[0].Raw), "\r\n"...)))
	if err != nil || len(again.Fields) != 1 || readable(again.Fields[0].Value()) != long {
		t.Errorf("read again as %q", again.Fields)
	}
}

// Afterwards no word is there, in any spelling.
func FuzzCutWords(f *testing.F) {
	f.Add("[secure] x")
	f.Add("=?utf-8?Q?=5Bsecure=5D_Gr=C3=B6?= [secure]")
	f.Add("=?utf-8?B?W3NlY3VyZV0gRmluZGluZ3M=?=")
	f.Fuzz(func(t *testing.T, value string) {
		m, err := Read(strings.NewReader("Subject: " + value + "\r\n\r\n"))
		if err != nil {
			t.Skip("no message")
		}
		m.CutWords([]string{"[secure]"})
		for _, field := range m.All("Subject") {
			if strings.Contains(strings.ToLower(readable(field.Value())), "[secure]") {
				t.Errorf("%q is left of %q", field.Raw, value)
			}
			again, err := Read(bytes.NewReader(append(bytes.Clone(field.Raw), "\r\n"...)))
			if err != nil || len(again.Fields) != 1 {
				t.Errorf("%q became %q", value, field.Raw)
			}
		}
	})
}
