package sendmail

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tlsonly/internal/mta"
	"tlsonly/internal/mta/clienthello"
	"tlsonly/internal/profile"
)

// offers says what TLS Sendmail's client offers, as it says it to a host of ours.
func (in Installation) offers(ctx context.Context, c conf) (profile.TLS, error) {
	dir, err := os.MkdirTemp("", "tlsonly-hello-")
	if err != nil {
		return profile.TLS{}, err
	}
	defer os.RemoveAll(dir)
	return clienthello.Of(ctx, func(ctx context.Context, address string) error { return in.hello(ctx, c, dir, address) })
}

// hello has Sendmail begin to deliver a message to a host, with a configuration of
// its own that has the site's settings for TLS, a queue in dir and nothing else.
func (in Installation) hello(ctx context.Context, c conf, dir, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	cf, services := filepath.Join(dir, "hello.cf"), filepath.Join(dir, "services")
	text := fmt.Sprintf(helloConf, services, dir) + c.tlsSettings() + fmt.Sprintf(helloRules, host, port)
	for name, text := range map[string]string{cf: text, services: "hosts\tfiles\naliases\tfiles\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			return err
		}
	}
	out, err := in.run(ctx, "\n", in.program(), "-C", cf, "-Am", "-odi", "-oem", "-i", "-v", "-f", "hello@localhost.localdomain", "hello@localhost.localdomain")
	if err != nil {
		return err
	}
	return fmt.Errorf("sendmail: %s", tail(out))
}

// helloConf and helloRules are a sendmail.cf that asks no DNS and writes no log.
const (
	helloConf = `V10/Berkeley
Djlocalhost.localdomain
O ServiceSwitchFile=%s
O QueueDirectory=%s
O LogLevel=0
O DontProbeInterfaces=True
O Timeout.connect=10s
O Timeout.iconnect=10s
O Timeout.initial=10s
O Timeout.helo=10s
O Timeout.starttls=10s
`
	helloRules = `S0
R$*	$#hello $@ [%s] $: $1
S3
Mhello, P=[IPC], F=mu, E=\r\n, A=TCP $h %s
Mlocal, P=/bin/false, F=lsm, A=false
Mprog, P=/bin/false, F=lsm, A=false
`
)

// tlsOptions are the options that decide what Sendmail's client offers. Its own
// certificate isn't among them: who runs this may not be able to read the key.
var tlsOptions = []string{"cipherlist", "ciphersuites", "clientssloptions", "sslengine", "sslenginepath"}

// tlsSettings are the lines of sendmail.cf that decide it; OpenSSL's own settings
// may be named in its environment.
func (c conf) tlsSettings() string {
	var b strings.Builder
	for line := range strings.SplitSeq(c.text, "\n") {
		name, _, _ := strings.Cut(strings.TrimPrefix(line, "O "), "=")
		option := strings.HasPrefix(line, "O ") && slices.Contains(tlsOptions, strings.ToLower(strings.TrimSpace(name)))
		if option || strings.HasPrefix(line, "EOPENSSL_") || strings.HasPrefix(line, "ESSL_") {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// features looks for rules that set TLS options for single hosts.
func (c conf) features() []mta.Finding {
	found := check{check: "tls"}
	const ruleset = "tls_clt_features"
	if strings.Contains("\n"+c.ruleset(ruleset), "\nR") {
		found.add(mta.Warning, "tls-features", c.where("S"+ruleset), "%s may set TLS options for single hosts: probes offer them what the MTA offers to all others", ruleset)
		found.remedy("let no entry for it restrict TLS, or see tlsonly check for these hosts")
	}
	return found.all
}
