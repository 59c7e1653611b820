dnl tlsonly: begin, written by: tlsonly setup sendmail
dnl These lines belong at the end of sendmail.mc, after the last MAILER() and the other filters. F=T: without an answer
dnl mail waits.
INPUT_MAIL_FILTER(`tlsonly', `S=inet:8891@127.0.0.1, F=T, T=C:10s;S:10s;R:60s;E:300s')dnl
ifelse(index(defn(`confPRIVACY_FLAGS'), `nobodyreturn'), `-1',
`define(`confPRIVACY_FLAGS', ifdef(`confPRIVACY_FLAGS', `defn(`confPRIVACY_FLAGS')', `authwarnings')`,nobodyreturn')')dnl
LOCAL_CONFIG
# What {verify} says of a session that is encrypted; {cipher_bits} may still be that of the session the mail came by.
C{TlsonlyEncrypted}OK TRUSTED FAIL NO NOT
C{TlsonlyVerified}OK TRUSTED
C{TlsonlyOld}SSLv3 TLSv1 TLSv1.1
# -f: the key as it is, for folding cuts it at 256 octets. -T: what marks a failure that may pass.
Ktls_rcpt socket -f -d35 -T<TMPF> inet:8892@127.0.0.1
LOCAL_TLS_RCPT
# Rules that break off (an address too long to rewrite, a map that is gone) are taken for consent. So the work is done
# in TlsonlyRcpt, and only its word PASS is consent.
R$*			$: $>TlsonlyRcpt <?> $1
RPASS			$@ OK
RNOTLS $*		$#error $@ 4.7.10 $: "451 4.7.10 TLS required: no TLS at " $&{server_name} ", verify=" $1
RNOTVERIFIED $*		$#error $@ 4.7.10 $: "451 4.7.10 TLS required: " $&{server_name} " is not authenticated, verify=" $1
RDEFER			$#error $@ 4.7.10 $: "451 4.7.10 TLS required: no TLS at " $&{server_name}
RREJECT			$#error $@ 5.0.0 $: "550 5.7.10 TLS required: no TLS at " $&{server_name}
R$*			$#error $@ 4.7.5 $: "451 4.7.5 TLS required or not: tlsonly does not answer"
LOCAL_RULESETS
STlsonlyRcpt
R<?> $*			$: $&{verify} $| $&{tls_version} $| $&{dsn_envid} $| $1
# A version too old is no TLS: it takes the place of the word for encrypted.
R$={TlsonlyEncrypted} $| $={TlsonlyOld} $| $* $| $*	$: $2 $| $3 $| $4
R$* $| $* $| $* $| $*	$: $1 $| $3 $| $4
# The tag. A level that is not known here asks for what can be seen of the most.
R$={TlsonlyEncrypted} $| TLSONLY . encrypt . $* $| $*	$@ PASS
R$={TlsonlyVerified} $| TLSONLY . $* $| $*	$@ PASS
R$* $| TLSONLY . encrypt . $* $| $*	$@ NOTLS $1
R$={TlsonlyEncrypted} $| TLSONLY . $* $| $*	$@ NOTVERIFIED $1
R$* $| TLSONLY . $* $| $*	$@ NOTLS $1
# No tag, but TLS.
R$={TlsonlyEncrypted} $| $* $| $*	$@ PASS
# The question. The message id has no place in it: it is the client's to choose.
R$* $| $* $| $*		$: $(tls_rcpt v1<$1><$&{server_name}><$&{server_addr}><$&i><><$&f><$3> $: NOTFOUND $)
RPASS			$@ PASS
RDEFER			$@ DEFER
RREJECT			$@ REJECT
R$*			$@ NOANSWER
dnl tlsonly: end
