package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// houseRules says which of our packages each package may import, directly; what is not listed may import none. Tests and
// the packages below internal/testnet are free.
var houseRules = map[string][]string{
	"tlsonly/cmd/tlsonly":                   {"*"},
	"tlsonly/milter":                        {"tlsonly/internal/fallback", "tlsonly/internal/contract", "tlsonly/internal/instance", "tlsonly/rules", "tlsonly/internal/inbound", "tlsonly/internal/forward", "tlsonly/internal/judge", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/audit":                {"tlsonly/rules", "tlsonly/internal/forward", "tlsonly/internal/judge", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/forward":              {"tlsonly/internal/contract", "tlsonly/internal/place", "tlsonly/internal/forward/aliases", "tlsonly/internal/forward/sieve", "tlsonly/internal/forward/virtual", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/rules":                         {"tlsonly/internal/config/value", "tlsonly/internal/judge", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/config":               {"tlsonly/internal/contract", "tlsonly/internal/place", "tlsonly/internal/config/value", "tlsonly/internal/inbound", "tlsonly/internal/mta", "tlsonly/rules", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/inbound":              {"tlsonly/internal/config/value", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/config/value":         {"tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/profile":              {"tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/destination":          {"tlsonly/internal/profile", "tlsonly/internal/destination/dns", "tlsonly/internal/destination/starttls", "tlsonly/internal/destination/dane", "tlsonly/internal/destination/webpki", "tlsonly/internal/judge", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/destination/dns":      {"tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/destination/dane":     {"tlsonly/internal/destination/webpki", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/destination/mtasts":   {"tlsonly/internal/destination/dns", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/destination/webpki":   {"tlsonly/internal/policy"},
	"tlsonly/internal/fallback":             {"tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/fallback/keyring":     {"tlsonly/internal/fallback", "tlsonly/internal/fallback/keyfile", "tlsonly/internal/fallback/message", "tlsonly/internal/fallback/openpgp", "tlsonly/internal/fallback/smime", "tlsonly/internal/store", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/fallback/reassess":    {"tlsonly/internal/fallback", "tlsonly/milter", "tlsonly/rules", "tlsonly/internal/judge", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/fallback/gateway":     {"tlsonly/internal/fallback", "tlsonly/internal/fallback/message", "tlsonly/internal/contract", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/fallback/keyfile":     {"tlsonly/internal/addr"},
	"tlsonly/internal/fallback/openpgp":     {"tlsonly/internal/fallback/keyfile", "tlsonly/internal/fallback/owner", "tlsonly/internal/addr"},
	"tlsonly/internal/fallback/owner":       {"tlsonly/internal/addr"},
	"tlsonly/internal/fallback/smime":       {"tlsonly/internal/fallback/keyfile", "tlsonly/internal/fallback/owner", "tlsonly/internal/addr"},
	"tlsonly/internal/forward/aliases":      {"tlsonly/internal/addr"},
	"tlsonly/internal/forward/sieve":        {"tlsonly/internal/addr"},
	"tlsonly/internal/forward/virtual":      {"tlsonly/internal/forward/aliases", "tlsonly/internal/addr"},
	"tlsonly/internal/maillog":              {"tlsonly/rules", "tlsonly/internal/policy", "tlsonly/internal/addr", "tlsonly/internal/contract"},
	"tlsonly/internal/received":             {"tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/destination/starttls": {"tlsonly/internal/profile", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/policy":               {"tlsonly/internal/addr"},
	"tlsonly/internal/judge":                {"tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/classes":              {"tlsonly/internal/store", "tlsonly/rules"},
	"tlsonly/internal/store":                {"tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/ledger":               {"tlsonly/internal/store", "tlsonly/rules", "tlsonly/internal/judge", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/binding":              {"tlsonly/internal/contract", "tlsonly/internal/mta", "tlsonly/internal/addr"},
	"tlsonly/internal/web":                  {"tlsonly/internal/ledger", "tlsonly/internal/observe", "tlsonly/internal/store", "tlsonly/internal/mta", "tlsonly/rules", "tlsonly/internal/inbound", "tlsonly/internal/judge", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/socketmap":            {"tlsonly/internal/contract", "tlsonly/internal/instance", "tlsonly/rules", "tlsonly/internal/judge", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/instance":             {"tlsonly/internal/contract"},
	"tlsonly/internal/mta":                  {"tlsonly/internal/instance"},
	"tlsonly/internal/mta/clienthello":      {"tlsonly/internal/profile", "tlsonly/internal/policy"},
	"tlsonly/internal/mta/postfix":          {"tlsonly/internal/mta/clienthello", "tlsonly/internal/profile", "tlsonly/internal/contract", "tlsonly/internal/place", "tlsonly/internal/instance", "tlsonly/internal/mta", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/mta/sendmail":         {"tlsonly/internal/mta/clienthello", "tlsonly/internal/profile", "tlsonly/internal/contract", "tlsonly/internal/instance", "tlsonly/internal/mta", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/observe":              {"tlsonly/internal/store", "tlsonly/rules", "tlsonly/internal/judge", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/monitor":              {"tlsonly/internal/store", "tlsonly/internal/policy", "tlsonly/internal/addr"},
}

// owners says which package alone may import a library.
var owners = map[string]string{
	"github.com/d--j/go-milter":    "tlsonly/milter",
	"github.com/miekg/dns":         "tlsonly/internal/destination/dns",
	"github.com/BurntSushi/toml":   "tlsonly/internal/config",
	"modernc.org/sqlite":           "tlsonly/internal/store",
	"github.com/jackc/pgx/v5":      "tlsonly/internal/store",
	"github.com/coreos/go-systemd": "tlsonly/cmd/tlsonly",

	"github.com/prometheus/client_golang": "tlsonly/internal/web",
	"github.com/ProtonMail/go-crypto":     "tlsonly/internal/fallback/openpgp",
	"github.com/emersion/go-smtp":         "tlsonly/internal/fallback/gateway",
}

// Imports point down, each library has one user, and every package says what it is.
func TestHouse(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Dir,Imports,GoFiles", "./...")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p struct {
			ImportPath, Name, Dir string
			Imports, GoFiles      []string
		}
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) == 0 {
			continue
		}
		seen++
		oneJudge(t, p.ImportPath, p.Dir, p.GoFiles)
		if p.ImportPath == "tlsonly/cmd/tlsonly" {
			decidesNothing(t, p.Dir, p.GoFiles)
		}
		commented(t, p.ImportPath, p.Dir, p.GoFiles, p.Name)
		if strings.HasPrefix(p.ImportPath, "tlsonly/internal/testnet") || strings.HasPrefix(p.ImportPath, "tlsonly/internal/store/storetest") {
			continue
		}
		allowed := houseRules[p.ImportPath]
		for _, i := range p.Imports {
			if strings.HasPrefix(i, "tlsonly/") && !slices.Contains(allowed, i) && !slices.Contains(allowed, "*") {
				t.Errorf("%s imports %s", p.ImportPath, i)
			}
			if strings.HasPrefix(i, "tlsonly/internal/testnet") {
				t.Errorf("%s imports %s, which is for tests", p.ImportPath, i)
			}
			for library, owner := range owners {
				if (i == library || strings.HasPrefix(i, library+"/")) && p.ImportPath != owner {
					t.Errorf("%s imports %s, which is %s's", p.ImportPath, i, owner)
				}
			}
		}
	}
	if seen < 10 {
		t.Errorf("go list named %d packages", seen)
	}
}

// oneJudge wants that package judge alone compares what a destination shows with
// names and policies.
func oneJudge(t *testing.T, path, dir string, files []string) {
	t.Helper()
	if path == "tlsonly/internal/judge" || path == "tlsonly/internal/policy" {
		return
	}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range []string{".Bears(", ".Permits(", ".Admits("} {
			if strings.Contains(strings.ReplaceAll(string(text), "judge.Admits(", ""), call) {
				t.Errorf("%s/%s judges by itself: %s", path, f, call)
			}
		}
	}
}

// judging is what only code that judges needs: an order of levels, and what a
// destination showed, compared.
var judging = regexp.MustCompile(`\.Rank\(\)|\.Level\.Enforces\(\)|\bcase policy\.(Saw|DANE|Trust)\w*|` +
	`[!=]= policy\.(Saw|DANE|Trust)\w*|\.(Trust|DANE|TLSA)\.? *[!=<>]=? |judge\.(Host|Level|Destination|Final|STSFault)\(`)

// decidesNothing wants that the commands leave every judgement to the packages
// below: they fill in, call and print.
func decidesNothing(t *testing.T, dir string, files []string) {
	t.Helper()
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range judging.FindAllString(string(text), -1) {
			t.Errorf("cmd/tlsonly/%s judges by itself: %s", f, m)
		}
	}
}

// The critic isn't blind.
func TestDecidesNothingSees(t *testing.T) {
	for code, want := range map[string]bool{
		"if a.Level.Rank() > b.Level.Rank()": true, "case policy.SawTLS:": true, "o.DANE == policy.DANEMismatch": true,
		"o.Trust != policy.Trusted": true, "judge.Level(d, a)": true, "r.Level.Enforces() && r.Active(now)": true,
		"if h.DANE != x": true, "judge.ReportOn(d, a, true)": false, "p.remark(judge.RemarkDANE(a, h, o))": false,
		"case policy.Accept:": false, "fmt.Sprint(o.Trust, o.DANE)": false, "r.Outcome": false,
	} {
		if judging.MatchString(code) != want {
			t.Errorf("%q: %t", code, !want)
		}
	}
}

// agreed are words that package contract has for both sides, and what a literal
// that spells one of them again looks like.
var agreed = map[string]*regexp.Regexp{
	"a transport":        regexp.MustCompile(`tlsonly(%[dv]|\d+)(["-]|$)`),
	"a map":              regexp.MustCompile(`^(socketmap:.*:(%s|sender|forced|policy)|:(sender|forced|policy)|(forced|sender)(%[dv]|\d+)/?|forced/?|tls_report|identify ?)$`),
	"a map of senders":   regexp.MustCompile(`\+site`),
	"a tag":              regexp.MustCompile(`TLSONLY\.`),
	"a question":         regexp.MustCompile(`\bv[23]<`),
	"an answer":          regexp.MustCompile(`^OK (PASS|DEFER|REJECT|FREE)$`),
	"the header":         regexp.MustCompile(`TLS-Only([^-]|$)`),
	"a name of doctor's": regexp.MustCompile(`tlsonly-doctor`),
}

// worded is a comparison of a word of the configuration that isn't by its name.
var worded = regexp.MustCompile(`\.(Senders|Others|Bounces|OnLost|Attest|Unreadable) *[!=]= *"[^"]+"`)

// spelled are the files that may spell one all the same, and why.
var spelled = map[string]string{
	"internal/mta/sendmail/rules.go": "Sendmail's own language; a test there compares it",
	"cmd/tlsonly/setup.go":           "the help of --hide-header",
}

// literal is one string of a file.
type literal struct {
	line int
	text string
}

// literals returns the strings of a Go file, but for its imports and the tags of
// its structures.
func literals(text string) ([]literal, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, "", text, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var found []literal
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.Field:
			n.Tag = nil
		case *ast.BasicLit:
			if s, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil {
				found = append(found, literal{set.Position(n.Pos()).Line, s})
			}
		}
		return true
	})
	return found, nil
}

// respelled returns what of a file's strings package contract has a name for.
func respelled(text string) ([]string, error) {
	all, err := literals(text)
	var found []string
	for _, l := range all {
		for what, form := range agreed {
			if form.MatchString(l.text) {
				found = append(found, fmt.Sprintf("line %d: %s, %q", l.line, what, l.text))
			}
		}
	}
	for _, m := range worded.FindAllString(text, -1) {
		found = append(found, "a word of the configuration, "+m)
	}
	return found, err
}

// What two sides must spell alike is spelled in package contract alone.
func TestOneContract(t *testing.T) {
	unused := maps.Clone(spelled)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(filepath.ToSlash(path), "../../")
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{"internal/testnet", "internal/contract", "bin", ".git"}, name):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		found, err := respelled(string(text))
		if len(found) > 0 {
			delete(unused, name)
		}
		if spelled[name] == "" {
			for _, f := range found {
				t.Errorf("%s, %s: use package contract", name, f)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, why := range unused {
		t.Errorf("%s spells none of them any more (%s)", name, why)
	}
}

// The critic isn't blind.
func TestOneContractSees(t *testing.T) {
	for code, want := range map[string]int{
		`fmt.Sprintf("tlsonly%d", n)`: 1, `"tlsonly1"`: 1, `"socketmap:" + s + ":policy"`: 1, `"socketmap:%s:forced"`: 1, `"forced1"`: 1,
		`"sender/+site"`: 1, `"TLSONLY.encrypt."`: 1, `"$(tls_rcpt v3<$3>"`: 1, `"OK PASS"`: 1, `"TLS-Only"`: 1, `"/^TLS-Only:/ IGNORE"`: 1,
		`"tlsonly-doctor.invalid"`: 1, `c.Others != "pinned"`: 1, `c.Others != ""`: 0, `"pinned"`: 0, `"Ktls_report socket"`: 0, `"tls_report"`: 1, "`sender3/`": 1,
		`"tlsonly"`: 0, `"sender"`: 0, `"TLS-Only-Inbound"`: 0, `"the sender is pinned"`: 0, `"policy"`: 0, `contract.MapPolicy`: 0, `"OK"`: 0,
	} {
		found, err := respelled("package x\n\n// TLSONLY. in a comment.\nvar _ = " + code + "\n")
		if err != nil || len(found) != want {
			t.Errorf("%s: %q, %v; want %d", code, found, err, want)
		}
	}
}

// commented wants a package comment.
func commented(t *testing.T, path, dir string, files []string, name string) {
	t.Helper()
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			t.Fatal(err)
		}
		before, _, _ := strings.Cut(string(text), "\npackage "+name+"\n")
		if strings.Contains("\n"+before, "\n// Package "+name+" ") || strings.Contains("\n"+before, "\n// Command "+filepath.Base(path)+" ") {
			return
		}
	}
	t.Errorf("%s has no package comment", path)
}

// programs says what is run, where, by the words of the code.
var programs = map[string][]string{
	"cmd/tlsonly/asdaemon.go":           {`"systemctl"`, `"/proc/self/exe"`}, // itself, as the daemon's user
	"cmd/tlsonly/report.go":             {`"journalctl"`},
	"internal/forward/user.go":          {`"getent"`},
	"internal/monitor/notify.go":        {"argv[0]"},          // the configuration's notify command, or sendmail
	"internal/mta/postfix/postfix.go":   {"cmd.Path", "path"}, // one of Postfix's
	"internal/mta/postfix/renew.go":     {"systemctl"},
	"internal/mta/sendmail/sendmail.go": {"name"}, // sendmail or m4
}

// Programs are run in few places, and no shell is in between. Tests and what is for them are free.
func TestNoShell(t *testing.T) {
	found := make(map[string][]string)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(filepath.ToSlash(path), "../../")
		switch {
		case err != nil:
			return err
		case d.IsDir() && (name == "internal/testnet" || name == "internal/store/storetest" || name == "bin" || name == ".git"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		runs, wrong, err := runsOf(string(text))
		for _, w := range wrong {
			t.Errorf("%s: %s", name, w)
		}
		if runs != nil {
			found[name] = runs
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !maps.EqualFunc(found, programs, slices.Equal) {
		t.Errorf("programs are run in\n%q, want\n%q", found, programs)
	}
}

// The critic isn't blind.
func TestNoShellSees(t *testing.T) {
	for code, want := range map[string]string{
		`exec.Command("ls", "-l")`:                             "",
		`exec.CommandContext(ctx, path, args...)`:              "",
		`exec.Command("sh", s)`:                                "a shell",
		`exec.CommandContext(ctx, "/bin/bash", s)`:             "a shell",
		`exec.Command(shell, "-c", s)`:                         "a shell",
		`exec.Command(shell, append([]string{"-c"}, s...)...)`: "a shell",
		`exec.Cmd{Path: "/bin/ls"}`:                            "exec.Cmd made by hand",
		`new(exec.Cmd)`:                                        "exec.Cmd made by hand",
		`run(exec.Command)`:                                    "exec.Command isn't called",
		`os.StartProcess("/bin/ls", nil, nil)`:                 "os.StartProcess",
		`syscall.Exec("/bin/ls", nil, nil)`:                    "syscall.Exec",
		`unix.Exec("/bin/ls", nil, nil)`:                       "unix.Exec",
	} {
		runs, wrong, err := runsOf("package x\nimport (\"os\"; \"os/exec\"; \"syscall\")\nvar _ = " + code)
		if err != nil || strings.Join(wrong, ", ") != want || want == "" && len(runs) != 1 {
			t.Errorf("%s: %q, runs %q, %v; want %q", code, wrong, runs, err, want)
		}
	}
	if _, wrong, err := runsOf("package x\nimport run \"os/exec\"\n"); err != nil || len(wrong) != 1 {
		t.Errorf("os/exec under another name: %q, %v", wrong, err)
	}
}

// runsOf returns what a file runs, in the words of its code, and what it should not do.
func runsOf(text string) (runs, wrong []string, err error) {
	file, err := parser.ParseFile(token.NewFileSet(), "", text, parser.SkipObjectResolution)
	if err != nil {
		return nil, nil, err
	}
	for _, i := range file.Imports {
		if slices.Contains([]string{`"os/exec"`, `"os"`, `"syscall"`, `"golang.org/x/sys/unix"`}, i.Path.Value) && i.Name != nil {
			wrong = append(wrong, i.Path.Value+" under another name")
		}
	}
	called := make(map[ast.Expr]bool)
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			program := 0
			switch types.ExprString(n.Fun) {
			case "exec.CommandContext":
				program = 1
			case "exec.Command":
			case "new":
				if types.ExprString(n.Args[0]) == "exec.Cmd" {
					wrong = append(wrong, "exec.Cmd made by hand")
				}
				return true
			default:
				return true
			}
			called[n.Fun] = true
			runs = append(runs, types.ExprString(n.Args[program]))
			if slices.ContainsFunc(n.Args[program:], namesShell) {
				wrong = append(wrong, "a shell")
			}
		case *ast.CompositeLit:
			if n.Type != nil && types.ExprString(n.Type) == "exec.Cmd" {
				wrong = append(wrong, "exec.Cmd made by hand")
			}
		case *ast.SelectorExpr:
			switch name := types.ExprString(n); name {
			case "exec.Command", "exec.CommandContext":
				if !called[n] {
					wrong = append(wrong, name+" isn't called")
				}
			case "os.StartProcess", "syscall.Exec", "syscall.ForkExec", "syscall.StartProcess", "unix.Exec":
				wrong = append(wrong, name)
			}
		}
		return true
	})
	return runs, wrong, nil
}

// namesShell reports whether a shell is named in a word of the call, or an option that one takes.
func namesShell(e ast.Expr) bool {
	shell := false
	ast.Inspect(e, func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
			word := filepath.Base(strings.Trim(l.Value, "\"`"))
			shell = shell || slices.Contains([]string{"sh", "bash", "dash", "ksh", "zsh", "env", "-c"}, word)
		}
		return true
	})
	return shell
}
