#compdef tlsonly
# Made from the program's help by completions_test.go.
if (( CURRENT == 2 )); then
	local -a commands=(
		'serve:run the daemon\: the milter that Postfix or Sendmail asks'
		'check:probe destinations now\: mail hosts, STARTTLS, versions, the level reached'
		'explain:show the whole decision for a sender and a recipient, step by step, or what the MTA is told at delivery to a destination, and who decided it'
		'inbound:show what an \[\[inbound\]\] rule makes of mail that comes in so'
		'domains:show what is known of destinations, pin and unpin them'
		'observe:show what rules that only observe would have done, and whether they can be enforced'
		'classes:show what the numbers of Postfix'\''s transports stand for, and end what former rules still bind'
		'forwards:audit every forward on this host\: where it leaves to, the level there, the rule'\''s verdict'
		'setup:print, or write, the MTA'\''s settings that bind it'
		'doctor:verify that the running MTA is really bound'
		'report:read mail logs\: which protected messages left over which TLS, and which in the clear'
		'received:read a message'\''s Received\: headers\: which hops were encrypted'
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
		'--json[answer in JSON, an object a line and destination]' \
		'--min-bits[lowest strength of the cipher that counts, in BITS (default 128)]:bits:()' \
		'--min-version[lowest TLS VERSION that counts\: 1.0 to 1.3 (default 1.2)]:version:(1.0 1.1 1.2 1.3)' \
		'--tls[LEVEL that decides the exit status\: none, may, encrypt, secure or dane (default encrypt)]:level:(none may encrypt secure dane)' \
		'--watch[probe again and again, and show what is new, until interrupted]'
	;;
explain)
	_arguments \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--delivery[what the MTA is told at delivery to DESTINATION, a domain or \[host\]\:port]:destination:()' \
		'--from[envelope sender ADDRESS, "<>" for the empty one]:address:()' \
		'--json[answer in JSON]' \
		'--to[recipient ADDRESS]:address:()' \
		'--user[SASL LOGIN of the client]:login:()'
	;;
inbound)
	_arguments \
		'--bits[NUMBER of bits of its cipher (default 256)]:number:()' \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--cert[common NAME of that certificate]:name:()' \
		'--client[who connects, as the MTA logs it\: NAME\[ADDRESS\], the name "unknown" where it isn'\''t confirmed; or only the address; none\: handed in on this host]:name[address]:()' \
		'--from[envelope sender ADDRESS, "<>" for the empty one]:address:()' \
		'--json[answer in JSON]' \
		'--tls[TLS VERSION of the session\: 1.0 to 1.3; none\: in the clear]:version:(1.0 1.1 1.2 1.3)' \
		'--to[recipient ADDRESS]:address:()' \
		'--user[SASL LOGIN of the client]:login:()' \
		'--verify[what the MTA says of the client'\''s certificate\: WORD OK, FAIL or NO (default NO)]:word:()'
	;;
domains)
	_arguments \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--demand[unpin\: also drop what accepted mail has demanded of it]' \
		'--failing[list\: only those whose last look failed]' \
		'--json[answer in JSON; list\: an object a line]' \
		'--level[list\: only those that reach just this LEVEL\: none, may, encrypt, secure or dane]:level:(none may encrypt secure dane)' \
		'--limit[history\: the last N changes (default 50)]:n:()' \
		'--pinned[list\: only those that are pinned]' \
		'--why[unpin\: the REASON, kept in the history]:reason:()' \
		'*:argument:(list show history pin unpin)'
	;;
observe)
	_arguments \
		'--all[show all destinations, not only the first 20]' \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--json[answer in JSON]' \
		'--since[how far back\: a DURATION as 7d or 12h, or a date as 2026-11-23; a day counts whole (default 7d)]:duration:()'
	;;
classes)
	_arguments \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--config-directory[release\: the DIR of Postfix'\''s configuration; default\: that of MAIL_CONFIG, or the system'\''s]:dir:_files' \
		'--force[release\: also while mail waits, and where no Postfix says whether any does]' \
		'--json[list\: answer in JSON]' \
		'*:argument:(list release)'
	;;
forwards)
	_arguments \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--failing[tell only of forwards that break a rule]' \
		'--json[answer in JSON, an object a line and forward]' \
		'--own-rights[read what the calling user may read, not what the daemon may]' \
		'--sources[instead, tell which of their sources the daemon can read]' \
		'--test[instead, what would become of mail for OWNER=TARGET\: alice@here.example=bob@there.example; may be repeated]:owner=target:()'
	;;
setup)
	_arguments \
		'--apply[write the settings, with a backup beside each file; Postfix is reloaded, or restarted, and seen to answer]' \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--config-directory[postfix\: its configuration DIR; default\: that of MAIL_CONFIG, or the system'\''s]:dir:_files' \
		'--hide-header[postfix\: take the header TLS-Only off protected mail when it leaves]' \
		'--keep[postfix\: stay, and write the settings again whenever main.cf or master.cf has lost some]' \
		'--no-reload[postfix\: leave the running Postfix as it is, and say what it takes]' \
		'--undo[take back what setup has written; with --apply, else only shown]' \
		'*:argument:(postfix sendmail)'
	;;
doctor)
	_arguments \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--config-directory[postfix\: its configuration DIR; default\: that of MAIL_CONFIG, or the system'\''s]:dir:_files' \
		'--json[answer in JSON]' \
		'--nagios[answer as a monitoring plugin\: one line, and status 0 ok, 1 warning, 2 critical, 3 unknown]' \
		'--probe[postfix\: also send one real message to a host of its own on loopback that takes TLS away, and see that it stays]' \
		'*:argument:(postfix sendmail)'
	;;
report)
	_arguments \
		'-c[configuration FILE (default /etc/tlsonly/tlsonly.toml)]:file:_files' \
		'--csv[answer in CSV\: a line a delivery, no summary]' \
		'--html[write a page that can be printed and kept to FILE, - for standard output alone]:file:_files' \
		'--journal[read the systemd journal]' \
		'--json[answer in JSON\: one object, the summary with the violations]' \
		'--since[only deliveries from this DATE on\: 2026-11-23, or with a time, 2026-11-23T17\:00]:date:()' \
		'--summary[no line a delivery, only the summary]' \
		'--tls-logged[TLS was logged all the time\: a delivery without such a line was in the clear]' \
		'--until[only deliveries before the end of this DATE, or before this time]:date:()' \
		'--year[the YEAR of each log'\''s first line, where lines have none; default\: as the files'\'' times tell]:year:()' \
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
