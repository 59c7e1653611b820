package dane

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
)

// TestOpenSSL asks OpenSSL, in whose hands the mail will be, what it makes of the same records and chains.
func TestOpenSSL(t *testing.T) {
	program, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip(err)
	}
	if version, err := exec.Command(program, "version").Output(); err != nil || !bytes.HasPrefix(version, []byte("OpenSSL 3.")) {
		t.Skipf("%s is %q, %v", program, version, err) // LibreSSL knows no DANE
	}
	asked := 0
	for _, c := range cases(t) {
		if c.differs != "" {
			continue
		}
		asked++
		got, output := openssl(t, program, c)
		if want := c.want == ee || c.want == ta; got != want {
			t.Errorf("%s: OpenSSL says %v, we %v\n%s", c.name, got, want, output)
		}
	}
	if asked < 100 {
		t.Errorf("OpenSSL was asked %d times", asked)
	}
}

// openssl reports whether openssl s_client takes the chain from a server of ours.
func openssl(t *testing.T, program string, c testCase) (bool, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		server := tls.Server(conn, &tls.Config{
			Certificates: []tls.Certificate{{Certificate: chain(c.chain...), PrivateKey: c.chain[0].key}},
			MaxVersion:   tls.VersionTLS12, // so that the client's verdict is there before the handshake ends
		})
		if server.Handshake() == nil {
			server.Read(make([]byte, 1))
		}
	}()
	args := []string{"s_client", "-connect", l.Addr().String(), "-dane_tlsa_domain", "mx.test", "-dane_ee_no_namechecks",
		"-verify_return_error", "-brief", "-no-CAfile", "-no-CApath", "-no-CAstore"}
	for _, r := range c.records {
		args = append(args, "-dane_tlsa_rrdata", fmt.Sprintf("%d %d %d %X", r.Usage, r.Selector, r.Matching, r.Data))
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = []string{"OPENSSL_CONF=/dev/null"} // what the host's file says is not the question
	cmd.Stdin = strings.NewReader("Q\n")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err = cmd.Run()
	l.Close()
	<-done
	verified := strings.Contains(output.String(), "Verification: OK")
	if verified != (err == nil) {
		t.Errorf("%s: %v\n%s", c.name, err, &output)
	}
	return verified, output.String()
}
