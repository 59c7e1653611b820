#!/bin/sh
# Run by the packages at an upgrade from a version whose sockets were at ports
# 8891 and 8892, the defaults then. The MTA goes on asking where it was told to,
# so the daemon stays there:
#   - Where the MTA is bound to these ports and the configuration file names
#     none, they are written into it. tlsonly setup moves the binding once the
#     lines are taken out again.
#   - Where the file has them, the drop-ins stay that keep systemd's sockets
#     there: the packages write them before they put the new units in place, so
#     that the sockets stay open whenever systemd reads its units.
# What the file says otherwise stays as it is. Nothing is printed where nothing
# is done.
set -eu
file=${1:-/etc/tlsonly/tlsonly.toml}
root=${2:-}
[ -f "$file" ] || exit 0

# Only what setup has written counts, or what says the same by the names of our
# maps: others listen at 8891, too.
bound() {
	grep -qsE '^tlsonly_milter[ 	]*=.*inet:(127\.0\.0\.1|localhost):8891[^0-9]|socketmap:inet:(127\.0\.0\.1|localhost):8892:(sender|policy|forced)' \
		"$root"/etc/postfix*/main.cf "$root"/etc/postfix*/master.cf ||
		grep -qsE '^Xtlsonly,.*inet:8891@127\.0\.0\.1|^Ktls_rcpt.*inet:8892@127\.0\.0\.1' "$root"/etc/mail/sendmail.cf
}

# listen SECTION: the line of the file that says where it listens.
listen() {
	awk -v want="[$1]" '
		/^[ \t]*\[/ { line = $0; sub(/#.*/, "", line); gsub(/[ \t]/, "", line); inside = line == want }
		inside && /^[ \t]*listen[ \t]*=/ { print; exit }' "$file"
}

# name SECTION VALUE: the file, with a line that says so.
name() {
	awk -v want="[$1]" -v value="$2" '
		function say() {
			print "listen = \"" value "\"  # by the upgrade: where the MTA was bound to, the default before"
			done = 1
		}
		{ print; line = $0; sub(/#.*/, "", line); gsub(/[ \t]/, "", line) }
		line == want && !done { say() }
		END { if (!done) { print "\n" want; say() } }'
}

if bound; then
	new=$file.upgrade
	trap 'rm -f "$new" "$new.next"' EXIT
	cp -p "$file" "$new"
	cp -p "$file" "$new.next"
	for pair in milter=inet:127.0.0.1:8891 socketmap=inet:127.0.0.1:8892 http=127.0.0.1:8893; do
		[ -z "$(listen "${pair%%=*}")" ] || continue
		name "${pair%%=*}" "${pair#*=}" <"$new" >"$new.next"
		cat "$new.next" >"$new"
	done
	if ! cmp -s "$file" "$new"; then
		if tlsonly lint -c "$new" >/dev/null 2>&1 || ! tlsonly lint -c "$file" >/dev/null 2>&1; then
			mv "$new" "$file"
			echo "tlsonly: the default ports are 8689, 8690 and 8691 now; the MTA is bound to the former ones, so $file names these"
		else
			echo "tlsonly: the default ports are 8689, 8690 and 8691 now, and the MTA is bound to others: run tlsonly setup" >&2
		fi
	fi
fi

for pair in milter=8891 socketmap=8892; do
	dir=$root/etc/systemd/system/tlsonly-${pair%%=*}.socket.d
	if ! listen "${pair%%=*}" | grep -qE "\"inet:(127\.0\.0\.1|localhost):${pair#*=}\""; then
		rm -f "$dir/former-port.conf"
		rmdir "$dir" 2>/dev/null || :
	fi
done
