dnl tlsonly: begin, written by: tlsonly setup sendmail
dnl These lines belong at the end of sendmail.mc, after the last MAILER() and the other filters. F=T: without an answer
dnl mail waits.
INPUT_MAIL_FILTER(`tlsonly', `S=inet:8689@127.0.0.1, F=T, T=C:10s;S:10s;R:60s;E:300s')dnl
ifelse(index(defn(`confPRIVACY_FLAGS'), `nobodyreturn'), `-1',
`define(`confPRIVACY_FLAGS', ifdef(`confPRIVACY_FLAGS', `defn(`confPRIVACY_FLAGS')', `authwarnings')`,nobodyreturn')')dnl
dnl The daemon knows certificates by this fingerprint. And a recipient keeps the domain it was accepted for, whatever
dnl CNAME or longer name there is of it (a name without a dot still gets the own domain): who answers for DNS would choose
dnl who has to prove himself.
ifdef(`confCERT_FINGERPRINT_ALGORITHM', `', `define(`confCERT_FINGERPRINT_ALGORITHM', `sha256')')dnl
ifdef(`confDONT_EXPAND_CNAMES', `', `define(`confDONT_EXPAND_CNAMES', `True')')dnl
ifelse(index(defn(`confBIND_OPTS'), `-DNSRCH'), `-1',
`define(`confBIND_OPTS', ifdef(`confBIND_OPTS', `defn(`confBIND_OPTS') ')`-DNSRCH')')dnl
LOCAL_CONFIG
# What {verify} says of a session that is encrypted; {cipher_bits} may still be that of the session the mail came by.
C{TlsonlyEncrypted}OK TRUSTED FAIL NO NOT
C{TlsonlyOld}SSLv3 TLSv1 TLSv1.1
# Tags of messages that must not leave in the clear, whoever says what.
C{TlsonlyNever}encrypt name
# -f: the key as it is, for folding cuts it at 256 octets. -T: what marks a failure that may pass.
Ktls_rcpt socket -f -d35 -T<TMPF> inet:8690@127.0.0.1
# What Sendmail writes itself has this sender until the host is told the null one. The map says whether it may leave in the
# process that wrote it, and fails for now where it may not.
C{TlsonlyReport}$n
Ktls_report socket -f -d35 -T<TMPF> inet:8690@127.0.0.1
Ktls_read macro
LOCAL_RULE_0
R$*			$: $1 $| <$&f>
R$* $| <$={TlsonlyReport}>	$: $1 $(tls_read {TlsonlyRead} $@ $&i $)
R$* $| $*		$: $1
LOCAL_RULE_1
R$*			$: $1 $| <$&f> <$&{TlsonlyRead}>
R$* $| <$={TlsonlyReport}> <$&i>	$: $1
R$* $| <$={TlsonlyReport}> <$*>	$: $1 $| $(tls_report a.report.waits.for.a.queue.run $: $)
R$* $| $*		$: $1
LOCAL_RULE_3
R$*			$: $1 $| <$&f> <$&{addr_type}>
R$* $| <$={TlsonlyReport}> <e r>	$: $1 $(tls_read {TlsonlyRead} $@ $&i $)
R$* $| $*		$: $1
LOCAL_TLS_SERVER
R$*			$: <$&h> <$&f> <$&{TlsonlyRead}>
R<> <$*> <$*>		$@ OK
R<$+> <$={TlsonlyReport}> <$&i>	$@ OK
R<$+> <$={TlsonlyReport}> <$*>	$: REPORT $(tls_report a.report.waits.for.a.queue.run $: $)
RREPORT FREE		$@ OK
RREPORT $*		$#error $@ 4.7.10 $: "451 4.7.10 a report waits for a queue run"
# No report. A recipient was tried before.
R$*			$: <$&h> <$&{TlsonlyTried}> $&{dsn_envid}
R<$+ .> <$&i> TLSONLY . $*	$: BESIDE $>TlsonlyRcpt <?> postmaster @ $1
R<$+> <$&i> TLSONLY . $={TlsonlyNever} . $*	$: BESIDE <$&{verify}>
RBESIDE <$={TlsonlyEncrypted}>	$@ OK
RBESIDE PASS		$@ OK
RBESIDE $*		$#error $@ 4.7.10 $: "451 4.7.10 TLS required at " $&{server_name}
LOCAL_TLS_RCPT
# Rules that break off (an address too long to rewrite, a map that is gone) are taken for consent. So the work is done
# in TlsonlyRcpt, and only its word PASS is consent.
R$*			$: $>TlsonlyRcpt <?> $1
RPASS			$@ OK $(tls_read {TlsonlyTried} $@ $&i $)
RNOTLS $*		$#error $@ 4.7.10 $: "451 4.7.10 TLS required: no TLS at " $&{server_name} ", verify=" $1
RNOTRIGHT		$#error $@ 4.7.10 $: "451 4.7.10 TLS required: " $&{server_name} " is not authenticated"
RDEFER			$#error $@ 4.7.10 $: "451 4.7.10 TLS required: no TLS at " $&{server_name}
RREJECT			$#error $@ 5.0.0 $: "550 5.7.10 TLS required: no TLS at " $&{server_name}
R$*			$#error $@ 4.7.5 $: "451 4.7.5 TLS required or not: tlsonly does not answer"
LOCAL_RULESETS
STlsonlyRcpt
# What is delivered here by LMTP has no next hop, and no domain.
R<?> $*			$: <? $&h> $1
R<? $*> $* @ $*		$: <from> $&f $| $2 @ $3
R<?> $*			$@ PASS
R<? $*> $*		$: <from> $&f $| $2
# A report in the process that wrote it has the tag of what it is about, and later none.
R<from> $={TlsonlyReport} $| $*	$: <free> $&{verify} $| $&{tls_version} $| $| $2
R<from> $* $| $*		$: <free> $&{verify} $| $&{tls_version} $| $&{dsn_envid} $| $2
# A version too old is no TLS: it takes the place of the word for encrypted.
R<free> $={TlsonlyEncrypted} $| $={TlsonlyOld} $| $* $| $*	$: <free> $2 $| $3 $| $4
R<free> $* $| $* $| $* $| $*		$: <free> $1 $| $3 $| $4
# The tag. A level that is not known here asks for the most.
R<free> $* $| TLSONLY . ask . $* $| $*		$: <ask> $1 $| $3
R<free> $* $| TLSONLY . encrypt . $* $| $*	$: <encrypt> $1 $| $3
R<free> $* $| TLSONLY . $* $| $*		$: <name> $1 $| $3
R<free> $* $| $* $| $*			$: <free> $1 $| $3
R<$-> $={TlsonlyEncrypted} $| $*	$: <$1 TLS> $2 $| $3
R<$={TlsonlyNever}> $* $| $*		$@ NOTLS $2
R<$-> $* $| $*			$: <$1 CLEAR> $2 $| $3
# The question. What the host proves is the daemon's to judge, by the certificate it showed and the way that led to it.
R<$- $-> $* $| $*	$: <$1 $2> $(tls_rcpt v3<$3><$&{cert_fp}><$&{server_name}><$&h><$1><$&f><$&g><$&j><$&n><$4> $: NOTFOUND $)
R<$- $-> PASS		$@ PASS
R<$- CLEAR> DEFER	$@ DEFER
R<$- CLEAR> REJECT	$@ REJECT
R<$- TLS> DEFER		$@ NOTRIGHT
R<$- TLS> REJECT	$@ NOTRIGHT
# Nobody answers. To mail without a tag nothing was promised, so what has TLS does not stop with the daemon.
R<free TLS> $*		$@ PASS
R$*			$@ NOANSWER
dnl tlsonly: end
