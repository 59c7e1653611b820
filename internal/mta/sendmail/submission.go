package sendmail

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"tlsonly/internal/mta"
)

// submitFile is the configuration of sendmail(8) as programs on this host call it
// (FEATURE(msp)). It stands beside sendmail.cf, has no filters, and hands all mail
// to one host.
const submitFile = "submit.cf"

// submission looks whether that host is this one, where our filter is asked. Mail
// for another host leaves without a decision, and by rules that aren't ours.
func (in Installation) submission(ctx context.Context) []mta.Finding {
	text, err := os.ReadFile(filepath.Join(filepath.Dir(in.cf()), submitFile))
	if err != nil {
		return nil // such an installation hands in by sendmail.cf
	}
	number, host := 0, ""
	for line := range strings.Lines(string(text)) {
		number++
		if value, ok := strings.CutPrefix(line, "D{MTAHost}"); ok {
			host = strings.TrimSpace(value)
			break
		}
	}
	if host == "" {
		return nil
	}
	found := check{check: "filter"}
	where := submitFile + ":" + strconv.Itoa(number)
	here, err := local(host, func(name string) ([]netip.Addr, error) {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	})
	switch {
	case err != nil:
		found.add(mta.Warning, "submit-unknown", where,
			"mail of programs on this host goes to %s, and whether that is this host is not known: %v", host, err)
	case !here:
		found.add(mta.Hole, "submit-elsewhere", where,
			"mail of programs on this host goes to %s, not through the filter, so it may leave in the clear", host)
	default:
		found.add(mta.OK, "submit", where, "mail of programs on this host goes through the filter, by %s", host)
		return found.all
	}
	found.remedy("in submit.mc: FEATURE(`msp', `[127.0.0.1]'), then make -C /etc/mail")
	return found.all
}

// local reports whether a host, as Sendmail writes one, is this host for certain;
// lookup gives the addresses of a name.
func local(host string, lookup func(name string) ([]netip.Addr, error)) (bool, error) {
	name, bracketed := strings.CutPrefix(host, "[")
	name = strings.TrimPrefix(strings.TrimSuffix(name, "]"), "IPv6:")
	if strings.EqualFold(strings.TrimSuffix(name, "."), "localhost") {
		return true, nil
	}
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		return false, err
	}
	own := func(ip netip.Addr) bool {
		return ip.Unmap().IsLoopback() || slices.ContainsFunc(interfaces, func(a net.Addr) bool {
			prefix, err := netip.ParsePrefix(a.String())
			return err == nil && prefix.Addr().Unmap() == ip.Unmap()
		})
	}
	if ip, err := netip.ParseAddr(name); err == nil {
		return own(ip), nil
	}
	if !bracketed {
		return false, nil // its MX records lead wherever they lead
	}
	ips, err := lookup(name)
	if err != nil {
		return false, err
	}
	return len(ips) > 0 && !slices.ContainsFunc(ips, func(ip netip.Addr) bool { return !own(ip) }), nil
}
