package mta

import (
	"maps"
	"slices"
)

// checks says of each code what was looked at. A code is never given to another
// finding: sites name them in [doctor] accept.
var checks = map[string]string{
	"postfix-running": "running", "postfix-down": "running", "postfix-silent": "running", "not-reloaded": "running", "not-looked-at": "running",
	"log-blocks":      "running",
	"version-too-old": "version", "version-reports": "version",

	"daemon-answers": "daemon", "daemon-down": "daemon", "daemon-stranger": "daemon", "daemon-other": "daemon",
	"daemon-two": "daemon", "socket-access": "daemon", "socket-chroot": "daemon",
	"socketmap-off": "daemon",

	"milter-asked": "milter", "milter-missing": "milter", "milter-overridden": "milter", "milter-reinjected": "milter",
	"milter-default-action": "milter", "milter-timeout": "milter", "milter-not-first": "milter", "milter-other": "milter",
	"milter-maps": "milter", "milter-proxy-filter": "milter", "milter-bounces": "milter",

	"transport-bound": "transport", "transport-missing": "transport", "transport-unknown": "transport",
	"transport-program": "transport", "transport-level": "transport", "transport-policies": "transport",
	"transport-protocols": "transport", "transport-fallback": "transport", "transport-tls-required": "transport",
	"transport-on-lost": "transport", "transport-differs": "transport", "transport-deferred": "transport", "transport-dane": "transport",
	"transport-floor": "transport",

	"gateway-bound": "gateway", "gateway-open": "gateway", "gateway-missing": "gateway", "gateway-differs": "gateway",

	"verify-dns-off": "verify", "verify-dnssec": "verify", "verify-ca-other": "verify", "verify-ca-unreadable": "verify",
	"verify-ca-missing": "verify", "verify-ca-chroot": "verify",

	"sender-map-asked": "sender-map", "sender-map-missing": "sender-map", "sender-map-number": "sender-map",
	"sender-map-order": "sender-map", "sender-map-failing": "sender-map", "sender-map-unprotected": "sender-map",
	"sender-map-overruled": "sender-map", "sender-map-transport": "sender-map", "sender-table-stale": "sender-map",
	"sender-table-former": "sender-map", "bounces-unbound": "sender-map", "probes-bound": "sender-map",

	"twin-asked": "twin", "twin-missing": "twin", "twin-unasked": "twin", "twin-unread": "twin", "twin-form": "twin",
	"twin-unheld": "twin", "twin-program": "twin",

	"forced-answers": "policy", "policy-asked": "policy", "policy-missing": "policy", "policy-tls-required": "policy",
	"policy-failing": "policy", "policy-weak": "policy", "policy-unknown": "policy", "policy-exception": "policy",
	"policy-site": "policy", "policy-site-asked": "policy", "policy-first": "policy",

	"route-bound": "route", "route-explicit": "route", "route-home": "route", "route-home-held": "route",
	"route-asked": "route", "route-local": "route",
	"route-relay": "route", "content-filter": "route", "content-filter-bound": "route",

	"filter-none": "filter", "filter-access": "filter", "filter-header": "filter", "filter-asked": "filter",

	"relay-fallback": "relay", "relay-excepted": "relay", "relay-domain": "relay",
	"relay-unnamed": "relay", "relay-asked": "relay", "relay-form": "relay",

	"sender-kept": "sender", "sender-rewritten": "sender", "sender-asked": "sender", "sender-delimiter": "sender", "sender-srs": "sender",
	"rules-observe": "rules",

	"local-unnamed": "local", "client-level": "client", "client-policies": "client",
	"aliases-owner": "aliases", "aliases-asked": "aliases", "aliases-bound": "aliases",
	"logins-own": "logins", "logins-any": "logins", "logins-copies": "logins",
	"copies-bound": "copies", "queue-lifetime": "queue",
	"clients-verified": "inbound", "clients-unasked": "inbound", "clients-unverified": "inbound",

	"milter-silent": "asked", "maps-silent": "asked", "nobody-asks": "asked",

	"probe-held": "probe", "probe-clear": "probe", "probe-gone": "probe", "probe-waits": "probe", "probe-refused": "probe",
	"probe-left": "probe",

	"resolver-validates": "resolver", "resolver-off": "resolver", "resolver-failing": "resolver", "resolver-remote": "resolver",
	"resolver-postfix": "resolver", "resolver-unsigned": "resolver", "resolver-forged": "resolver", "resolver-unproved": "resolver",
	"tls-offers": "tls", "tls-assumed": "tls", "sendmail-tls-features": "tls",
	"forwards-read": "forwards", "forwards-unread": "forwards", "forwards-broken": "forwards", "forwards-unlisted": "forwards",
	"forwards-unreadable": "forwards", "homes-closed": "forwards", "homes-held": "forwards", "accept-unused": "accept",

	"sendmail-filter": "filter", "sendmail-filter-missing": "filter",
	"sendmail-filter-unasked": "filter", "sendmail-filter-bounces": "filter",
	"sendmail-filter-open": "filter", "sendmail-filter-elsewhere": "filter",
	"sendmail-filter-impatient": "filter", "sendmail-daemon-unfiltered": "filter",
	"sendmail-submit": "filter", "sendmail-submit-elsewhere": "filter", "sendmail-submit-unknown": "filter",
	"sendmail-rcpt-map": "map", "sendmail-rcpt-map-missing": "map",
	"sendmail-rcpt-map-elsewhere": "map", "sendmail-rcpt-map-changed": "map",
	"sendmail-report-map-missing": "map", "sendmail-report-map-elsewhere": "map",
	"sendmail-report-map-changed": "map",
	"sendmail-rules":              "ruleset", "sendmail-rules-missing": "ruleset",
	"sendmail-rules-uncalled": "ruleset", "sendmail-rules-old": "ruleset",
	"sendmail-rules-changed": "ruleset", "sendmail-sender-rules": "ruleset",
	"sendmail-fingerprint": "certificates", "sendmail-fingerprint-unset": "certificates",
	"sendmail-fingerprint-other": "certificates",
	"sendmail-cnames":            "domains", "sendmail-cnames-unset": "domains",
	"sendmail-cnames-followed": "domains", "sendmail-domains": "domains",
	"sendmail-domains-searched": "domains",
	"sendmail-bounces":          "bounces", "sendmail-bounces-text": "bounces",
	"sendmail-bounces-free": "bounces", "sendmail-postmaster-copy": "bounces",
	"sendmail-down": "running", "sendmail-not-restarted": "running", "sendmail-running": "running",
	"sendmail-queue-runs": "running",
	"sendmail-senders":    "senders", "sendmail-masquerade": "senders", "sendmail-generics": "senders",
	"sendmail-generics-unread": "senders",
	"sendmail-proof-clear":     "proof", "sendmail-proof-starttls-fails": "proof",
	"sendmail-proof-clear-down": "proof", "sendmail-proof-unseen-down": "proof",
	"sendmail-proof-tls-down": "proof", "sendmail-proof-some-down": "proof",
	"sendmail-proof-name": "proof", "sendmail-proof-others-down": "proof",
	"sendmail-proof-tls": "proof", "sendmail-proof-others": "proof",
	"sendmail-proof-answers": "proof", "sendmail-proof-old-tls": "proof",
	"sendmail-proof-report-fresh": "proof", "sendmail-proof-report-fresh-down": "proof",
	"sendmail-proof-report-read": "proof", "sendmail-proof-held": "proof",
}

// Codes returns the codes of all findings, sorted.
func Codes() []string { return slices.Sorted(maps.Keys(checks)) }

// CheckOf says what a finding with this code is about; false for a code that no
// finding has.
func CheckOf(code string) (string, bool) {
	check, ok := checks[code]
	return check, ok
}
