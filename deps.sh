#!/bin/sh
# Gets what the Makefile's targets need. On Debian and its relatives it installs
# packages with apt-get, elsewhere it says what is missing.
#
#   deps.sh NEED...     go cc mta pcre debootstrap lists postgres package crypto
#                       python unbound bench gpg chromium: get what is missing of these
#   deps.sh go-command  print the go command to use: $GO, or the first new enough
#
# Nothing is installed before it is clear that all of it can be: each package
# has a candidate, apt-get would remove and upgrade nothing, and Go has fetched
# the toolchain that go.mod names. An upgrade would restart a site's own Postfix.
set -eu
cd "$(dirname "$0")"
LC_ALL=C; export LC_ALL
# Go wants a home for its caches; root's may be missing where no one logged in.
: "${HOME:=$(getent passwd "$(id -u)" | cut -d: -f6)}"; export HOME

cache=${XDG_CACHE_HOME:-$HOME/.cache}/tlsonly-test
sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
options='-qq -o Dpkg::Use-Pty=0 --no-install-recommends --no-remove --no-upgrade'

stop() { echo "$*" >&2; exit 1; }
apt() { $sudo env DEBIAN_FRONTEND=noninteractive apt-get "$@"; }
has_apt() { [ -d /etc/apt ]; }
has() { command -v "$1" >/dev/null; }
library() { /sbin/ldconfig -p | grep -q "$1"; }
# The tests keep what they unpack in the cache of whoever runs them.
kept() { $sudo sh -c 'ls -d "${XDG_CACHE_HOME:-$HOME/.cache}"/tlsonly-test/'"$1-*" >/dev/null 2>&1; }

updated=
update() {
	[ -z "$updated" ] || return 0
	apt update -qq
	updated=yes
}

# The minor version of a go command, nothing where it isn't one.
minor() { GOTOOLCHAIN=local "$1" version 2>/dev/null | sed -n 's/^go version go1\.\([0-9]*\).*/\1/p'; }

# From 1.21 on the go command fetches the toolchain that go.mod names.
fetches() { m=$(minor "$1"); [ -n "$m" ] && [ "$m" -ge 21 ]; }

# Go commands, the likeliest first.
gos() { command -v go || :; ls -d /usr/local/go/bin/go /usr/lib/go-1.*/bin/go "$cache"/go/usr/lib/go-1.*/bin/go 2>/dev/null || :; }

toolchain() { sed -n 's/^toolchain //p' go.mod; }

# The toolchain of go.mod as the module that newer go commands fetch.
fetched() { echo "${GOMODCACHE:-${GOPATH:-$HOME/go}/pkg/mod}/golang.org/toolchain@v0.0.1-$(toolchain)".*/bin/go; }

go_command() {
	if [ -n "${GO:-}" ]; then echo "$GO"; return; fi
	for go in $(gos) $(fetched); do
		if [ -x "$go" ] && fetches "$go"; then echo "$go"; return; fi
	done
	echo go
}

# unpack_go puts the distribution's Go into the cache. It isn't installed: it
# only starts, and the machine's packages stay as they are.
unpack_go() {
	has_apt || stop "Go 1.21 or later is needed: install it, from go.dev/dl for example."
	update
	package=$(apt-cache depends golang-go | sed -n 's/^ *Depends: \(golang-1\.[0-9]*-go\)$/\1/p')
	[ -n "$package" ] || stop "Go 1.21 or later is needed, and this system has no package golang-go: install it, from go.dev/dl for example."
	echo "Go: unpacking $package into $cache/go"
	mkdir -p "$cache"
	work=$(mktemp -d "$cache/go-XXXXXX")
	trap 'rm -rf "$work"' EXIT
	(cd "$work" && apt-get download -qq -o APT::Sandbox::User="$(id -un)" "$package" "${package%-go}-src" &&
		for deb in *.deb; do dpkg -x "$deb" root; done)
	rm -rf "$cache/go"
	mv "$work/root" "$cache/go"
	rm -rf "$work"
	trap - EXIT
}

# fetch_toolchain does for a go command before 1.21 what later ones do alone: it
# fetches the module of the toolchain, whose sum is verified, and adds what a
# module can't have: permission to execute, and a go.mod in a directory.
fetch_toolchain() {
	module=golang.org/toolchain@v0.0.1-$(toolchain).$("$1" env GOOS)-$("$1" env GOARCH)
	echo "Go: fetching $(toolchain), for $("$1" version) can't"
	said=$(cd / && GO111MODULE=on GOFLAGS='' "$1" mod download -json "$module") || :
	dir=$(echo "$said" | sed -n 's/^.*"Dir": "\(.*\)".*/\1/p')
	[ -n "$dir" ] || stop "$said
Go: this can't be fetched: install Go 1.21 or later, from go.dev/dl for example."
	chmod u+w "$dir/src"
	cp "$dir/src/_go.mod" "$dir/src/go.mod"
	chmod u-w "$dir/src"
	find "$dir/bin" "$dir/pkg/tool" -type f -exec chmod a+x {} +
}

get_go() {
	go=$(go_command)
	if ! fetches "$go"; then
		[ -z "${GO:-}" ] || has "$GO" || stop "$GO isn't there."
		start=$(gos | head -n 1)
		[ -n "$start" ] || { unpack_go; start=$(gos | head -n 1); }
		fetches "$start" || fetch_toolchain "$start"
		go=$(go_command)
	fi
	# It fetches the toolchain, or says why it doesn't.
	"$go" list -m >/dev/null || stop "Go 1.25 or later is needed, or one from 1.21 on that may fetch it; this is $(GOTOOLCHAIN=local "$go" version), with GOTOOLCHAIN=$("$go" env GOTOOLCHAIN 2>/dev/null)."
}

