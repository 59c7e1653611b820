package testnet

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Site is one mail domain of a World.
type Site struct {
	Domain string
	Offers string // in words, for people
	Hosts  []Host // in MX order; none: Zone says what there is
	Zone   string // more records, relative to Domain
}

// Host is one mail host of a Site.
type Host struct {
	Fault  Fault
	NoTLS  bool     // no certificate: STARTTLS isn't offered
	Cert   CertSpec // Names is set to the host's name unless given
	Min    uint16   // lowest and highest TLS version, 0 for Go's defaults
	Max    uint16
	Suites []uint16
	Reject func(rcpt string) string
}

// Sites are destinations good and bad, one fault each.
func Sites() []Site {
	return []Site{
		{Domain: "good.example", Offers: "TLS 1.3", Hosts: []Host{{}}},
		{Domain: "self.example", Offers: "TLS, self-signed", Hosts: []Host{{Cert: CertSpec{SelfSigned: true}}}},
		{Domain: "mixed.example", Offers: "MX 10 no TLS, MX 20 TLS", Hosts: []Host{{NoTLS: true}, {}}},
		{Domain: "implicit.example", Offers: "TLS 1.2, no MX record", Zone: "@ A %1", Hosts: []Host{{Max: tls.VersionTLS12}}},
		{Domain: "none.example", Offers: "no STARTTLS", Hosts: []Host{{NoTLS: true}}},
		{Domain: "old.example", Offers: "TLS 1.0 only", Hosts: []Host{{Min: tls.VersionTLS10, Max: tls.VersionTLS10}}},
		{Domain: "refused.example", Offers: "454 to STARTTLS", Hosts: []Host{{Fault: STARTTLS454}}},
		{Domain: "garbage.example", Offers: "garbage after STARTTLS", Hosts: []Host{{Fault: GarbageAfter}}},
		{Domain: "silent.example", Offers: "silence", Hosts: []Host{{Fault: HangConnect}}},
		{Domain: "nullmx.example", Offers: "null MX", Zone: "@ MX 0 ."},
	}
}

// World is a small internet: a DNS server that knows the sites, and their mail hosts.
type World struct {
	DNS   *DNS
	CA    *CA
	sites map[string][]*SMTP
	zones []string
}

// StartWorld starts mail hosts at 127.0.1.1, 127.0.1.2 and so on, all on the same port, and DNS at listen. In a
// site's Zone "%1" stands for the address of its first host.
func StartWorld(listen string, port uint16, sites []Site) (*World, error) {
	ca, err := NewCA()
	if err != nil {
		return nil, err
	}
	w := &World{CA: ca, sites: map[string][]*SMTP{}}
	next := 1
	for _, site := range sites {
		zone := site.Zone
		for i, host := range site.Hosts {
			ip := net.IPv4(127, 0, 1, byte(next)).String()
			next++
			name := fmt.Sprintf("mx%d.%s", i+1, site.Domain)
			if err := w.startHost(site.Domain, name, net.JoinHostPort(ip, strconv.Itoa(int(port))), host); err != nil {
				return nil, errors.Join(err, w.Close())
			}
			if site.Zone == "" {
				w.zones = append(w.zones, fmt.Sprintf("%s. 60 IN MX %d %s.", site.Domain, 10*(i+1), name))
			}
			w.zones = append(w.zones, fmt.Sprintf("%s. 60 IN A %s", name, ip))
			zone = strings.ReplaceAll(zone, "%"+strconv.Itoa(i+1), ip)
		}
		for line := range strings.Lines(zone) {
			w.zones = append(w.zones, strings.Replace(strings.TrimRight(line, "\n"), "@", site.Domain+". 60 IN", 1))
		}
	}
	if w.DNS, err = StartDNS(listen, w.zoneText("")); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (w *World) zoneText(more string) string {
	return "$ORIGIN example.\n$TTL 60\n@ IN SOA ns.example. hostmaster.example. 1 60 60 60 60\n@ IN NS ns.example.\n" +
		strings.Join(w.zones, "\n") + "\n" + more
}

// AddRecords serves more records, in full master-file lines, from now on.
func (w *World) AddRecords(lines string) error { return w.DNS.SetZones(w.zoneText(lines)) }

func (w *World) startHost(domain, name, listen string, host Host) error {
	config := SMTPConfig{Listen: listen, Name: name, Fault: host.Fault, Reject: host.Reject}
	if !host.NoTLS {
		spec := host.Cert
		if len(spec.Names) == 0 {
			spec.Names = []string{name}
		}
		cert, err := w.CA.Issue(spec)
		if err != nil {
			return err
		}
		config.TLS = ServerTLS(cert, host.Min, host.Max, host.Suites...)
	}
	smtp, err := StartSMTP(config)
	if err != nil {
		return err
	}
	w.sites[domain] = append(w.sites[domain], smtp)
	return nil
}

// Replace serves line in place of the records that begin with prefix.
func (w *World) Replace(prefix, line string) error {
	kept := []string{line}
	for _, record := range w.zones {
		if !strings.HasPrefix(record, prefix) {
			kept = append(kept, record)
		}
	}
	w.zones = kept
	return w.DNS.SetZones(w.zoneText(""))
}

// Domains returns the domains that have hosts, sorted.
func (w *World) Domains() []string { return slices.Sorted(maps.Keys(w.sites)) }

// Hosts returns the mail hosts of a domain in MX order.
func (w *World) Hosts(domain string) []*SMTP { return w.sites[domain] }

// Messages returns what the hosts of a domain took.
func (w *World) Messages(domain string) []Message {
	var all []Message
	for _, h := range w.sites[domain] {
		all = append(all, h.Messages()...)
	}
	return all
}

// Close ends DNS and all hosts.
func (w *World) Close() error {
	var errs []error
	for _, hosts := range w.sites {
		for _, h := range hosts {
			errs = append(errs, h.Close())
		}
	}
	if w.DNS != nil {
		errs = append(errs, w.DNS.Close())
	}
	return errors.Join(errs...)
}
