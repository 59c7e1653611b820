package starttls

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"testing"
	"time"

	"tlsonly/internal/policy"
	"tlsonly/internal/profile"
	"tlsonly/internal/testnet"
)

// At ports other than 465 a host that says nothing is taken to wait for TLS, if
// the MTA has a client that begins with it; one that greets late isn't.
func TestProbeWrapped(t *testing.T) {
	t.Parallel()
	const silence = 200 * time.Millisecond
	config := testnet.ServerTLS(issue(t, testnet.CertSpec{Names: []string{"mx.test"}}), 0, 0)
	for _, c := range []struct {
		name    string
		port    string
		wrapped bool
		late    bool // a host of SMTP that greets late, without STARTTLS
		want    policy.Outcome
	}{
		{"TLS at once", "4650", true, false, policy.SawTLS},
		{"no such client", "4650", false, false, policy.SawTimeout},
		{"the port of MX", "25", true, false, policy.SawTimeout},
		{"a late greeting", "4650", true, true, policy.SawNoSTARTTLS},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer conn.Close()
						if c.late {
							time.Sleep(3 * silence)
							for _, reply := range []string{"220 mx.test", "250 mx.test", "221 bye"} {
								if _, err := conn.Write([]byte(reply + "\r\n")); err != nil {
									return
								}
								if _, err := conn.Read(make([]byte, 512)); err != nil {
									return
								}
							}
							return
						}
						host := tls.Server(conn, config)
						for _, reply := range []string{"220 mx.test", "221 bye"} {
							if _, err := host.Write([]byte(reply + "\r\n")); err != nil {
								return
							}
							if _, err := host.Read(make([]byte, 512)); err != nil {
								return
							}
						}
					}()
				}
			}()
			limit := patience
			if c.want == policy.SawTimeout {
				limit = 6 * silence
			}
			p := Prober{HELO: "probe.test", Timeout: limit, silence: silence, MTA: func() profile.MTA { return profile.MTA{Wraps: c.wrapped} },
				Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, l.Addr().String())
				}}
			o := p.Probe(t.Context(), Target{Address: netip.MustParseAddrPort("127.0.0.1:" + c.port), Name: "mx.test"})
			if o.Outcome != c.want {
				t.Errorf("%s at %s: %s, want %s", o.Outcome, o.Stage, o.Detail, c.want)
			}
			if c.want == policy.SawTLS && (o.Banner != "mx.test" || o.Version != policy.TLS13) {
				t.Errorf("%+v", o)
			}
			if c.want != policy.SawTLS {
				return
			}
			v := p.Versions(t.Context(), Target{Address: netip.MustParseAddrPort("127.0.0.1:" + c.port)})
			if len(v.Accepted) == 0 {
				t.Errorf("versions %+v", v)
			}
		})
	}
}
