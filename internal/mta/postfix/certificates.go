package postfix

// certificates looks whether Postfix asks clients for certificates and can verify them, where rules want verified ones. One
// service that does suffices: others may be for people.
func (d *doctor) certificates() {
	asks, verifies := false, false
	for _, s := range d.Services {
		if s.Command != "smtpd" || s.Type != "inet" {
			continue
		}
		ask := d.option(s, "smtpd_tls_ask_ccert") == "yes" || d.option(s, "smtpd_tls_req_ccert") == "yes"
		authorities := d.option(s, "smtpd_tls_CAfile") != "" || d.option(s, "smtpd_tls_CApath") != "" ||
			d.option(s, "tls_append_default_CA") == "yes"
		asks = asks || ask
		verifies = verifies || ask && authorities
	}
	const effect = `: no certificate is ever verified, and mail that an [[inbound]] rule wants "verified" fails it`
	switch {
	case !asks:
		d.warn("clients-unasked", inMain("smtpd_tls_ask_ccert"), "postconf smtpd_tls_ask_ccert=yes smtpd_tls_CAfile=… with the authorities that you agreed on", "no client is asked for a certificate%s", effect)
	case !verifies:
		d.warn("clients-unverified", inMain("smtpd_tls_CAfile"), "postconf smtpd_tls_CAfile=… with the authorities that you agreed on", "clients are asked for certificates, but smtpd_tls_CAfile is empty%s", effect)
	default:
		d.ok("clients-verified", "", "clients are asked for certificates, and there are authorities to verify them")
	}
}
