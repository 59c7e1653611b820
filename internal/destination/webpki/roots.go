package webpki

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

// Roots reads the roots to trust from a PEM file; "" gives those of the host. Every certificate in the file must be
// readable: a root that was silently left out would be missed much later, as mail that is refused.
func Roots(file string) (*x509.CertPool, error) {
	if file == "" {
		pool, err := x509.SystemCertPool()
		if err == nil && pool.Equal(x509.NewCertPool()) {
			err = errors.New("this host has none: is the package ca-certificates installed?")
		}
		if err != nil {
			return nil, fmt.Errorf("root certificates: %w", err)
		}
		return pool, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("root certificates: %w", err)
	}
	pool := x509.NewCertPool()
	if err := addPEM(pool, text); err != nil {
		return nil, fmt.Errorf("root certificates: %s:%w", file, err)
	}
	return pool, nil
}

// addPEM adds the certificates in text; what lies between them is commentary (RFC 7468, section 5.2). The error begins
// with the line.
func addPEM(pool *x509.CertPool, text []byte) error {
	const begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
	found, start := 0, 0 // start is the line of the block under way
	var block []byte
	line := 0
	for content := range bytes.Lines(text) {
		line++
		switch string(bytes.TrimSpace(content)) {
		case begin:
			if start > 0 {
				return fmt.Errorf("%d: this certificate has no end", start)
			}
			start, block = line, nil
		case end:
			if start == 0 {
				return fmt.Errorf("%d: the end of a certificate without its beginning", line)
			}
			p, _ := pem.Decode(append(block, content...))
			if p == nil {
				return fmt.Errorf("%d: this certificate is not base64", start)
			}
			c, err := x509.ParseCertificate(p.Bytes)
			if err != nil {
				return fmt.Errorf("%d: %w", start, err)
			}
			pool.AddCert(c)
			found, start = found+1, 0
		}
		if start > 0 {
			block = append(block, content...)
		}
	}
	switch {
	case start > 0:
		return fmt.Errorf("%d: this certificate has no end", start)
	case found == 0:
		return errors.New("1: no certificate in the file (want PEM: " + begin + ")")
	}
	return nil
}
