package dns

import (
	"context"
	"encoding/base64"
	"encoding/hex"

	miekg "github.com/miekg/dns"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// OPENPGPKEY returns the OpenPGP certificates at name, in binary (RFC 7929). A
// failure is an *Error.
func (r *Resolver) OPENPGPKEY(ctx context.Context, name addr.Domain) (Answer[[]byte], error) {
	f, err := r.lookup(ctx, name, miekg.TypeOPENPGPKEY)
	if err != nil {
		return Answer[[]byte]{}, err
	}
	a := answer[[]byte](f)
	for _, rr := range f.records {
		key, err := base64.StdEncoding.DecodeString(rr.(*miekg.OPENPGPKEY).PublicKey)
		if err != nil {
			return Answer[[]byte]{}, &Error{Name: name.String(), Type: "OPENPGPKEY", Err: err}
		}
		a.Records = append(a.Records, key)
	}
	return a, nil
}

// SMIMEA returns the SMIMEA records at name, which are of the form of TLSA
// records (RFC 8162). A failure is an *Error.
func (r *Resolver) SMIMEA(ctx context.Context, name addr.Domain) (Answer[policy.TLSA], error) {
	f, err := r.lookup(ctx, name, miekg.TypeSMIMEA)
	if err != nil {
		return Answer[policy.TLSA]{}, err
	}
	a := answer[policy.TLSA](f)
	for _, rr := range f.records {
		rr := rr.(*miekg.SMIMEA)
		data, err := hex.DecodeString(rr.Certificate)
		if err != nil {
			return Answer[policy.TLSA]{}, &Error{Name: name.String(), Type: "SMIMEA", Err: err}
		}
		a.Records = append(a.Records, policy.TLSA{Usage: rr.Usage, Selector: rr.Selector, Matching: rr.MatchingType, Data: data})
	}
	return a, nil
}
