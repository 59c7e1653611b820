package web

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// contentPolicy lets a browser show our pages and nothing else: no script, no frame, nothing from elsewhere.
const contentPolicy = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// guard lets in whoever may ask.
type guard struct {
	hash     []byte // nil: no password
	host     string // that may be named besides loopback ones
	now      func() time.Time
	cross    *http.CrossOriginProtection
	secret   [32]byte      // of good
	hashing  chan struct{} // passwords compared at the same time: that is meant to be slow
	mu       sync.Mutex
	good     [sha256.Size]byte // of the last good password
	failures map[netip.Prefix]bucket
}

// bucket is how many failures a client has left.
type bucket struct {
	left float64
	at   time.Time
}

// A client may fail some times at once, then every few seconds.
const (
	maxFailures  = 10
	failureEvery = 6 * time.Second
	maxBuckets   = 10_000
	maxHashing   = 2
)

func newGuard(hash, host string, now func() time.Time) (*guard, error) {
	g := &guard{
		host:     strings.ToLower(host),
		now:      now,
		cross:    http.NewCrossOriginProtection(),
		hashing:  make(chan struct{}, maxHashing),
		failures: map[netip.Prefix]bucket{},
	}
	rand.Read(g.secret[:])
	if hash != "" {
		if _, err := bcrypt.Cost([]byte(hash)); err != nil {
			return nil, fmt.Errorf("[http] password: %w", err)
		}
		g.hash = []byte(hash)
	}
	return g, nil
}

// wrap sets the headers that every answer has, and refuses who may not ask.
func (g *guard) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "same-origin") // with no-referrer, a form of ours would say "Origin: null"
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if g.hash == nil && !g.loopbackHost(r.Host) {
			failed(w, r, http.StatusMisdirectedRequest, "ask for this by a loopback address or localhost, or set a password in [http]")
			return
		}
		if g.hash != nil {
			switch ok, wait := g.authenticated(r); {
			case wait:
				h.Set("Retry-After", "60")
				failed(w, r, http.StatusTooManyRequests, "too many wrong passwords, try again later")
				return
			case !ok:
				h.Set("WWW-Authenticate", `Basic realm="tlsonly", charset="UTF-8"`) // RFC 7617, section 2.1
				failed(w, r, http.StatusUnauthorized, "a password is needed")
				return
			}
		}
		if err := g.cross.Check(r); err != nil {
			failed(w, r, http.StatusForbidden, "another site's page can't ask for this")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// loopbackHost reports whether a request names a host that only this one's own programs can have meant.
func (g *guard) loopbackHost(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.Trim(name, "[]"))
	if ip, err := netip.ParseAddr(name); err == nil {
		return ip.Unmap().IsLoopback()
	}
	return name != "" && (name == "localhost" || name == g.host)
}

// authenticated reports whether a request has the password; wait says that its client has guessed too often. The name is
// not looked at. Comparing takes long, on purpose, so a password that was good is remembered, as a keyed hash.
func (g *guard) authenticated(r *http.Request) (ok, wait bool) {
	_, password, given := r.BasicAuth()
	if !given {
		return false, false
	}
	mac := hmac.New(sha256.New, g.secret[:])
	mac.Write([]byte(password))
	sum := [sha256.Size]byte(mac.Sum(nil))
	client := clientOf(r)
	g.mu.Lock()
	known := hmac.Equal(sum[:], g.good[:])
	allowed := known || g.take(client)
	g.mu.Unlock()
	if known || !allowed {
		return known, !allowed
	}
	release, err := slot(r.Context(), g.hashing)
	if err != nil {
		return false, true
	}
	defer release()
	if bcrypt.CompareHashAndPassword(g.hash, []byte(password)) != nil {
		return false, false
	}
	g.mu.Lock()
	g.good = sum
	delete(g.failures, client)
	g.mu.Unlock()
	return true, false
}

// take takes one of a client's failures beforehand, so that tries at the same time count; g.mu is held.
func (g *guard) take(client netip.Prefix) bool {
	now := g.now()
	b, ok := g.failures[client]
	if !ok {
		b = bucket{maxFailures, now}
	}
	b.left = min(maxFailures, b.left+now.Sub(b.at).Seconds()/failureEvery.Seconds())
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	if len(g.failures) >= maxBuckets && !ok {
		g.forget(now)
	}
	g.failures[client] = b
	return true
}

// forget makes room: those that have all failures back, and then any.
func (g *guard) forget(now time.Time) {
	for client, b := range g.failures {
		if now.Sub(b.at) >= maxFailures*failureEvery {
			delete(g.failures, client)
		}
	}
	for client := range g.failures {
		if len(g.failures) < maxBuckets {
			return
		}
		delete(g.failures, client)
	}
}

// clientOf is the network of a client: what one party is sure to have many addresses of counts as one.
func clientOf(r *http.Request) netip.Prefix {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	ip := at.Addr().Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	p, _ := ip.Prefix(bits) // the address has that many bits
	return p
}

// keeper keeps a certificate, and reads it again when its files change: they are renewed every few weeks.
type keeper struct {
	cert, key string
	log       *slog.Logger
	now       func() time.Time

	mu      sync.Mutex
	loaded  *tls.Certificate
	of      time.Time // when the files were written
	checked time.Time
}

// certEvery is how often the files are looked at.
const certEvery = 10 * time.Second

func (k *keeper) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if k.loaded != nil && now.Sub(k.checked) < certEvery {
		return k.loaded, nil
	}
	k.checked = now
	written, err := k.written()
	if err == nil && (k.loaded == nil || !written.Equal(k.of)) {
		var fresh tls.Certificate
		if fresh, err = tls.LoadX509KeyPair(k.cert, k.key); err == nil {
			k.loaded, k.of = &fresh, written
		}
	}
	if err != nil && k.loaded != nil {
		k.log.LogAttrs(context.Background(), slog.LevelWarn, "certificate of the status page not read, the old one stays", slog.Any("err", err))
		return k.loaded, nil
	}
	return k.loaded, err
}

// written is when the newer of the two files was.
func (k *keeper) written() (time.Time, error) {
	var last time.Time
	for _, path := range []string{k.cert, k.key} {
		info, err := os.Stat(path)
		if err != nil {
			return last, err
		}
		if info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last, nil
}
