package sendmail

// No line of these may hold a word of m4's (it reads comments too) nor a back quote.
const configLines = `# What {verify} says of a session that is encrypted; {cipher_bits} may still be that of the session the mail came by.
C{TlsonlyEncrypted}OK TRUSTED FAIL NO NOT
C{TlsonlyOld}OLD
# Tags of messages that must not leave in the clear, whoever says what.
C{TlsonlyNever}encrypt name
# -f: the key as it is, for folding cuts it at 256 octets. -T: what marks a failure that may pass.
Ktls_rcpt socket -f -dSECONDS -T<TMPF> ENDPOINT
# What Sendmail writes itself has this sender until the host is told the null one. The map says whether it may leave in the
# process that wrote it, and fails for now where it may not.
C{TlsonlyReport}$n
Ktls_report socket -f -dSECONDS -T<TMPF> ENDPOINT
Ktls_read macro
`

// readRules note the queue id of a report whose recipients are read: that is
// done when it comes out of the queue, not when it is written.
const readRules = `R$*			$: $1 $| <$&f>
R$* $| <$={TlsonlyReport}>	$: $1 $(tls_read {TlsonlyRead} $@ $&i $)
R$* $| $*		$: $1
`

// readAtOnceRules do the same where rules of the site's own in ruleset 0 are
// done with a recipient before.
const readAtOnceRules = `R$*			$: $1 $| <$&f> <$&{addr_type}>
R$* $| <$={TlsonlyReport}> <e r>	$: $1 $(tls_read {TlsonlyRead} $@ $&i $)
R$* $| $*		$: $1
`

// writtenRules ask about a report that is not from the queue. The answer is no
// part of the address; a failure keeps Sendmail from trying.
const writtenRules = `R$*			$: $1 $| <$&f> <$&{TlsonlyRead}>
R$* $| <$={TlsonlyReport}> <$&i>	$: $1
R$* $| <$={TlsonlyReport}> <$*>	$: $1 $| $(tls_report a.report.waits.for.a.queue.run $: $)
R$* $| $*		$: $1
`

// serverRules do it for a new session; one without a next hop is LMTP here.
//
// They also look at a message of which a recipient was named to a host before:
// if that host has refused it, a refusal by tls_rcpt would be taken for the same
// and given back. So the session ends before, if its recipients are to wait.
// Which they are isn't known yet; another in their domain stands for them.
const serverRules = `R$*			$: <$&h> <$&f> <$&{TlsonlyRead}>
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
`

const rcptRules = `# Rules that break off (an address too long to rewrite, a map that is gone) are taken for consent. So the work is done
# in TlsonlyRcpt, and only its word PASS is consent.
R$*			$: $>TlsonlyRcpt <?> $1
RPASS			$@ OK $(tls_read {TlsonlyTried} $@ $&i $)
RNOTLS $*		$#error $@ 4.7.10 $: "451 4.7.10 TLS required: no TLS at " $&{server_name} ", verify=" $1
RNOTRIGHT		$#error $@ 4.7.10 $: "451 4.7.10 TLS required: " $&{server_name} " is not authenticated"
RDEFER			$#error $@ 4.7.10 $: "451 4.7.10 TLS required: no TLS at " $&{server_name}
RREJECT			$#error $@ 5.0.0 $: "550 5.7.10 TLS required: no TLS at " $&{server_name}
R$*			$#error $@ 4.7.5 $: "451 4.7.5 TLS required or not: tlsonly does not answer"
`

const answerRules = `STlsonlyRcpt
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
`
