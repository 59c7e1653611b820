package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// houseRules says which of our packages each package may import, directly; what is not listed may import none. Tests and
// the packages below internal/testnet are free.
var houseRules = map[string][]string{
	"tlsonly/cmd/tlsonly":                   {"*"},
	"tlsonly/milter":                        {"tlsonly/rules", "tlsonly/internal/inbound", "tlsonly/internal/forward", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/audit":                {"tlsonly/rules", "tlsonly/internal/forward", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/forward":              {"tlsonly/internal/forward/aliases", "tlsonly/internal/forward/sieve", "tlsonly/internal/forward/virtual", "tlsonly/internal/addr"},
	"tlsonly/rules":                         {"tlsonly/internal/config/value", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/config":               {"tlsonly/internal/config/value", "tlsonly/internal/inbound", "tlsonly/rules", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/inbound":              {"tlsonly/internal/config/value", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/config/value":         {"tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/destination":          {"tlsonly/internal/destination/dns", "tlsonly/internal/destination/starttls", "tlsonly/internal/destination/dane", "tlsonly/internal/destination/webpki", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/destination/dns":      {"tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/destination/dane":     {"tlsonly/internal/destination/webpki", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/destination/mtasts":   {"tlsonly/internal/destination/dns", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/destination/webpki":   {"tlsonly/internal/policy"},
	"tlsonly/internal/forward/aliases":      {"tlsonly/internal/addr"},
	"tlsonly/internal/forward/sieve":        {"tlsonly/internal/addr"},
	"tlsonly/internal/forward/virtual":      {"tlsonly/internal/forward/aliases", "tlsonly/internal/addr"},
	"tlsonly/internal/maillog":              {"tlsonly/rules", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/received":             {"tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/destination/starttls": {"tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/policy":               {"tlsonly/internal/addr"},
	"tlsonly/internal/store":                {"tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/ledger":               {"tlsonly/internal/store", "tlsonly/rules", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/socketmap":            {"tlsonly/rules", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/mta/postfix":          {"tlsonly/internal/mta", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/mta/sendmail":         {"tlsonly/internal/mta", "tlsonly/internal/policy", "tlsonly/internal/addr"},
	"tlsonly/internal/web":                  {"tlsonly/internal/store", "tlsonly/rules", "tlsonly/internal/inbound", "tlsonly/internal/policy", "tlsonly/internal/addr"},
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
