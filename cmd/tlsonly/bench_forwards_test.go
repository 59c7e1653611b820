package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// BenchmarkForwards shows what the audit of 100,000 forwards to 200 destinations costs the program as it is built: time and the
// most memory it had; of an alias file, and of tables of Postfix's: texthash, and hash made by postmap(1).
func BenchmarkForwards(b *testing.B) {
	if err := rig.Isolated(); err != nil {
		b.Skip(err)
	}
	const forwards, destinations = 100_000, 200
	var sites []testnet.Site
	for i := range destinations {
		sites = append(sites, testnet.Site{Domain: fmt.Sprintf("d%d.example", i), Hosts: []testnet.Host{{NoTLS: i%20 == 0}}})
	}
	world, err := testnet.StartWorld("127.0.0.1:53", 25, sites)
	if err != nil {
		b.Fatal(err)
	}
	defer world.Close()
	dir, err := rig.TempDir()
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "tlsonly")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, ".").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	write := func(name, form string) string {
		var text strings.Builder
		for i := range forwards {
			target := fmt.Sprintf("u%d@d%d.example", i, i/10%destinations)
			if i%10 == 9 {
				target = fmt.Sprintf("user%d@host.example", i-1) // a chain of two
			}
			fmt.Fprintf(&text, form, i, target)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			b.Fatal(err)
		}
		return path
	}
	aliases := write("aliases", "user%d: %s\n")
	virtual := write("virtual", "user%d@host.example %s\n")
	hashed := write("hashed", "user%d@host.example %s\n")
	for _, c := range []struct{ name, maps string }{
		{"aliases", ""}, {"texthash", "texthash:" + virtual}, {"hash", "hash:" + hashed},
	} {
		b.Run(c.name, func(b *testing.B) {
			forwarding := "postfix = \"off\"\nsendmail = \"off\"\naliases = [\"" + aliases + "\"]\nforward = []\nlocal = [\"host.example\"]\n"
			if c.maps != "" {
				p, err := rig.StartPostfix(b.Context(), rig.PostfixConfig{Main: map[string]string{
					"myhostname": "host.example", "mydestination": "host.example", "virtual_alias_maps": c.maps}})
				if err != nil {
					b.Fatal(err)
				}
				defer p.Stop()
				if _, err := p.Run(b.Context(), "", "postmap", "hash:"+hashed); err != nil {
					b.Fatal(err)
				}
				forwarding = "postfix = \"" + p.Etc + "\"\n"
			}
			file := filepath.Join(dir, c.name+".toml")
			text := "[dns]\nresolver = \"127.0.0.1:53\"\n[store]\nurl = \"sqlite://" + dir + "/none.db\"\n[forwarding]\n" + forwarding +
				"[[rule]]\nname = \"staff\"\nforwarder = [\"@host.example\"]\ntls = \"encrypt\"\n"
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				b.Fatal(err)
			}
			var took time.Duration
			most := 0.0
			for b.Loop() {
				cmd := exec.Command(binary, "forwards", "-c", file, "--failing")
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				start := time.Now()
				out, err := cmd.Output()
				took += time.Since(start)
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.ExitCode() != exitNo {
					b.Fatalf("%v\n%s", err, stderr.Bytes())
				}
				want := fmt.Sprintf("%d forwards of %d owners, %d destinations, ", forwards, forwards, destinations)
				if !strings.Contains(string(out), want) {
					b.Fatalf("no %q at the end of what it said: …%s", want, out[max(0, len(out)-200):])
				}
				most = max(most, float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)/1000)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(took.Seconds()/float64(b.N), "s")
			b.ReportMetric(most, "MB-most")
		})
	}
}
