// Package packaging has tests only: of the packages that build.sh makes, of what they install, and of the manual.
//
// They answer whether the same source gives the same packages; whether a Debian that runs on systemd installs, upgrades, removes
// and purges the .deb, with Postfix delivering through the daemon as the unit starts it; whether the .rpm does the same in a root
// directory of its own; and whether manual, example configuration and completions know just the commands, flags and keys that the
// program knows.
//
// What needs a Debian runs in namespaces of package rig and is skipped, with the reason, where they can't be had.
package packaging

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"tlsonly/internal/testnet/rig"
)

// builtVar names the directory of the packages that the first life of this program has made: inside the namespaces nothing can be
// fetched.
const builtVar = "TLSONLY_PACKAGES"

// The versions that are built: one, the same once more, and a later one.
const (
	first = "1.0.0"
	later = "1.1.0"
)

func TestMain(m *testing.M) {
	code, err := live(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// live is one of the lives of this program: the first makes the packages, the last, inside the namespaces if they can be had,
// runs the tests.
func live(m *testing.M) (int, error) {
	ctx := context.Background()
	if os.Getenv(builtVar) == "" {
		dir, err := os.MkdirTemp("", "tlsonly-packages-")
		if err != nil {
			return 1, err
		}
		defer os.RemoveAll(dir)
		if err := build(ctx, dir); err != nil {
			return 1, err
		}
		if err := os.Setenv(builtVar, dir); err != nil {
			return 1, err
		}
		if os.Geteuid() == 0 {
			// Half a minute, once. Without it only its own tests can't run, and say so.
			if err := rig.FetchDebian(ctx); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}
	switch inside, code, err := rig.Isolate(); {
	case err == nil && !inside:
		return code, nil
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
	}
	return m.Run(), nil
}

// build makes all packages, and the program for this machine as they have it.
func build(ctx context.Context, dir string) error {
	for _, b := range []struct{ dir, version, arch string }{
		{"first", first, runtime.GOARCH},
		{"again", first, runtime.GOARCH},
		{"later", later, runtime.GOARCH},
		{"other", first, otherArch()},
	} {
		cmd := exec.CommandContext(ctx, "./build.sh", filepath.Join(dir, b.dir), b.arch)
		cmd.Env = append(os.Environ(), "VERSION="+b.version, "SOURCE_DATE_EPOCH=1767225600")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build.sh: %w\n%s", err, out)
		}
	}
	for _, cmd := range []*exec.Cmd{
		exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, "tlsonly"), "../cmd/tlsonly"), buildFormer(dir),
	} {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", cmd, err, out)
		}
	}
	return nil
}

func otherArch() string {
	if runtime.GOARCH == "arm64" {
		return "amd64"
	}
	return "arm64"
}

// built returns the path of a package.
func built(t *testing.T, dir, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(os.Getenv(builtVar), dir, pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("packages %s/%s: %q, %v", dir, pattern, found, err)
	}
	return found[0]
}

// The same source gives the same octets.
func TestReproducible(t *testing.T) {
	for _, pattern := range []string{"*.deb", "*.rpm"} {
		one, err := os.ReadFile(built(t, "first", pattern))
		if err != nil {
			t.Fatal(err)
		}
		two, err := os.ReadFile(built(t, "again", pattern))
		if err != nil {
			t.Fatal(err)
		}
		if string(one) != string(two) {
			t.Errorf("%s: two builds differ", pattern)
		}
	}
}

// The other architecture's packages are made, and say what they are.
func TestOtherArchitecture(t *testing.T) {
	need(t, "dpkg-deb")
	deb := run(t, "dpkg-deb", "-f", built(t, "other", "*.deb"), "Architecture", "Version")
	if want := "Architecture: " + otherArch() + "\nVersion: " + first + "-1\n"; deb != want {
		t.Errorf("deb: %q, want %q", deb, want)
	}
	need(t, "rpm")
	rpm := map[string]string{"arm64": "aarch64", "amd64": "x86_64"}[otherArch()]
	if got := run(t, "rpm", "-qp", "--qf", "%{ARCH} %{VERSION}-%{RELEASE}", built(t, "other", "*.rpm")); got != rpm+" "+first+"-1" {
		t.Errorf("rpm: %q", got)
	}
}

