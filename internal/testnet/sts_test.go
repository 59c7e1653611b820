package testnet

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// getSTS asks for domain's policy as a good client does, and returns the answer read to its end.
func getSTS(t *testing.T, s *STS, ca *CA, domain string) (*http.Response, string, error) {
	t.Helper()
	d := &net.Dialer{Timeout: time.Minute}
	host := "mta-sts." + domain
	conn, err := tls.DialWithDialer(d, "tcp", s.Address().String(), &tls.Config{RootCAs: ca.Pool(), ServerName: host})
	if err != nil {
		return nil, "", err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET "+stsPath+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n"); err != nil {
		return nil, "", err
	}
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(r.Body)
	return r, string(body), err
}

func TestSTS(t *testing.T) {
	ca, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	s, err := StartSTS("127.0.0.1:0", ca)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const policy = "version: STSv1\nmode: none\nmax_age: 1\n"
	s.SetPolicy("a.example", policy)
	s.SetPolicy("b.example", "another")
	for domain, want := range map[string]string{"a.example": policy, "b.example": "another"} {
		if r, body, err := getSTS(t, s, ca, domain); err != nil || r.StatusCode != 200 || body != want {
			t.Errorf("%s: %v, %q, %v", domain, r, body, err)
		}
	}
	if _, _, err := getSTS(t, s, ca, "c.example"); err == nil {
		t.Error("a certificate for a domain without a policy")
	}
	if a, c := s.Fetches("a.example"), s.Fetches("c.example"); a != 1 || c != 0 {
		t.Errorf("fetches: %d and %d, want 1 and 0", a, c)
	}

	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var unknown x509.UnknownAuthorityError
	for fault, as := range map[STSFault]any{STSExpired: &invalid, STSWrongName: &name, STSSelfSigned: &unknown} {
		s.SetFault("a.example", fault)
		if _, _, err := getSTS(t, s, ca, "a.example"); !errors.As(err, as) {
			t.Errorf("%s: %v", fault, err)
		}
	}
	for _, c := range []struct {
		fault  STSFault
		status int
		header string // one there must be
		body   func(string) bool
	}{
		{STSRedirect, 301, "Location: /elsewhere.txt", nil},
		{STSCreated, 201, "", func(b string) bool { return b == policy }},
		{STSNotFound, 404, "", func(b string) bool { return b == policy }},
		{STSHTML, 200, "Content-Type: text/html", func(b string) bool { return b == policy }},
		{STSGzip, 200, "Content-Encoding: gzip", func(b string) bool { return strings.HasPrefix(b, "\x1f\x8b") }},
		{STSTooLong, 200, "", func(b string) bool { return len(b) >= 65<<10 && strings.HasPrefix(b, policy) }},
		{STSUnframed, 200, "", func(b string) bool { return b == policy }},
	} {
		s.SetFault("a.example", c.fault)
		r, body, err := getSTS(t, s, ca, "a.example")
		key, value, _ := strings.Cut(c.header, ": ")
		if err != nil || r.StatusCode != c.status || r.Header.Get(key) != value || c.body != nil && !c.body(body) {
			t.Errorf("%s: %v, %.80q, %v", c.fault, r, body, err)
		}
	}
	s.SetFault("a.example", STSTruncated)
	if _, body, err := getSTS(t, s, ca, "a.example"); !errors.Is(err, io.ErrUnexpectedEOF) || body != policy[:len(policy)/2] {
		t.Errorf("truncated: %q, %v", body, err)
	}

	s.SetFault("a.example", STSStall)
	before := s.Fetches("a.example")
	got := make(chan string, 1)
	go func() {
		_, body, err := getSTS(t, s, ca, "a.example")
		if err != nil {
			t.Error(err)
		}
		got <- body
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.WaitFetches(ctx, "a.example", before+1); err != nil {
		t.Fatal(err)
	}
	select {
	case <-got:
		t.Error("did not stall")
	default:
	}
	s.SetFault("a.example", STSGood)
	if body := <-got; body != policy {
		t.Errorf("after the stall: %q", body)
	}
}
