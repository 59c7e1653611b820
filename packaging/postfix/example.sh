# What "tlsonly setup postfix" tells a Postfix that has nothing of its own in these places, with the defaults and one class of senders: for those who
# write main.cf and master.cf by other means. The program knows better what your Postfix has and needs: run it, and doctor.
postconf -c /etc/postfix -M -e \
    'tlsonly/unix=tlsonly unix - - y - - smtp -o smtp_dns_support_level=dnssec -o smtp_mx_address_limit=0 -o smtp_pix_workarounds=delay_dotcrlf -o smtp_tls_CAfile=/etc/ssl/certs/ca-certificates.crt -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=>=TLSv1.2 -o smtp_tls_policy_maps=socketmap:inet:127.0.0.1:8690:forced -o smtp_tls_security_level=encrypt -o syslog_name=postfix/tlsonly' \
    'tlsonly1/unix=tlsonly1 unix - - y - - smtp -o smtp_dns_support_level=dnssec -o smtp_mx_address_limit=0 -o smtp_pix_workarounds=delay_dotcrlf -o smtp_tls_CAfile=/etc/ssl/certs/ca-certificates.crt -o smtp_tls_loglevel=1 -o smtp_tls_mandatory_protocols=>=TLSv1.2 -o smtp_tls_policy_maps=socketmap:inet:127.0.0.1:8690:forced1 -o smtp_tls_security_level=encrypt -o syslog_name=postfix/tlsonly1'
postconf -c /etc/postfix -e \
    smtp_tls_CAfile=/etc/ssl/certs/ca-certificates.crt \
    smtp_dns_support_level=dnssec \
    'smtpd_milters={ inet:127.0.0.1:8689, command_timeout=30s, content_timeout=300s, default_action=tempfail, protocol=6 }' \
    'non_smtpd_milters={ inet:127.0.0.1:8689, command_timeout=30s, content_timeout=300s, default_action=tempfail, protocol=6 }' \
    sender_dependent_default_transport_maps=socketmap:inet:127.0.0.1:8690:sender1 \
    smtp_tls_policy_maps=socketmap:inet:127.0.0.1:8690:policy
postfix -c /etc/postfix reload
