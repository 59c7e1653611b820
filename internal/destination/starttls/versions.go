package starttls

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"

	"tlsonly/internal/policy"
	"tlsonly/internal/profile"
)

// Versions is what became of asking a host for each TLS version. A version in neither list was refused: the host got a
// hello that offered it and nothing else, and didn't agree.
type Versions struct {
	Accepted []policy.Version // lowest first
	Unknown  []policy.Version // lowest first; could not be found out
	Detail   string           // why there are unknown ones, in words
}

// versions lists what is asked for, highest first: what matters most is known first when time is short.
func versions() []policy.Version {
	return []policy.Version{policy.TLS13, policy.TLS12, policy.TLS11, policy.TLS10}
}

// Versions asks t for each TLS version, from 1.3 down to 1.0, on connections of their own, one after the other. The timeout
// is for one version; ctx bounds all. A host that doesn't get as far as a handshake, or is silent in it, says nothing of
// versions: it is left alone then, and that version and the rest are unknown.
func (p *Prober) Versions(ctx context.Context, t Target) Versions {
	var all Versions
	for i, v := range versions() {
		accepted, f := p.accepts(ctx, t, v)
		if f != nil {
			all.Unknown, all.Detail = versions()[i:], printable(f.err.Error())
			break
		}
		if accepted {
			all.Accepted = append(all.Accepted, v)
		}
	}
	slices.Sort(all.Accepted)
	slices.Sort(all.Unknown)
	return all
}

// accepts reports whether t accepts one version, or why that isn't known.
func (p *Prober) accepts(ctx context.Context, t Target, v policy.Version) (bool, *failure) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout())
	defer cancel()
	refused, f := p.offer(ctx, t, v)
	if f == nil || refused {
		return !refused, nil
	}
	if f.stage != policy.StageHandshake || isTimeout(f.err) {
		return false, f
	}
	// The same doubt as after a first look: it may be our TLS stack that won't. And a connection that ends in the handshake
	// may be a refusal or a host going down; one that is there again, and ends it again, has refused.
	h, f := p.second(ctx, t, offerOf(t.Name, profile.TLS{}, v))
	switch {
	case f == nil:
		return h.version == v, nil
	case f.stage != policy.StageHandshake || isTimeout(f.err):
		return false, f
	}
	return false, nil
}

// offer takes one dialogue through to QUIT, offering one version; refused reports that the host said it doesn't speak it.
func (p *Prober) offer(ctx context.Context, t Target, v policy.Version) (refused bool, f *failure) {
	c, f := p.dial(ctx, t, p.mta())
	if f != nil {
		return false, f
	}
	defer c.close()
	var o policy.Observation
	implicit := p.implicit(c, t)
	if f = c.untilTLS(implicit, p.helo(), &o); f != nil {
		return false, f
	}
	config := clientConfig(t.Name, profile.TLS{})
	config.MinVersion, config.MaxVersion = uint16(v), uint16(v)
	if _, f = c.handshake(ctx, config); f != nil {
		return saysVersion(f.err), f
	}
	// The version was accepted, whatever is said over it.
	if !implicit || c.welcome(&o) == nil {
		c.quit()
	}
	return false, nil
}

// saysVersion reports whether err is the host's alert protocol_version (RFC 8446, section 6.2), which leaves no doubt.
// crypto/tls gives the alerts of other than QUIC connections no type, only their words.
func saysVersion(err error) bool {
	const protocolVersion = tls.AlertError(70)
	var remote *net.OpError
	return errors.As(err, &remote) && remote.Op == "remote error" && remote.Err.Error() == protocolVersion.Error()
}