# lacks prints the packages that are missing for one need; a|b is whichever has a
# candidate. "lists", "unbound" and "bench" are needs of lists of packages.
lacks() {
	case $1 in
	go) # certificates are for the download of modules
		! has_apt || ls /etc/ssl/certs/*.crt >/dev/null 2>&1 || echo ca-certificates ;;
	cc) # the race detector needs a C compiler
		echo '#include <stdlib.h>' | gcc -E - >/dev/null 2>&1 || echo gcc libc6-dev ;;
	mta) # the libraries are those of Debian's Sendmail, which tests unpack
		[ -x /usr/sbin/postfix ] || echo postfix
		has m4 || echo m4
		library libldap || echo 'libldap-2.5-0|libldap2'
		library libsasl2 || echo libsasl2-2
		# Where Postfix logs in at a relay.
		ls /usr/lib/*/sasl2/libplain.so >/dev/null 2>&1 || echo libsasl2-modules
		library libdb-5.3 || echo libdb5.3 ;;
	pcre) # a test has Postfix ask a table of this kind
		! has_apt || [ -e /usr/lib/postfix/postfix-pcre.so ] || echo postfix-pcre ;;
	debootstrap) # for root directories of Debian 13, whose Postfix is 3.10, in the user's cache
		[ -x /usr/sbin/debootstrap ] || echo debootstrap debian-archive-keyring gpgv ;;
	lists | unbound | bench) ;;
	postgres)
		ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || echo postgresql ;;
	package) # rpm installs into a root directory that a test makes; mandoc, lintian and shellcheck are critics
		! has_apt || for tool in git rpm mandoc lintian shellcheck; do has $tool || echo $tool; done ;;
	gpg) # it opens what the demo's recipient gets
		has gpg && has gpgconf || echo gnupg ;;
	crypto) # programs that open OpenPGP and S/MIME: tests believe them, not our own reading
		! has_apt || {
			for tool in gpgsm rnp sq openssl notmuch; do has $tool || echo $tool; done
			has gpg || echo gnupg
			has cmsutil || echo libnss3-tools
			[ -d /usr/lib/python3/dist-packages/pgpy ] || echo python3-pgpy
		} ;;
	python)
		[ -x /usr/bin/python3 ] || echo python3 ;;
	chromium) # a quarter of a gigabyte, only for pictures
		has chromium || echo chromium fonts-dejavu-core ;;
	*) stop "deps.sh: nothing is known of $1" ;;
	esac
}

# Postfix is installed without a configuration and without starting it; another
# MTA is never removed for it.
may_have_postfix() {
	other=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Provides}\n' | sed -n '/^ii .*mail-transport-agent/s/^ii *\([^ ]*\).*/\1/p')
	why="use another machine or a container. Nothing was installed."
	[ -z "$other" ] || stop "Postfix is needed, and installing it would remove $other: $why"
	[ ! -e /etc/postfix/main.cf ] || stop "Postfix is needed, and installing it would start it with the /etc/postfix/main.cf that is there: $why"
}

# choose replaces a|b by the first that has a candidate. apt-cache show would
# know names, too, that other packages only mention.
choose() {
	for alternatives; do
		found=
		for name in $(echo "$alternatives" | tr '|' ' '); do
			if apt-cache policy "$name" 2>/dev/null | grep -q 'Candidate: [0-9]'; then found=$name; break; fi
		done
		[ -n "$found" ] || { echo "No candidate: $alternatives" >&2; return 1; }
		echo "$found"
	done
}

install() {
	echo "Installing $*"
	apt install -y $options "$@" >/dev/null
}

[ "$*" != go-command ] || { go_command; exit; }

packages=
for need; do
	packages="$packages $(lacks "$need")" || exit 1
done
packages=$(echo $packages)
if [ -n "$packages" ]; then
	has_apt || stop "Install what is missing first: $packages"
	[ -z "$sudo" ] || has sudo || stop "Install what is missing first, or sudo: $packages"
	case " $packages " in *' postfix '*) may_have_postfix ;; esac
	update
	packages=$(choose $packages) || stop "This system has no such package. Nothing was installed."
	packages=$(echo $packages)
	plan=$(apt install -s $options $packages 2>&1) || stop "$plan
apt-get can't install $packages. Nothing was installed."
fi

case " $* " in *' go '*)
	case " $packages " in *' ca-certificates '*)
		install ca-certificates
		packages=$(echo " $packages " | sed 's/ ca-certificates / /') ;;
	esac
	get_go ;;
esac

# The tests unpack Sendmail and Unbound into root's cache, and Pigeonhole into
# the user's; that needs lists of packages, and not last year's.
case " $* " in *' lists '*)
	! has_apt || { kept unbound && ls -d "$cache"/pigeonhole-* >/dev/null 2>&1; } || update ;;
esac
case " $* " in *' unbound '*) ! has_apt || kept unbound || update ;; esac
# The bench unpacks what it compares with.
case " $* " in *' bench '*) ! has_apt || kept bench || update ;; esac

[ -n "$(echo $packages)" ] || exit 0
case " $packages " in *' postfix '*)
	echo "Postfix gets no configuration and isn't started; the demo and the tests bring their own"
	echo 'postfix postfix/main_mailer_type select No configuration' | $sudo debconf-set-selections ;;
esac
# PostgreSQL is installed without a cluster: the tests make one of their own.
cluster=/etc/postgresql-common/createcluster.d/tlsonly-test.conf
case " $packages " in *' postgresql '*)
	$sudo mkdir -p "${cluster%/*}"
	echo 'create_main_cluster = false' | $sudo tee $cluster >/dev/null
	trap '$sudo rm -f $cluster' EXIT ;;
esac
install $packages
