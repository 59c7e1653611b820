package sieve

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/testnet/rig"
)

// pigeonholeCases are scripts, and whom Pigeonhole, Dovecot's Sieve, sends to for a message with "Subject: yes" and for one
// with "Subject: no", notices marked with "!". Without a script's run there is why it refuses the script; ours says where we
// take it all the same, and why that is right.
var pigeonholeCases = [...]struct {
	name, script, yes, no string
	refused               string // in Pigeonhole's message
	ours                  string
}{
	{name: "redirect", script: `redirect "a@x.example";`, yes: "a@x.example", no: "a@x.example"},
	{name: "copy", script: `require "copy"; redirect :copy "a@x.example";`, yes: "a@x.example", no: "a@x.example"},
	{name: "case", script: `REQUIRE "copy"; Redirect :CoPy "a@x.example";`, yes: "a@x.example", no: "a@x.example"},
	{name: "several", script: `redirect "a@x.example"; redirect "b@x.example"; keep; redirect "c@y.example";`,
		yes: "a@x.example b@x.example c@y.example", no: "a@x.example b@x.example c@y.example"},
	{name: "display name", script: `redirect "Alice B. <a@x.example>";`, yes: "a@x.example", no: "a@x.example"},
	{name: "quoted display name", script: `redirect "\"B, Alice\" <a@x.example>";`, yes: "a@x.example", no: "a@x.example"},
	{name: "angle brackets", script: `redirect "<a@x.example>";`, yes: "a@x.example", no: "a@x.example"},
	{name: "quoted local part", script: `redirect "\"a b\"@x.example";`, yes: `"a b"@x.example`, no: `"a b"@x.example`},
	{name: "needless backslashes", script: `redirect "\a\@x.example";`, yes: "a@x.example", no: "a@x.example"},
	{name: "comments", script: "# redirect \"n@x.example\";\n/* redirect \"n@x.example\"; */ redirect /* to */ \"a@x.example\" # end\n;",
		yes: "a@x.example", no: "a@x.example"},
	{name: "comment in a string", script: `redirect "/*a*/@x.example";`, yes: "/*a*/@x.example", no: "/*a*/@x.example"},
	{name: "text", script: "redirect text:\na@x.example\n.\n;", yes: "a@x.example", no: "a@x.example"},
	{name: "text after a comment", script: "redirect text: # here\r\na@x.example\r\n.\r\n;", yes: "a@x.example", no: "a@x.example"},
	{name: "if else", script: `if header "subject" "yes" { redirect "a@x.example"; } else { redirect "b@x.example"; }`,
		yes: "a@x.example", no: "b@x.example"},
	{name: "elsif", script: `if false { redirect "n@x.example"; } elsif header "subject" "yes" { redirect "a@x.example"; }
		elsif true { redirect "b@x.example"; } else { redirect "n@x.example"; }`, yes: "a@x.example", no: "b@x.example"},
	{name: "nested", script: `if exists "subject" { if not header "subject" "no" { redirect "a@x.example"; if true { redirect "b@x.example"; } } }`,
		yes: "a@x.example b@x.example"},
	{name: "anyof", script: `if anyof (false, header :is "subject" ["so", "yes"]) { redirect "a@x.example"; }`, yes: "a@x.example"},
	{name: "allof", script: `if allof (true, not anyof (false, header "subject" "yes")) { redirect "a@x.example"; }`, no: "a@x.example"},
	{name: "address and size", script: `if allof (address :domain :is "from" "y.example", size :under 1M, header :matches "subject" "y*") { redirect "a@x.example"; }`,
		yes: "a@x.example"},
	{name: "envelope", script: `require "envelope"; if envelope :all "from" "s@y.example" { redirect "a@x.example"; }`,
		yes: "a@x.example", no: "a@x.example"},
	{name: "stop", script: `redirect "a@x.example"; if header "subject" "yes" { stop; } redirect "b@x.example";`,
		yes: "a@x.example", no: "a@x.example b@x.example"},
	{name: "stop first", script: `stop; redirect "n@x.example";`},
	{name: "discard and keep", script: `discard; keep; redirect "a@x.example"; discard;`, yes: "a@x.example", no: "a@x.example"},
	{name: "fileinto", script: `require ["fileinto", "mailbox"]; fileinto :create "INBOX.x"; redirect "a@x.example";`,
		yes: "a@x.example", no: "a@x.example"},
	{name: "flags", script: `require "imap4flags"; setflag "\\Seen"; addflag ["\\Flagged"]; redirect "a@x.example";`,
		yes: "a@x.example", no: "a@x.example"},
	{name: "variables", script: `require "variables"; set "U" "a"; set "dom" "x.example"; redirect "${u}@${DOM}";`,
		yes: "a@x.example", no: "a@x.example"},
	{name: "variable in a variable", script: `require "variables"; set "d" "x.example"; set "a" "a@${d}"; redirect "${a}";`,
		yes: "a@x.example", no: "a@x.example"},
	{name: "variable set twice", script: `require "variables"; set "a" "a@x.example"; if header "subject" "no" { set "a" "b@x.example"; } redirect "${a}";`,
		yes: "a@x.example", no: "b@x.example"},
	{name: "variable of a match", script: `require "variables"; if header :matches "subject" "*" { redirect "${1}@x.example"; }`,
		yes: "yes@x.example", no: "no@x.example"},
	{name: "no variables without require", script: `redirect "${a}@x.example";`, yes: "${a}@x.example", no: "${a}@x.example"},
	{name: "encoded character", script: `require "encoded-character"; redirect "a${hex:40}x.${unicode:65}xample";`,
		yes: "a@x.example", no: "a@x.example"},
	{name: "vacation", script: `require "vacation"; vacation :days 1 :addresses ["r@x.example"] "away"; redirect "a@x.example";`,
		yes: "a@x.example", no: "a@x.example"},
	{name: "reject", script: `require "reject"; if header "subject" "yes" { reject "no"; } else { redirect "a@x.example"; }`, no: "a@x.example"},
	{name: "notify", script: `require "enotify"; notify :message "m" "mailto:a@x.example"; if header "subject" "yes" { notify "mailto:b%40x.example"; }`,
		yes: "!a@x.example !b@x.example", no: "!a@x.example"},
	{name: "notify many", script: `require "enotify"; notify "mailto:a@x.example?to=b@x.example&subject=s&cc=c@x.example"; keep;`,
		yes: "!a@x.example !b@x.example !c@x.example", no: "!a@x.example !b@x.example !c@x.example"},
	{name: "notify with an encoded comma", script: `require "enotify"; notify "mailto:a@x.example%2Cb@x.example?cc=c@x.example%2cd@x.example";`,
		yes: "!a@x.example !b@x.example !c@x.example !d@x.example", no: "!a@x.example !b@x.example !c@x.example !d@x.example"},
	{name: "include", script: `require "include"; include "there"; redirect "b@x.example";`,
		yes: "included@x.example", no: "b@x.example included@x.example"},
	{name: "include of what isn't there", script: `require "include"; redirect "a@x.example"; include :optional "missing"; redirect "b@x.example";`,
		yes: "a@x.example b@x.example", no: "a@x.example b@x.example"},
	{name: "include once", script: `require "include"; include :once "there"; include :once "there";`,
		yes: "included@x.example", no: "included@x.example"},
	{name: "edited header", script: `require "editheader"; addheader "X-A" "b"; redirect "a@x.example";`, yes: "a@x.example", no: "a@x.example"},
	{name: "parts", script: `require ["foreverypart", "mime"]; foreverypart { if header :mime :type "content-type" "text" { redirect "a@x.example"; break; } }`,
		yes: "a@x.example", no: "a@x.example"},

	{name: "no semicolon", script: `redirect "a@x.example"`, refused: "expected"},
	{name: "no brace", script: `if true { redirect "a@x.example";`, refused: "expected"},
	{name: "no test", script: `if { redirect "a@x.example"; }`, refused: "requires"},
	{name: "else alone", script: `else { redirect "a@x.example"; }`, refused: "else"},
	{name: "string without end", script: `redirect "a@x.example;`, refused: "end of file"},
	{name: "text without end", script: "redirect text:\na@x.example\n;", refused: "end of file"},
	{name: "comment without end", script: `redirect "a@x.example"; /* keep;`, refused: "comment"},
	{name: "require late", script: `keep; require "copy"; redirect :copy "a@x.example";`, refused: "require"},
	{name: "two addresses", script: `redirect ["a@x.example", "b@x.example"];`, refused: "redirect"},
	{name: "no address", script: `redirect;`, refused: "redirect"},
	{name: "bad address", script: `redirect "a@";`, refused: "redirect"},
	{name: "empty address", script: `redirect "";`, refused: "redirect"},
	{name: "unknown command", script: `redirect "a@x.example"; forward "b@x.example";`, refused: "unknown command 'forward'"},
	{name: "unknown test", script: `if moon { redirect "a@x.example"; }`, refused: "unknown test",
		ours: "another interpreter may know it"},
	{name: "unknown tag", script: `redirect :moon "a@x.example";`, refused: "unknown tagged",
		ours: "another interpreter may know it"},
	{name: "unknown extension", script: `require "moon"; redirect "a@x.example";`, refused: "moon",
		ours: "another interpreter may know it"},
	{name: "notify with a comma", script: `require "enotify"; notify "mailto:a@x.example,b@x.example";`, refused: "',' in 'to' part",
		ours: "RFC 6068, section 2, separates addresses like that"},
	{name: "no require", script: `redirect :copy "a@x.example";`, refused: "copy",
		ours: "an interpreter may be told to do without require"},
	{name: "include of what must be there", script: `require "include"; include "missing";`, refused: "missing"},
}

