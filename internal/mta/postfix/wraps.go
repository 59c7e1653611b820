package postfix

import (
	"context"
	"strings"
)

const wrapperMode = "smtp_tls_wrappermode"

// Wraps reports whether a client of this Postfix speaks TLS from the first octet
// on, by main.cf or by an option in master.cf: postconf(5), smtp_tls_wrappermode.
func (i Instance) Wraps(ctx context.Context) (bool, error) {
	main, _, err := i.run(ctx, "", "postconf", "-xh", wrapperMode)
	if err != nil {
		return false, err
	}
	if strings.TrimSpace(main) == "yes" {
		return true, nil
	}
	options, _, err := i.run(ctx, "", "postconf", "-Px", "*/*/"+wrapperMode)
	for line := range strings.Lines(options) {
		if _, value, ok := strings.Cut(line, "="); ok && strings.TrimSpace(value) == "yes" {
			return true, err
		}
	}
	return false, err
}
