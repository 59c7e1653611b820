package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/destination/webpki"
	"tlsonly/internal/fallback/keyring"
	"tlsonly/internal/fallback/openpgp"
	"tlsonly/internal/fallback/smime"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
	"tlsonly/internal/web"
)

// rings are the keys of all methods.
type rings []*keyring.Ring

// newRings builds what knows recipients' keys, as c says: of the methods named.
func newRings(c *config.Config, methods []policy.Method, keys keyring.Store, log *slog.Logger, now func() time.Time, tell func(store.Event)) (rings, error) {
	if len(methods) == 0 {
		return nil, nil
	}
	resolver, err := dns.New(dns.Config{Server: c.DNS.Resolver, DNSSEC: c.DNS.DNSSEC, TrustResolver: c.DNS.TrustResolver})
	if err != nil {
		return nil, fmt.Errorf("resolver: %w", err)
	}
	var found rings
	for _, method := range methods {
		var source keyring.Source
		switch method {
		case policy.OpenPGP:
			source = keyring.OpenPGP(present(c.OpenPGP.Keys), openpgpFinders(c, resolver)...)
		case policy.SMIME:
			finder, err := smimeFinder(c, resolver)
			if err != nil {
				return nil, err
			}
			source = keyring.SMIME(present(c.SMIME.Certs), finder)
		}
		found = append(found, keyring.New(keyring.Config{
			Source: source, Store: keys, Success: c.Cache.Success, Failure: c.Cache.Failure, Unknown: c.Cache.Unknown,
			Tell: tell, Log: log, Now: now,
		}))
	}
	return found, nil
}

// present returns paths without the folders of the defaults that aren't there.
func present(paths []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(path string) bool {
		_, err := os.Stat(path)
		return config.IsDefaultFolder(path) && os.IsNotExist(err)
	})
}

func openpgpFinders(c *config.Config, resolver *dns.Resolver) []openpgp.Finder {
	var finders []openpgp.Finder
	for _, word := range c.OpenPGP.Discover {
		switch word {
		case "wkd":
			finders = append(finders, &openpgp.WKD{Addrs: func(ctx context.Context, host addr.Domain) ([]netip.Addr, error) {
				a, err := resolver.Addrs(ctx, host)
				return a.Records, err
			}})
		case "dane":
			finders = append(finders, openpgp.DANE{Lookup: func(ctx context.Context, name addr.Domain) ([][]byte, bool, error) {
				a, err := resolver.OPENPGPKEY(ctx, name)
				return a.Records, a.Secure, err
			}})
		}
	}
	return finders
}

// smimeFinder returns nil where certificates are looked for nowhere.
func smimeFinder(c *config.Config, resolver *dns.Resolver) (keyring.SMIMEFinder, error) {
	if !slices.Contains(c.SMIME.Discover, "smimea") {
		return nil, nil
	}
	d := smime.DANE{Lookup: func(ctx context.Context, name addr.Domain) ([]smime.Record, bool, error) {
		a, err := resolver.SMIMEA(ctx, name)
		var records []smime.Record
		for _, r := range a.Records {
			records = append(records, smime.Record{Usage: r.Usage, Selector: r.Selector, Matching: r.Matching, Data: r.Data})
		}
		return records, a.Secure, err
	}}
	if c.SMIME.CAFile != "" {
		roots, err := webpki.Roots(c.SMIME.CAFile)
		if err != nil {
			return nil, fmt.Errorf("[smime] ca_file: %w", err)
		}
		d.Roots = roots
	}
	return d, nil
}

// newMethods builds the methods with these keys. A key that is to sign has to be
// readable now: mail that leaves unsigned isn't what the file asks for.
func newMethods(c *config.Config, rs rings, now time.Time) (keyring.Methods, error) {
	found := keyring.Methods{}
	for _, r := range rs {
		switch r.Method() {
		case policy.OpenPGP:
			var signer *openpgp.Signer
			if c.OpenPGP.Sign != "" {
				var err error
				if signer, err = openpgp.ReadSigner(c.OpenPGP.Sign); err != nil {
					return nil, fmt.Errorf("[openpgp] sign: %w", err)
				}
			}
			found[r.Method()] = keyring.NewOpenPGP(r, signer, c.Fallback.Subject)
		case policy.SMIME:
			var signer *smime.Signer
			if c.SMIME.Sign != "" {
				var err error
				if signer, err = smime.ReadSigner(c.SMIME.Sign, now); err != nil {
					return nil, fmt.Errorf("[smime] sign: %w", err)
				}
			}
			found[r.Method()] = keyring.NewSMIME(r, signer, c.Fallback.Subject)
		}
	}
	return found, nil
}

// forget drops what the rings have in memory.
func (rs rings) forget() {
	for _, r := range rs {
		r.Forget()
	}
}

// count adds what became of look-ups, and which keys changed.
func (rs rings) count(n *web.Counts) {
	for _, r := range rs {
		c := r.Counts()
		for state, times := range c.States() {
			n.Keys = append(n.Keys, web.KeyLookups{Method: string(r.Method()), State: state, Count: times})
		}
		n.Changes[string(store.KeyChanged)] += int64(c.Changed)
		n.Changes[string(store.KeyWithdrawn)] += int64(c.Withdrawn)
	}
}

// warn logs what is wrong with files of keys.
func (rs rings) warn(log *slog.Logger) {
	for _, r := range rs {
		for _, err := range r.Problems() {
			log.Warn("keys", "method", string(r.Method()), "err", err)
		}
	}
}
