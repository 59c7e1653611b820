package packaging

import (
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// rcScripts are those of systems without systemd, by the shell that runs them.
var rcScripts = map[string]string{"freebsd/tlsonly.in": "sh", "openbsd/tlsonly.rc": "ksh"}

// Nothing here runs these scripts, so the shell and its critic have read them.
// SC1091 is about a file of the other system, SC2034 about variables it reads.
func TestRcScripts(t *testing.T) {
	for script, dialect := range rcScripts {
		run(t, "sh", "-n", script)
		t.Run(script, func(t *testing.T) {
			need(t, "shellcheck")
			out, err := exec.Command("shellcheck", "--shell="+dialect, "--exclude=SC1091,SC2034", script).CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// They call commands that the program has.
func TestRcScriptsCommands(t *testing.T) {
	known := names(help(t))
	for script := range rcScripts {
		calls := regexp.MustCompile(`(?:sbin/tlsonly|\$program"?) ([a-z]+)`).FindAllStringSubmatch(read(t, script), -1)
		if len(calls) < 2 {
			t.Errorf("%s calls only %q", script, calls)
		}
		for _, call := range calls {
			if !slices.Contains(known, call[1]) {
				t.Errorf("%s calls %q, and the program has no such command", script, strings.TrimSpace(call[0]))
			}
		}
	}
}