// TestPigeonhole holds what Forwards finds in scripts against what Dovecot's Sieve does with them: whatever it sends to must be
// among that, what hangs on no condition must be sent to, and of a script that it refuses we mustn't claim more without a reason.
func TestPigeonhole(t *testing.T) {
	p := newPigeonhole(t)
	comparisons := 0
	for _, c := range pigeonholeCases {
		t.Run(c.name, func(t *testing.T) {
			fs, err := Forwards([]byte(c.script))
			if c.refused != "" {
				comparisons++
				if _, said, ok := p.run(t, c.script, "yes"); ok || !strings.Contains(said, c.refused) {
					t.Errorf("%s\nPigeonhole takes it, or says other than %q: %s", c.script, c.refused, said)
				}
				unsure := err != nil || slices.ContainsFunc(fs, func(f Forward) bool {
					return f.Kind == Unknown || f.Kind == Include || f.Unresolved
				})
				if unsure == (c.ours != "") {
					t.Errorf("%s\nPigeonhole refuses it, we found %s, %v; the reason: %q", c.script, show(fs), err, c.ours)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s\nPigeonhole takes it, and we don't: %v", c.script, err)
			}
			for subject, want := range map[string]string{"yes": c.yes, "no": c.no} {
				comparisons++
				sent, said, ok := p.run(t, c.script, subject)
				if got := strings.Join(sent, " "); !ok || got != want {
					t.Errorf("%s\n%s: Pigeonhole sends to %q, want %q: %s", c.script, subject, got, want, said)
				}
				for _, s := range missed(fs, sent) {
					t.Errorf("%s\n%s: Pigeonhole sends to %s, we found %s", c.script, subject, s, show(fs))
				}
				for _, f := range fs {
					if !f.Conditional && !f.Unresolved && !slices.Contains(sent, target(f)) && f.Kind != Include {
						t.Errorf("%s\n%s: we found %s, unconditional; Pigeonhole sends to %q", c.script, subject, target(f), sent)
					}
				}
			}
		})
	}
	t.Log(comparisons, "comparisons of", len(pigeonholeCases), "scripts")
}

// target is how run writes f.
func target(f Forward) string {
	if f.Kind == Notify {
		return "!" + f.Address.String()
	}
	return f.Address.String()
}

// missed lists what was sent to and isn't told of: neither as itself, nor as an address of its kind that isn't known, nor
// as another script that may do anything.
func missed(fs []Forward, sent []string) []string {
	return slices.DeleteFunc(slices.Clone(sent), func(s string) bool {
		return slices.ContainsFunc(fs, func(f Forward) bool {
			switch {
			case f.Kind == Include:
				// The one that is there; what the script itself sends to must be found all the same.
				return f.Text == "there" && s == "included@x.example"
			case f.Unresolved:
				return (f.Kind == Notify) == strings.HasPrefix(s, "!")
			}
			return target(f) == s
		})
	})
}

// fromEnvironment is the variable that tells Dovecot's programs that their settings are in the environment.
const fromEnvironment = "DOVECONF_ENV"

// pigeonhole is an unpacked Pigeonhole.
type pigeonhole struct {
	program, dir string
	env          []string
}

// newPigeonhole unpacks Pigeonhole and makes a home directory for the user of its scripts.
func newPigeonhole(t *testing.T) *pigeonhole {
	t.Helper()
	for _, program := range []string{"apt-get", "dpkg"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("Pigeonhole can't be had: ", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := rig.FetchTools(ctx, "pigeonhole", "dovecot-core", "dovecot-sieve"); err != nil {
		if os.Geteuid() != 0 {
			t.Skip("Pigeonhole can't be had: ", err)
		}
		t.Fatal(err)
	}
	prefix, env, err := rig.Tools("pigeonhole")
	if err != nil {
		t.Fatal(err)
	}
	dovecot := filepath.Join(prefix, "usr/lib/dovecot")
	if library, err := os.ReadFile(filepath.Join(dovecot, "libdovecot.so.0")); err != nil {
		t.Fatal(err)
	} else if !bytes.Contains(library, []byte(fromEnvironment)) {
		t.Skip("Pigeonhole can't be run where it is unpacked: it is Dovecot 2.4 or later, which isn't configured by its environment")
	}
	for i, e := range env {
		if strings.HasPrefix(e, "LD_LIBRARY_PATH=") {
			env[i] = e + ":" + dovecot
		}
	}
	// Dovecot refuses to be root.
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 {
		uid, gid = 65534, 65534
	}
	dir, err := os.MkdirTemp("", "pigeonhole-") // t.TempDir is below a directory that is only ours
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &pigeonhole{program: filepath.Join(prefix, "usr/bin/sieve-test"), dir: dir}
	scripts := filepath.Join(dir, "sieve")
	if err := errors.Join(os.Mkdir(scripts, 0o755), os.Chown(dir, uid, gid), os.Chown(scripts, uid, gid)); err != nil {
		t.Fatal(err)
	}
	p.write(t, "sieve/there.sieve", `redirect "included@x.example"; if header "subject" "yes" { stop; }`)
	for _, subject := range []string{"yes", "no"} {
		p.write(t, subject, "From: S <s@y.example>\r\nTo: r@x.example\r\nSubject: "+subject+"\r\nMessage-ID: <1@y.example>\r\n"+
			"MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\ntext\r\n")
	}
	// Configured by the environment, as doveconf does it for the programs it starts, because those look for doveconf in /usr.
	p.env = append(env, fromEnvironment+"=1", "USER=joe", "HOME="+dir, "MAIL_HOME="+dir, "MAIL_LOCATION=maildir:"+dir+"/mail",
		"MAIL_UID="+strconv.Itoa(uid), "MAIL_GID="+strconv.Itoa(gid), "FIRST_VALID_UID=1", "FIRST_VALID_GID=1",
		"HOSTNAME=x.example", "POSTMASTER_ADDRESS=postmaster@x.example")
	if _, said, ok := p.run(t, "keep;", "yes"); !ok {
		t.Fatal(said)
	}
	return p
}

func (p *pigeonhole) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

var (
	redirected = regexp.MustCompile(`^ \* redirect message to: (.*)$`)
	notified   = regexp.MustCompile(`^ +\+ (?:To|Cc|Bcc): (.*)$`)
)

// run returns whom a script would send a message to, all there was to read, and whether the script ran to its end.
func (p *pigeonhole) run(t *testing.T, script, message string) (sent []string, said string, ok bool) {
	t.Helper()
	p.write(t, "script.sieve", script)
	if err := os.Remove(filepath.Join(p.dir, "script.svbin")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err) // compiled from the script before, in the same second
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.program, "-f", "s@y.example", "-a", "r@x.example", "-x", "+editheader +vacation-seconds",
		"script.sieve", message)
	cmd.Dir, cmd.Env = p.dir, p.env
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	found := make(map[string]bool)
	for line := range strings.Lines(string(out)) {
		line = strings.TrimRight(line, "\r\n")
		mark, m := "", redirected.FindStringSubmatch(line)
		if m == nil {
			mark, m = "!", notified.FindStringSubmatch(line)
		}
		if m == nil {
			continue
		}
		a, err := addr.ParsePath(m[1])
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		found[mark+a.String()] = true
	}
	return slices.Sorted(maps.Keys(found)), string(out), err == nil
}
