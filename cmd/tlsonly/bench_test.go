package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

// BenchmarkStart shows what 100,000 known destinations cost the program as it is built: time from start to ready, resident
// memory then, the command that lists the failing ones, bytes on disk.
func BenchmarkStart(b *testing.B) {
	const destinations = 100_000
	binary := filepath.Join(b.TempDir(), "tlsonly")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, ".").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	for _, hosts := range []int{50, 20_000} {
		b.Run(fmt.Sprintf("hosts=%d", hosts), func(b *testing.B) {
			dir := b.TempDir()
			database := filepath.Join(dir, "state", "tlsonly.db")
			fillStore(b, database, destinations, hosts)
			file := filepath.Join(dir, "tlsonly.toml")
			text := fmt.Sprintf("[milter]\nlisten = \"inet:127.0.0.1:8899\"\n[http]\nlisten = \"\"\n[dns]\nresolver = \"127.0.0.1:53\"\n[store]\nurl = %q\n", "sqlite://"+database)
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				b.Fatal(err)
			}
			var ready, list time.Duration
			var resident float64
			for b.Loop() {
				start := time.Now()
				log := filepath.Join(dir, "log")
				out, err := os.Create(log)
				if err != nil {
					b.Fatal(err)
				}
				cmd := exec.Command(binary, "serve", "-c", file)
				cmd.Stderr = out
				if err := cmd.Start(); err != nil {
					b.Fatal(err)
				}
				for said := ""; !strings.Contains(said, "msg=ready"); {
					if time.Since(start) > time.Minute {
						b.Fatalf("not ready: %s", said)
					}
					time.Sleep(5 * time.Millisecond)
					text, err := os.ReadFile(log)
					if err != nil {
						b.Fatal(err)
					}
					said = string(text)
				}
				ready += time.Since(start)
				time.Sleep(2 * time.Second)
				resident = residentMB(b, cmd.Process.Pid)
				listed := time.Now()
				if out, err := exec.Command(binary, "domains", "list", "--failing", "-c", file).CombinedOutput(); err != nil {
					b.Fatalf("%v\n%s", err, out)
				}
				list += time.Since(listed)
				if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
					b.Fatal(err)
				}
				if err := cmd.Wait(); err != nil {
					b.Fatal(err)
				}
				out.Close()
			}
			info, err := os.Stat(database)
			if err != nil {
				b.Fatal(err)
			}
			n := float64(b.N)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(ready.Seconds()/n, "s-ready")
			b.ReportMetric(resident, "MB-resident")
			b.ReportMetric(list.Seconds()/n, "s-failing")
			b.ReportMetric(float64(info.Size())/1e6, "MB-disk")
		})
	}
}

func fillStore(b *testing.B, database string, destinations, hosts int) {
	b.Helper()
	ctx := context.Background()
	s, err := store.Open(ctx, store.Config{URL: "sqlite://" + database})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	now := time.Now()
	var batch []store.Assessment
	for i := range destinations {
		host := policy.Host{Name: addr.MustDomain(fmt.Sprintf("mx%d.provider.example", i%hosts)), Preference: 10, Observations: []policy.Observation{{
			Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i % hosts >> 16), byte(i % hosts >> 8), byte(i % hosts)}), 25),
			Outcome: policy.SawTLS, Stage: policy.StageQuit, Version: policy.TLS13, Cipher: "TLS_AES_128_GCM_SHA256", Bits: 128, Exchange: "X25519MLKEM768",
			Banner: "mx.provider.example ESMTP ready", Extensions: []string{"PIPELINING", "SIZE 52428800", "STARTTLS", "8BITMIME"}, When: now,
			Chain: []policy.Certificate{{Subject: "CN=mx.provider.example", Issuer: "CN=Some Authority R3", Names: []string{"mx.provider.example"},
				NotBefore: now, NotAfter: now.AddDate(0, 3, 0), Key: "ECDSA P-256", Signature: "SHA256-RSA", Fingerprint: strings.Repeat("0a", 32)}},
		}}}
		d := addr.MustDestination(fmt.Sprintf("customer%d.example", i))
		batch = append(batch, store.Assessment{Port: 25, Assessment: policy.Assessment{Destination: d, Hosts: []policy.Host{host}, When: now, Until: now.AddDate(0, 0, 1)}})
		if len(batch) == 5000 || i == destinations-1 {
			if err := s.Put(ctx, batch...); err != nil {
				b.Fatal(err)
			}
			batch = batch[:0]
		}
	}
	for i := range 100 {
		d := addr.MustDestination(fmt.Sprintf("customer%d.example", i*997))
		if _, err := s.RecordAssessment(ctx, store.Result{Destination: d, When: now, Next: now.AddDate(0, 0, 1)}); err != nil {
			b.Fatal(err)
		}
	}
}

// residentMB returns a process's resident memory.
func residentMB(b *testing.B, pid int) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kb / 1000
		}
	}
	b.Fatal("no VmRSS")
	return 0
}
