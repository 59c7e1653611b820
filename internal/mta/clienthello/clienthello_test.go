package clienthello

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/smtp"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"tlsonly/internal/policy"
)

// The primes are what they are said to be.
func TestPrime(t *testing.T) {
	for _, size := range []int{768, 1024, 1536, 2048, 3072} {
		p := prime(size)
		if p.BitLen() != size || !p.ProbablyPrime(1) {
			t.Errorf("%d bits: %x", size, p)
		}
	}
}

// opensslClient runs OpenSSL's own client.
func opensslClient(t *testing.T, args ...string) func(context.Context, string) error {
	return func(ctx context.Context, address string) error {
		cmd := exec.CommandContext(ctx, "openssl", slices.Concat([]string{"s_client", "-starttls", "smtp", "-connect", address}, args)...)
		cmd.Env = []string{"OPENSSL_CONF=/dev/null"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = errors.New(string(out))
		}
		return err
	}
}

// What a client with known settings offers is what is found.
func TestOf(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed: \"./deps.sh crypto\" installs it")
	}
	for _, c := range []struct {
		name     string
		args     []string
		versions []policy.Version
		suites   []uint16 // all of TLS 1.2's
		groups   []uint16
		minDH    int
	}{
		{"level 0", []string{"-cipher", "DHE-RSA-AES128-SHA256@SECLEVEL=0", "-no_tls1_3", "-no_tls1", "-no_tls1_1", "-groups", "X448"},
			[]policy.Version{policy.TLS12}, []uint16{0x0067}, nil, 1024},
		{"level 1", []string{"-cipher", "DHE-RSA-AES128-SHA256@SECLEVEL=1", "-tls1_2"},
			[]policy.Version{policy.TLS12}, []uint16{0x0067}, nil, 1024},
		{"level 2", []string{"-cipher", "DHE-RSA-AES128-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256@SECLEVEL=2", "-groups", "X448:P-521", "-min_protocol", "TLSv1.2"},
			[]policy.Version{policy.TLS12, policy.TLS13}, []uint16{0x0067, 0xc02b}, []uint16{30, 25}, 2048},
		// What else level 3 takes depends on the version of OpenSSL.
		{"level 3", []string{"-cipher", "DHE-RSA-AES128-SHA256@SECLEVEL=3", "-min_protocol", "TLSv1.2"},
			[]policy.Version{policy.TLS12, policy.TLS13}, []uint16{0x0067}, nil, 3072},
		{"no suite with DHE", []string{"-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256", "-groups", "P-384", "-min_protocol", "TLSv1.2"},
			[]policy.Version{policy.TLS12, policy.TLS13}, []uint16{0xc02b}, []uint16{24}, 0},
		{"up to TLS 1.2", []string{"-cipher", "DHE-RSA-AES128-SHA@SECLEVEL=0", "-max_protocol", "TLSv1.2"},
			[]policy.Version{policy.TLS10, policy.TLS11, policy.TLS12}, []uint16{0x0033}, nil, 1024},
		{"TLS 1.1 and 1.2", []string{"-cipher", "DHE-RSA-AES128-SHA@SECLEVEL=0", "-max_protocol", "TLSv1.2", "-min_protocol", "TLSv1.1"},
			[]policy.Version{policy.TLS11, policy.TLS12}, []uint16{0x0033}, nil, 1024},
		{"TLS 1.3 alone", []string{"-tls1_3"}, []policy.Version{policy.TLS13}, []uint16{}, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Of(t.Context(), opensslClient(t, c.args...))
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(got.Versions)
			old := slices.DeleteFunc(slices.Clone(got.Suites), func(id uint16) bool { return id>>8 == 0x13 })
			if !slices.Equal(got.Versions, c.versions) || !slices.Equal(old, c.suites) || got.MinDH != c.minDH {
				t.Errorf("versions %v, suites %x, primes from %d bits", got.Versions, got.Suites, got.MinDH)
			}
			if c.groups != nil && !slices.Equal(got.Groups, c.groups) || len(got.Signatures) == 0 {
				t.Errorf("groups %v, signatures %x", got.Groups, got.Signatures)
			}
		})
	}
}

// Another stack's hello is read as well.
func TestOfGo(t *testing.T) {
	got, err := Of(t.Context(), func(ctx context.Context, address string) error {
		c, err := smtp.Dial(address)
		if err != nil {
			return err
		}
		defer c.Close()
		return c.StartTLS(&tls.Config{ServerName: "x.example", MinVersion: tls.VersionTLS12, CipherSuites: []uint16{0xc02f}})
	})
	if err != nil || !got.Takes(0xc02f) || got.Takes(0xc030) || !got.Speaks(policy.TLS13) || got.Speaks(policy.TLS11) || !got.Shares(29) || !got.Signs(0x0403) {
		t.Errorf("%+v, %v", got, err)
	}
}

// A client that says no hello is told of as one, with what it complained of.
func TestOfNobody(t *testing.T) {
	for name, run := range map[string]func(context.Context, string) error{
		"does not come":   func(context.Context, string) error { return errors.New("no such option") },
		"hangs up":        talk(""),
		"speaks no TLS":   talk("EHLO x\r\nSTARTTLS\r\nEHLO x\r\nEHLO x\r\n"),
		"wants no TLS":    talk("EHLO x\r\nMAIL FROM:<>\r\nQUIT\r\n"),
		"half a hello":    talk("EHLO x\r\nSTARTTLS\r\n\x16\x03\x01\x00\x10\x01\x00"),
		"another message": talk("EHLO x\r\nSTARTTLS\r\n\x16\x03\x01\x00\x04\x02\x00\x00\x00"),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Of(t.Context(), run)
			if err == nil || !strings.Contains(err.Error(), "no such option") {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// talk is a client that says a text and hangs up.
func talk(text string) func(context.Context, string) error {
	return func(ctx context.Context, address string) error {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		defer c.Close()
		_, _ = c.Write([]byte(text))
		return errors.New("no such option")
	}
}

func FuzzHello(f *testing.F) {
	f.Add(append([]byte{3, 3}, make([]byte, 70)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHello(b)
		if err == nil && len(h.offers.Suites) == 0 {
			t.Error("a hello without suites")
		}
	})
}
