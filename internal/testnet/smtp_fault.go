package testnet

import "time"

// Fault is one way in which a mail host deviates from a good one.
type Fault string

// The faults. Those that need time take it from SMTPConfig.Delay.
const (
	NoFault Fault = ""

	// At connect and in the banner.
	HangConnect     Fault = "hang-connect"     // accepts, says nothing
	ResetConnect    Fault = "reset-connect"    // a TCP reset instead of a banner
	ResetBanner     Fault = "reset-banner"     // a TCP reset within the banner
	Banner421       Fault = "banner-421"       // and closes
	Banner450       Fault = "banner-450"       // not a code for a banner, but seen
	Banner554       Fault = "banner-554"       // RFC 5321, section 3.1: no SMTP service here
	BannerMultiline Fault = "banner-multiline" // three lines, Delay before the last; who talks before it gets 554
	BannerSlow      Fault = "banner-slow"      // Delay before the banner; who talks before it gets 554
	BannerGarbage   Fault = "banner-garbage"   // another protocol
	BannerStars     Fault = "banner-stars"     // overwritten with asterisks by a firewall; EHLO is unknown, HELO works
	BannerMasked    Fault = "banner-masked"    // the same of a firewall that lets EHLO and STARTTLS through
	BannerLong      Fault = "banner-long"      // one line of 64 KiB
	BannerEndless   Fault = "banner-endless"   // 220- for ever

	// In the reply to EHLO.
	HangEHLO    Fault = "hang-ehlo"
	ResetEHLO   Fault = "reset-ehlo"
	EHLO421     Fault = "ehlo-421"
	EHLO451     Fault = "ehlo-451"
	EHLO502     Fault = "ehlo-502" // HELO works
	EHLOMangled Fault = "ehlo-mangled"
	EHLOLong    Fault = "ehlo-long"    // one line of 64 KiB
	EHLOEndless Fault = "ehlo-endless" // 250- for ever
	NoSTARTTLS  Fault = "no-starttls"

	// In the reply to STARTTLS and after it.
	STARTTLS421     Fault = "starttls-421"
	STARTTLS454     Fault = "starttls-454"
	STARTTLS502     Fault = "starttls-502"
	ResetSTARTTLS   Fault = "reset-starttls"
	HangSTARTTLS    Fault = "hang-starttls"
	EndlessSTARTTLS Fault = "endless-starttls"  // 220- for ever
	GarbageAfter    Fault = "garbage-after-220" // text where the handshake should be
	CloseAfter      Fault = "close-after-220"
	ResetAfter      Fault = "reset-after-220"
	InjectAfter     Fault = "inject-after-220" // more text in the same packet as the 220 (CVE-2011-0411), then a good handshake
	HangHandshake   Fault = "hang-handshake"
	HandshakeAlert  Fault = "handshake-alert" // a fatal alert instead of a ServerHello
	HelloRequests   Fault = "hello-requests"  // asks for a new handshake for ever (RFC 5246, section 7.4.1.1), instead of a ServerHello

	// Anywhere.
	Drip        Fault = "drip"      // replies before TLS come one octet at a time, Delay between them
	HangQuit    Fault = "hang-quit" // no reply to QUIT
	ResetQuit   Fault = "reset-quit"
	EndlessQuit Fault = "endless-quit" // 221- for ever
)

// Faults lists all faults but NoFault.
func Faults() []Fault {
	return []Fault{HangConnect, ResetConnect, ResetBanner, Banner421, Banner450, Banner554, BannerMultiline, BannerSlow,
		BannerGarbage, BannerStars, BannerLong, BannerEndless, HangEHLO, ResetEHLO, EHLO421, EHLO451, EHLO502, EHLOMangled,
		EHLOLong, EHLOEndless, NoSTARTTLS, STARTTLS421, STARTTLS454, STARTTLS502, ResetSTARTTLS, HangSTARTTLS, EndlessSTARTTLS, GarbageAfter, CloseAfter,
		ResetAfter, InjectAfter, HangHandshake, HandshakeAlert, HelloRequests, Drip, HangQuit, ResetQuit, EndlessQuit}
}

// defaultDelay is what BannerMultiline, BannerSlow and Drip wait when SMTPConfig.Delay is 0.
const defaultDelay = 5 * time.Millisecond
