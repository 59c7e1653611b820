package main

import (
	"errors"
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/profile"
)

// What can't be found out this once doesn't replace what is known.
func TestKept(t *testing.T) {
	old := profile.MTA{Dialect: profile.Postfix, Version: "3.7.11", TLS: profile.TLS{Suites: []uint16{1}}, Hosts: profile.Hosts{Name: addr.MustDomain("old.test")}}
	m := profile.MTA{Dialect: profile.Postfix, Version: "3.7.11", TLS: profile.TLS{Suites: []uint16{2}}, Hosts: profile.Hosts{Name: addr.MustDomain("new.test")}}
	unread := m
	unread.TLS = profile.TLS{Assumed: "no such program"}
	newer := unread
	newer.Version = "3.10.1"
	failed := errors.New("no")
	for _, c := range []struct {
		name  string
		m     profile.MTA
		err   error
		suite uint16 // 0: assumed
		host  string
	}{
		{"all", m, nil, 2, "new.test"},
		{"its names", m, failed, 2, "old.test"},
		{"its TLS", unread, nil, 1, "new.test"},
		{"both", unread, failed, 1, "old.test"},
		{"nothing", profile.MTA{Dialect: profile.Postfix}, failed, 1, "old.test"},
		{"another version", newer, nil, 0, "new.test"},
		{"another MTA", profile.MTA{Dialect: profile.Sendmail, Hosts: m.Hosts}, failed, 0, "new.test"},
	} {
		got := kept(old, c.m, c.err)
		if c.suite == 0 && got.TLS.Suites != nil || c.suite != 0 && !got.TLS.Takes(c.suite) || got.Hosts.Name.String() != c.host {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}
