package milter

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/testnet/rig"
	"tlsonly/rules"
)

// TestRecorded says to the server what real MTAs said to a milter, and looks at the answers: one letter each, in
// order. Files that the table doesn't name are held to what holds for all.
func TestRecorded(t *testing.T) {
	want := map[string]string{
		"postfix-simple":        "O c c iea",
		"postfix-two-messages":  "O c c iea c c y iea",
		"postfix-pickup":        "O c c c y",
		"postfix-reject":        "O c c y c iea",
		"postfix-reject-all":    "O c y c c iea",
		"postfix-null-sender":   "O c c iea",
		"postfix-addresses":     "O c c c c c iea",
		"postfix-rset":          "O c c c c iea",
		"postfix-drop":          "O c c",
		"postfix-second-ehlo":   "O c c c c iea",
		"sendmail-simple":       "O c c iea",
		"sendmail-two-messages": "O c c iea c c y iea",
		"sendmail-reject":       "O c c y c iea",
		"sendmail-reject-all":   "O c y c c iea",
		"sendmail-null-sender":  "O c c iea",
		"sendmail-addresses":    "O c c c c c iea",
		"sendmail-rset":         "O c c c c iea",
		"sendmail-drop":         "O c c",
		"sendmail-second-ehlo":  "O c c c c iea",
		"sendmail-starttls":     "O c c iea",
		"postfix-login":         "O c c iea",
		"sendmail-full":         "O c c iea",
		"postfix-full":          "O c c iea",
		"postfix-arguments":     "O c c c ia", // RET=HDRS is the client's own wish
		"sendmail-arguments":    "O c c c iea",
	}
	set := rules.New([]*rules.Rule{rule("site", "@sender.test", nil), rule("bounces", "<>", nil)})
	files, err := filepath.Glob("../testdata/milter/*.session")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recorded sessions: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".session")
		t.Run(name, func(t *testing.T) {
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			session, err := rig.ParseSession(f)
			if err != nil {
				t.Fatal(err)
			}
			b := start(t, func(c *Config) {
				c.Rules = func() *rules.Set { return set }
				c.Decider.Local = func(d addr.Domain) bool { return false }
			})
			conn := b.dial(t)
			answers, err := rig.Play(t.Context(), conn, session)
			if err != nil {
				t.Fatalf("%v\nlog:\n%s", err, b.log)
			}
			conn.Close()
			var got strings.Builder
			for i, a := range answers {
				if i > 0 && !strings.Contains("iqme", string(answers[i-1].Kind)) {
					got.WriteByte(' ')
				}
				got.WriteByte(a.Kind)
				if text := string(a.Data); a.Kind == 'y' && text != "550 5.7.10 TLS required: tls-none.test does not offer STARTTLS (mail host mx.tls-none.test)\x00" {
					t.Errorf("reply %q", text)
				}
			}
			if w, ok := want[name]; ok && got.String() != w {
				t.Errorf("answers %s\nwant    %s\nlog:\n%s", got.String(), w, b.log)
			}
			if strings.ContainsAny(got.String(), "tpsd") {
				t.Errorf("answers %s", got.String())
			}
			if st := b.Stats(); st.Malformed+st.Panics > 0 || st.Messages == 0 {
				t.Errorf("%+v\n%s", st, b.log)
			}
		})
	}
}
