#compdef tlsonly
# Made from the program's help by completions_test.go.
if (( CURRENT == 2 )); then
	local -a commands=(
		'serve:run the daemon'
		'check:probe destinations now, and show the level each reaches; of an address also what can encrypt to it'
		'explain:show a decision step by step, or how the MTA is answered at delivery'
		'inbound:show what an \[\[inbound\]\] rule decides about incoming mail'
		'domains:show what is known of destinations; pin and unpin them'
		'observe:show what rules in observe mode would have done'
		'keys:show, add, look for, trust and forget keys and certificates of recipients'
		'classes:show which rules bind which transport, and release former rules'
		'forwards:audit all forwards on this host'
		'setup:print or write the settings that bind the MTA'
		'doctor:check that the running MTA is bound'
		'report:show from mail logs which messages left over TLS'
		'received:show which hops of a message were encrypted'
		'lint:check the configuration file'
		'version:print the version'
	)
	_describe command commands
	return
fi
local command=$words[2]
shift words
(( CURRENT-- ))
case $command in
serve)
	_arguments \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files'
	;;
check)
	_arguments \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--every[time between two rounds of --watch (default 30s)]:duration:()' \
		'--json[answer in JSON, one object a line for each destination]' \
		'--min-bits[weakest cipher that counts, in BITS (default 128)]:bits:()' \
		'--min-version[lowest TLS VERSION that counts\: 1.0 to 1.3 (default 1.2)]:version:(1.0 1.1 1.2 1.3)' \
		'--tls[LEVEL that the exit status is about\: none, may, encrypt, secure or dane (default encrypt)]:level:(none may encrypt secure dane)' \
		'--watch[probe again until interrupted, and show what is new]'
	;;
explain)
	_arguments \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--delivery[show how the MTA is answered at delivery to DESTINATION\: a domain or \[host\]\:port]:destination:()' \
		'--from[envelope sender ADDRESS, "<>" for the null sender]:address:()' \
		'--json[answer in JSON]' \
		'--to[recipient ADDRESS]:address:()' \
		'--user[SASL LOGIN of the client]:login:()'
	;;
inbound)
	_arguments \
		'--bits[NUMBER of bits of the cipher (default 256)]:number:()' \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--cert[common NAME of the client'\''s certificate]:name:()' \
		'--client[the client as the MTA logs it, NAME\[ADDRESS\] or an address; without it\: this host]:name[address]:()' \
		'--from[envelope sender ADDRESS, "<>" for the null sender]:address:()' \
		'--json[answer in JSON]' \
		'--tls[TLS VERSION of the session, 1.0 to 1.3; without it\: in the clear]:version:(1.0 1.1 1.2 1.3)' \
		'--to[recipient ADDRESS]:address:()' \
		'--user[SASL LOGIN of the client]:login:()' \
		'--verify[what the MTA found about the client'\''s certificate\: WORD OK, FAIL or NO (default NO)]:word:()'
	;;
domains)
	_arguments \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--demand[unpin\: also drop the demand of accepted mail]' \
		'--failing[list\: only destinations whose last assessment failed]' \
		'--json[answer in JSON; list, history\: one object a line]' \
		'--level[list\: only destinations that reach exactly this LEVEL]:level:(none may encrypt secure dane)' \
		'--limit[history\: the last N changes (default 50)]:n:()' \
		'--pinned[list\: only pinned destinations]' \
		'--why[unpin\: the REASON, which is kept in the history]:reason:()' \
		'*:argument:(list show history pin unpin)'
	;;
observe)
	_arguments \
		'--all[show all destinations, not only the first 20]' \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--json[answer in JSON]' \
		'--since[how far back\: a DURATION (7d, 12h) or a date (2026-11-23) (default 7d)]:duration:()'
	;;
keys)
	_arguments \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--fingerprint[trust, forget\: only the key with this FINGERPRINT]:fingerprint:()' \
		'--json[answer in JSON, an object a line and key]' \
		'--method[only keys for METHOD\: openpgp or smime]:method:(openpgp smime)' \
		'--waiting[list\: only those that wait until they are trusted]' \
		'*:argument:(list show add fetch trust forget)'
	;;
classes)
	_arguments \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--config-directory[release\: DIR with Postfix'\''s configuration; default\: $MAIL_CONFIG or the system'\''s]:dir:_files' \
		'--force[release\: even if mail waits, or no Postfix is here to say whether it does]' \
		'--json[list\: answer in JSON]' \
		'*:argument:(list release)'
	;;
forwards)
	_arguments \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--failing[show only forwards that break a rule]' \
		'--json[answer in JSON, one object a line for each forward]' \
		'--own-rights[read with the rights of the calling user, not the daemon'\''s]' \
		'--sources[show which sources of forwards the daemon can read, instead]' \
		'--test[show what would happen if OWNER forwarded to TARGET, OWNER=TARGET, instead; repeatable]:owner=target:()'
	;;
setup)
	_arguments \
		'--apply[write the settings, with backups, and reload or restart Postfix]' \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--config-directory[postfix\: configuration DIR; default\: $MAIL_CONFIG or the system'\''s]:dir:_files' \
		'--hide-header[postfix\: remove the header TLS-Only from protected mail when it leaves]' \
		'--keep[postfix\: keep running, and write settings again when main.cf or master.cf lose them]' \
		'--no-reload[postfix\: do not reload or restart it, but say what it needs]' \
		'--undo[take back what setup has written (with --apply; without it, show what would be done)]' \
		'*:argument:(postfix sendmail)'
	;;
doctor)
	_arguments \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--config-directory[postfix\: configuration DIR; default\: $MAIL_CONFIG or the system'\''s]:dir:_files' \
		'--json[answer in JSON]' \
		'--nagios[answer as a monitoring plugin\: one line, status 0 ok, 1 warning, 2 critical, 3 unknown]' \
		'--probe[postfix\: also send a real message to a host without TLS on loopback; it must stay]' \
		'*:argument:(postfix sendmail)'
	;;
report)
	_arguments \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--csv[answer in CSV\: one line for each delivery, no summary]' \
		'--html[write a page that you can print to FILE; - is standard output]:file:_files' \
		'--journal[read the systemd journal]' \
		'--json[answer in JSON\: one object with the summary and the violations]' \
		'--since[only deliveries from this DATE on\: 2026-11-23 or 2026-11-23T17\:00]:date:()' \
		'--summary[show only the summary, not each delivery]' \
		'--tls-logged[the MTA logged TLS all the time\: a delivery without a TLS line was in the clear]' \
		'--until[only deliveries up to the end of this DATE, or before this time]:date:()' \
		'--year[YEAR of each log'\''s first line, if lines have none; default\: from the file'\''s time]:year:()' \
		'*:file:_files'
	;;
received)
	_arguments \
		'--json[answer in JSON]' \
		'*:file:_files'
	;;
lint)
	_arguments \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--json[answer in JSON\: {file, faults, warnings}]'
	;;
version)
	_arguments \
		'--json[answer in JSON]'
	;;
esac
