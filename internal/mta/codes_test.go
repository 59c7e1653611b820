package mta_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tlsonly/internal/mta"
)

// Every code is one that some finding has, every finding's is known, and the
// manual lists them all.
func TestCodes(t *testing.T) {
	// What adds a finding: the code is the first word in kebab case, or follows
	// the level or the field's name.
	calls := regexp.MustCompile(`(?:d|f)\.(?:ok|warn|broken|down|hole)\("([a-z-]+)"|(?:warn|fault|warning|fail)\("([a-z]+-[a-z-]+)"|` +
		`(?:finding|resolverFinding)\(mta\.\w+, "([a-z-]+)"|Code: +"([a-z-]+[a-z])"|d\.faultless\(before, "([a-z-]+)"|f\.filter\("([a-z-]+)"`)
	// Sendmail's have one beginning, and its proofs another.
	sendmails := regexp.MustCompile(`found\.add\(mta\.\w+, (?:code\+)?"([a-z-]+)"|found\.add\(mta\.OK, code, where, "each (recipient)`)
	proofs := regexp.MustCompile(`code: "([a-z-]+)"`)
	used := make(map[string]string)
	for _, pattern := range []string{"*.go", "postfix/*.go", "sendmail/*.go", "../../cmd/tlsonly/*.go", "../binding/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, file := range files {
			if ok, _ := filepath.Match("*_test.go", filepath.Base(file)); ok {
				continue
			}
			for _, m := range calls.FindAllStringSubmatch(read(t, file), -1) {
				used[m[1]+m[2]+m[3]+m[4]+m[5]+m[6]] = file
			}
			for _, m := range sendmails.FindAllStringSubmatch(read(t, file), -1) {
				if strings.HasPrefix(m[1], "-") { // of both maps
					used["sendmail-rcpt-map"+m[1]], used["sendmail-report-map"+m[1]] = file, file
				} else {
					used["sendmail-"+m[1]+strings.ReplaceAll(m[2], "recipient", "rcpt-map")] = file
				}
			}
			for _, m := range proofs.FindAllStringSubmatch(read(t, file), -1) {
				used["sendmail-proof-"+m[1]] = file
			}
		}
	}
	for code, file := range used {
		if _, ok := mta.CheckOf(code); !ok {
			t.Errorf("%s: %q isn't among the codes", file, code)
		}
	}
	var manual []string
	for _, m := range regexp.MustCompile(`(?m)^\.It Cm ([a-z-]+) No \((.*)\)$`).FindAllStringSubmatch(read(t, "../../packaging/man/tlsonly-doctor.8"), -1) {
		manual = append(manual, m[1])
	}
	for _, code := range mta.Codes() {
		if used[code] == "" {
			t.Errorf("no finding has the code %q", code)
		}
		if n := len(slices.DeleteFunc(slices.Clone(manual), func(c string) bool { return c != code })); n != 1 {
			t.Errorf("the manual lists %q %d times", code, n)
		}
	}
	for _, code := range manual {
		if _, ok := mta.CheckOf(code); !ok {
			t.Errorf("the manual lists %q, which no finding has", code)
		}
	}
	if len(manual) < 50 {
		t.Error(fmt.Sprint("the manual lists ", len(manual)))
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
