#!/bin/sh
# Makes the packages: packaging/build.sh DIRECTORY [ARCH…], ARCH as Go says it; default: amd64 arm64. With --version instead it
# says which version it would make. The same source gives the same octets: times are the last commit's, or SOURCE_DATE_EPOCH.
# VERSION overrides what git says, and is needed, with SOURCE_DATE_EPOCH, where there is no git. GO and NFPM are the commands to
# use.
set -eu
export LC_ALL=C TZ=UTC
umask 022
out=
[ "$1" = --version ] || out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- amd64 arm64
cd "$(dirname "$0")/.."
go=${GO:-go}
nfpm=${NFPM:-$go run github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.0}

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

# 1.2.3 for the tag v1.2.3, 1.2.3~rc1 for v1.2.3-rc1, which is older; 1.2.3+git… for what comes after, which is newer. The time
# makes it grow.
version() {
	tag=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null) || tag=v0.0.0
	base=$(echo "${tag#v}" | tr - '~')
	dirty=
	[ -z "$(git status --porcelain --untracked-files=no)" ] || dirty=.dirty
	if [ -z "$dirty" ] && [ "$(git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null)" = "$tag" ]; then
		echo "$base"
	else
		echo "$base+git$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S).$(git rev-parse --short=8 HEAD)$dirty"
	fi
}
VERSION=${VERSION:-$(version)}
export VERSION
[ -n "$out" ] || { echo "$VERSION" && exit; }
maintainer=$(sed -n 's/^maintainer: //p' packaging/nfpm.yaml)

# The program is linked with other people's work, whose terms go with it.
notices() {
	linked='{{with .Module}}{{if .Version}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}'
	GOOS=linux GOARCH=$1 CGO_ENABLED=0 $go list -deps -f "$linked" ./cmd/tlsonly |
		sort -u | while read -r path release dir; do
			for file in "$dir"/LICEN[CS]E* "$dir"/COPYING* "$dir"/NOTICE* "$dir"/PATENTS*; do
				[ ! -f "$file" ] || { printf '%s %s, %s:\n\n' "$path" "$release" "$(basename "$file")"; cat "$file"; printf '\n'; }
			done
		done
	printf 'The Go standard library, %s, LICENSE:\n\n' "$($go env GOVERSION)"
	cat "$($go env GOROOT)/LICENSE" 2>/dev/null || cat /usr/share/doc/golang-*-go/copyright
}

for arch; do
	stage=$(mktemp -d)
	trap 'rm -rf "$stage"' EXIT
	GOOS=linux GOARCH=$arch CGO_ENABLED=0 $go build -trimpath -buildvcs=false \
		-ldflags "-s -w -X main.version=$VERSION" -o "$stage/tlsonly" ./cmd/tlsonly
	cp packaging/tlsonly.toml packaging/deb/lintian-overrides "$stage"
	cp -R packaging/deb packaging/rpm packaging/completions "$stage"
	cp packaging/systemd/sysusers.conf packaging/systemd/tmpfiles.conf "$stage"
	mkdir -p "$stage/systemd" "$stage/doc" "$stage/man" "$stage/share"
	cp -R packaging/sendmail packaging/postfix packaging/prometheus packaging/grafana "$stage/share"
	install -m 0755 packaging/keep-ports.sh "$stage/share/keep-ports"
	cp packaging/systemd/*.service packaging/systemd/*.socket packaging/systemd/*.timer "$stage/systemd"
	for page in packaging/man/*.[0-9]; do
		section=${page##*.}
		mkdir -p "$stage/man/man$section"
		gzip -9nc "$page" >"$stage/man/man$section/$(basename "$page").gz"
	done
	gzip -9nc CHANGELOG.md >"$stage/doc/changelog.gz"
	gzip -9nc README.md >"$stage/doc/README.md.gz"
	cp -R docs "$stage/doc/docs"
	notices "$arch" >"$stage/NOTICES"
	gzip -9nc "$stage/NOTICES" >"$stage/doc/NOTICES.gz"
	cp -R packaging/deb/copyright packaging/examples "$stage/doc"
	cat >"$stage/changelog" <<-END
		tlsonly ($VERSION-1) unstable; urgency=medium

		  * What changed is in /usr/share/doc/tlsonly/changelog.gz.

		 -- $maintainer  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
	END
	gzip -9nc "$stage/changelog" >"$stage/changelog.Debian.gz"
	find "$stage" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	for format in deb rpm; do
		(export ARCH="$arch" && cd "$stage" && $nfpm package -f "$OLDPWD/packaging/nfpm.yaml" -p $format -t "$out/")
	done
	rm -rf "$stage"
done