// The version says what git says, and grows as packages' versions must: by dpkg's word, which rpm shares.
func TestVersion(t *testing.T) {
	need(t, "dpkg")
	dir := t.TempDir()
	script, err := os.ReadFile("build.sh")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "packaging"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "packaging", "build.sh"), script, 0o755); err != nil {
		t.Fatal(err)
	}
	env := []string{"PATH=" + os.Getenv("PATH"), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@test", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@test"}
	minute := 0
	in := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.Env = dir, append(env, fmt.Sprintf("GIT_COMMITTER_DATE=2026-11-23T17:%02d:00Z", minute))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	in("git", "init", "-q")
	in("git", "add", ".")
	last := ""
	for _, c := range []struct{ do, want string }{
		{"commit", `0\.0\.0\+git20261123170100\.[0-9a-f]{8}`},
		{"commit", `0\.0\.0\+git20261123170200\.[0-9a-f]{8}`},
		{"v0.1.0-rc1", `0\.1\.0~rc1`},
		{"v0.1.0", `0\.1\.0`},
		{"commit", `0\.1\.0\+git20261123170500\.[0-9a-f]{8}`},
		{"change", `0\.1\.0\+git20261123170500\.[0-9a-f]{8}\.dirty`},
	} {
		minute++
		switch c.do {
		case "commit":
			in("git", "commit", "-q", "--allow-empty", "-m", "x")
		case "change":
			if err := os.WriteFile(filepath.Join(dir, "packaging", "build.sh"), append(script, '\n'), 0o755); err != nil {
				t.Fatal(err)
			}
		default:
			in("git", "commit", "-q", "--allow-empty", "-m", "x")
			in("git", "tag", c.do)
		}
		version := in("./packaging/build.sh", "--version")
		if !regexp.MustCompile("^" + c.want + "$").MatchString(version) {
			t.Errorf("%s: version %s, want %s", c.do, version, c.want)
		}
		if last != "" {
			in("dpkg", "--compare-versions", last, "lt", version)
		}
		last = version
	}
}

// Debian's own critic has nothing to say but what lintian-overrides explains.
func TestLintian(t *testing.T) {
	need(t, "lintian")
	out, err := exec.Command("lintian", "--allow-root", "--fail-on", "error,warning", built(t, "first", "*.deb")).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// What the units run is there: the command, and each flag it is given.
func TestUnitCommands(t *testing.T) {
	units, err := filepath.Glob("systemd/*.service")
	if err != nil || len(units) < 2 {
		t.Fatalf("units %q, %v", units, err)
	}
	commands := help(t)
	for _, unit := range units {
		m := regexp.MustCompile(`(?m)^ExecStart=/usr/sbin/tlsonly (.+)$`).FindStringSubmatch(read(t, unit))
		if m == nil {
			t.Errorf("%s doesn't run tlsonly", unit)
			continue
		}
		words := strings.Fields(m[1])
		i := slices.Index(names(commands), words[0])
		if i < 0 {
			t.Errorf("%s runs %q, and the program has no such command", unit, words[0])
			continue
		}
		for _, flag := range words[1:] {
			has := slices.ContainsFunc(commands[i].flags, func(f flagHelp) bool { return f.name == flag })
			if strings.HasPrefix(flag, "-") && !has {
				t.Errorf("%s runs %s with %s, and it has no such flag", unit, words[0], flag)
			}
		}
	}
}

// What the units ask of systemd leaves the daemon little to do harm with.
func TestUnits(t *testing.T) {
	need(t, "systemd-analyze")
	for unit, most := range map[string]string{"tlsonly.service": "15", "tlsonly-forwards.service": "25", "tlsonly-bind.service": "50"} {
		out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold="+most, "systemd/"+unit).CombinedOutput()
		if err != nil {
			t.Errorf("%s is exposed by more than %s tenths: %v\n%s", unit, most, err, out)
		}
	}
}

// need skips a test whose tool isn't installed.
func need(t *testing.T, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		t.Skipf("%s isn't installed", tool)
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", name, err, out, stderr(err))
	}
	return string(out)
}

func stderr(err error) string {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return string(exit.Stderr)
	}
	return ""
}
