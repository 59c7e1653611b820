# Made from the program's help by completions_test.go.
_tlsonly() {
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}
	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		COMPREPLY=($(compgen -W 'serve check explain inbound domains observe keys classes forwards setup doctor report received lint version' -- "$word"))
		return
	fi
	case $command:$before in
	serve:-c) COMPREPLY=($(compgen -f -- "$word")); return ;;
	check:-c) COMPREPLY=($(compgen -f -- "$word")); return ;;
	check:--every) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	check:--min-bits) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	check:--min-version) COMPREPLY=($(compgen -W '1.0 1.1 1.2 1.3' -- "$word")); return ;;
	check:--tls) COMPREPLY=($(compgen -W 'none may encrypt secure dane' -- "$word")); return ;;
	explain:-c) COMPREPLY=($(compgen -f -- "$word")); return ;;
	explain:--delivery) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	explain:--from) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	explain:--to) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	explain:--user) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	inbound:--bits) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	inbound:-c) COMPREPLY=($(compgen -f -- "$word")); return ;;
	inbound:--cert) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	inbound:--client) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	inbound:--from) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	inbound:--tls) COMPREPLY=($(compgen -W '1.0 1.1 1.2 1.3' -- "$word")); return ;;
	inbound:--to) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	inbound:--user) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	inbound:--verify) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	domains:-c) COMPREPLY=($(compgen -f -- "$word")); return ;;
	domains:--level) COMPREPLY=($(compgen -W 'none may encrypt secure dane' -- "$word")); return ;;
	domains:--limit) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	domains:--why) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	observe:-c) COMPREPLY=($(compgen -f -- "$word")); return ;;
	observe:--since) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	keys:-c) COMPREPLY=($(compgen -f -- "$word")); return ;;
	keys:--fingerprint) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	keys:--method) COMPREPLY=($(compgen -W 'openpgp smime' -- "$word")); return ;;
	classes:-c) COMPREPLY=($(compgen -f -- "$word")); return ;;
	classes:--config-directory) COMPREPLY=($(compgen -f -- "$word")); return ;;
	forwards:-c) COMPREPLY=($(compgen -f -- "$word")); return ;;
	forwards:--test) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	setup:-c) COMPREPLY=($(compgen -f -- "$word")); return ;;
	setup:--config-directory) COMPREPLY=($(compgen -f -- "$word")); return ;;
	doctor:-c) COMPREPLY=($(compgen -f -- "$word")); return ;;
	doctor:--config-directory) COMPREPLY=($(compgen -f -- "$word")); return ;;
	report:-c) COMPREPLY=($(compgen -f -- "$word")); return ;;
	report:--html) COMPREPLY=($(compgen -f -- "$word")); return ;;
	report:--since) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	report:--until) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	report:--year) COMPREPLY=($(compgen -W '' -- "$word")); return ;;
	lint:-c) COMPREPLY=($(compgen -f -- "$word")); return ;;
	esac
	case $command in
	serve) COMPREPLY=($(compgen -W '-c' -- "$word")) ;;
	check) COMPREPLY=($(compgen -W '-c --every --json --min-bits --min-version --tls --watch' -- "$word")) ;;
	explain) COMPREPLY=($(compgen -W '-c --delivery --from --json --to --user' -- "$word")) ;;
	inbound) COMPREPLY=($(compgen -W '--bits -c --cert --client --from --json --tls --to --user --verify' -- "$word")) ;;
	domains) COMPREPLY=($(compgen -W 'list show history pin unpin -c --demand --failing --json --level --limit --pinned --why' -- "$word")) ;;
	observe) COMPREPLY=($(compgen -W '--all -c --json --since' -- "$word")) ;;
	keys) COMPREPLY=($(compgen -W 'list show add fetch trust forget -c --fingerprint --json --method --waiting' -- "$word")) ;;
	classes) COMPREPLY=($(compgen -W 'list release -c --config-directory --force --json' -- "$word")) ;;
	forwards) COMPREPLY=($(compgen -W '-c --failing --json --own-rights --sources --test' -- "$word")) ;;
	setup) COMPREPLY=($(compgen -W 'postfix sendmail --apply -c --config-directory --hide-header --keep --no-reload --undo' -- "$word")) ;;
	doctor) COMPREPLY=($(compgen -W 'postfix sendmail -c --config-directory --json --nagios --probe' -- "$word")) ;;
	report) COMPREPLY=($(compgen -W '-c --csv --html --journal --json --since --summary --tls-logged --until --year' -- "$word")) ;;
	received) COMPREPLY=($(compgen -W '--json' -- "$word")) ;;
	lint) COMPREPLY=($(compgen -W '-c --json' -- "$word")) ;;
	version) COMPREPLY=($(compgen -W '--json' -- "$word")) ;;
	esac
}
complete -o default -F _tlsonly tlsonly
