# make demo    real mail through a real Postfix, judged by the daemon; installs what it lacks
# make test    everything; installs what it lacks
# make build   bin/tlsonly
# make package bin/packages: .deb and .rpm for amd64 and arm64
# make fuzz    each fuzz target for FUZZTIME
# make bench   what it costs, each figure against its counterpart: a table, also in bin/bench.md
# make soak    an hour's load in SOAKTIME, and all the hardships of the tests in their full number
# make mutate  would the tests notice a wrong verdict? one changed condition after the other
# make gosec   what gosec finds suspicious and nobody has judged
# make vuln    known vulnerabilities that the code can reach, by the database that VULNDB names, else Go's own
# make screenshots  pictures of the status page in bin/screenshots, to be looked at; installs Chromium

GO       ?= go
FUZZTIME ?= 60s
SOAKTIME ?= 10m
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
SUDO     := $(if $(filter 0,$(shell id -u)),,sudo)
APT      := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get

# Nothing that is there is removed or upgraded: an upgrade would restart a site's own Postfix.
install = echo "Installing $(1)" && $(APT) install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends --no-remove --no-upgrade $(1) >/dev/null

# Go wants a home for its caches; root's may be missing where no one logged in.
export HOME ?= $(shell getent passwd $$(id -u) | cut -d: -f6)

.PHONY: bench soak mutate gosec vuln deps-pcre deps-bench screenshots deps-chromium build package test test-package demo check mta mta-package fuzz deps deps-go deps-cc deps-mta deps-debootstrap deps-lists deps-postgres deps-package clean

build: deps-go
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-X main.version=$(VERSION)' -o bin/tlsonly ./cmd/tlsonly

# VERSION and SOURCE_DATE_EPOCH, given to make, say what git would.
package: deps-go
	$(if $(filter command environment,$(firstword $(origin VERSION))),VERSION='$(VERSION)') GO='$(GO)' packaging/build.sh bin/packages

test-package: deps-go deps-cc deps-debootstrap deps-package
	$(GO) test -race -v ./packaging
	@[ -z "$(SUDO)" ] || $(MAKE) mta-package

# The demo and the tests that need a real MTA run in a network namespace of their own, with their own configuration,
# queue and data directories; that takes root.
demo: deps-mta build
	$(GO) build -buildvcs=false -o bin/demo ./internal/testnet/demo
	$(SUDO) bin/demo -tlsonly bin/tlsonly

# Tests with real MTAs take longer together than Go's limit for a package.
test: deps check
	$(GO) test -race -timeout 60m $(TESTFLAGS) ./...
	@[ -n "$(SUDO)" ] || ls -d "$${XDG_CACHE_HOME:-$$HOME/.cache}"/tlsonly-test/postfix-3.10-* >/dev/null 2>&1 || \
		echo "SKIPPED: tests with Postfix 3.10, for want of a Debian 13: $(GO) test -v -run TLSRequiredNo ./cmd/tlsonly says why"
	@[ -z "$(SUDO)" ] || $(MAKE) mta

check: deps-go
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt wants changes in:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

# The tests with a real MTA again, for users who aren't root: there "make test" could only skip them.
mta: deps
	$(GO) test -race -c -o bin/tlsonly.test ./cmd/tlsonly
	cd cmd/tlsonly && $(SUDO) ../../bin/tlsonly.test -test.v -test.run MTA
	for dir in internal/testnet/rig internal/mta/postfix internal/mta/sendmail milter; do \
		$(GO) test -race -c -o bin/mta.test ./$$dir && (cd $$dir && $(SUDO) $(CURDIR)/bin/mta.test -test.v) || exit 1; \
	done
	$(MAKE) mta-package

mta-package:
	$(GO) test -race -c -o bin/packaging.test ./packaging
	cd packaging && $(SUDO) env PATH="$$PATH" ../bin/packaging.test -test.v -test.run 'Debian|RPM'

# Making an interesting input smaller may take a minute by default, in which nothing new is tried.
fuzz: deps-go
	@failed=0; for file in $$(grep -l --include='*_test.go' -r '^func Fuzz' .); do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$file); do \
			echo "$$target in $$(dirname $$file)"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$(dirname $$file) || failed=1; \
		done; \
	done; exit $$failed

# In namespaces of their own, like the tests. Programs to compare with are Debian's, unpacked and not installed.
# They reach no network, so what their tests need is compiled before.
bench: deps-bench build
	$(GO) build -buildvcs=false -o bin/bench ./internal/testnet/bench
	$(GO) test -run '^$$' ./milter ./cmd/tlsonly >/dev/null
	$(SUDO) env PATH="$$PATH" GOMODCACHE="$$($(GO) env GOMODCACHE)" bin/bench -tlsonly bin/tlsonly $(BENCHFLAGS)

soak: deps build
	$(GO) build -buildvcs=false -o bin/soak ./internal/testnet/soak
	$(SUDO) bin/soak -tlsonly bin/tlsonly -time $(SOAKTIME)
	for dir in cmd/tlsonly milter internal/socketmap internal/destination; do \
		$(GO) test -c -o bin/soak.test ./$$dir && (cd $$dir && \
		$(SUDO) env TLSONLY_SOAK=1 $(CURDIR)/bin/soak.test -test.v -test.timeout 30m -test.run Hard) || exit 1; \
	done

# The files that decide a verdict.
JUDGES = internal/judge/judge.go internal/judge/authenticate.go internal/judge/enforce.go internal/judge/outcome.go \
	rules/judge.go rules/names.go rules/class.go rules/rules.go \
	internal/destination/destination.go internal/destination/cache.go internal/destination/host.go

mutate: deps-go
	$(GO) run ./internal/testnet/mutate -equal internal/testnet/mutate/equal.txt $(JUDGES)

# Neither is one of the project's tools: go.mod would get all that they need.
GOSEC       = $(GO) run github.com/securego/gosec/v2/cmd/gosec@v2.30.0
GOVULNCHECK = $(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0

# Left out everywhere, being about what this program does all the time:
#   G104        errors of closing, removing and deadlines where the work is given up or done
#   G115        conversions of numbers whose range was looked at before: lengths, ports, codes, ASCII
#   G304, G703  files named by a variable: who administers the host names them
# What is below internal/testnet, and storetest, is for tests, which gosec doesn't look at: those start programs, make files that
# an MTA's users can read, and draw lots.
GOSECFLAGS = -quiet -exclude=G104,G115,G304,G703 \
	-exclude-rules='internal/(testnet|store/storetest)/.*:G204,G301,G302,G306,G404,G702'

gosec: deps-go
	$(GOSEC) $(GOSECFLAGS) ./...

# VULNDB=file:///dir where Go's database can't be reached: cmd/indexdb of golang.org/x/vulndb makes such a directory.
vuln: deps-go
	$(GOVULNCHECK) $(if $(VULNDB),-db '$(VULNDB)') ./...

# People look at these: what is ugly or cut off, no test says.
screenshots: deps-go deps-chromium
	$(GO) test -tags screenshots -run TestScreenshots -count 1 ./internal/web

deps: deps-go deps-cc deps-mta deps-pcre deps-debootstrap deps-lists deps-postgres deps-package

# The distribution's Go is installed only if it's new enough; certificates are for the download of modules.
deps-go:
	@set -e; if ! command -v $(GO) >/dev/null; then \
		$(APT) update -qq; \
		go=$$(apt-cache policy golang-go | sed -n 's/.*Candidate: [0-9]*://p'); \
		dpkg --compare-versions "$$go" ge 1.26 || { echo "Go 1.26 or later is needed, and this system has none: install it first"; exit 1; }; \
		$(call install,golang-go); \
	fi; \
	$(GO) list -m >/dev/null || { echo "Go 1.26 or later is needed, this is $$($(GO) version)"; exit 1; }; \
	[ ! -d /etc/apt ] || ls /etc/ssl/certs/*.crt >/dev/null 2>&1 || { $(APT) update -qq && $(call install,ca-certificates); }

# The race detector needs a C compiler.
deps-cc:
	@echo '#include <stdlib.h>' | gcc -E - >/dev/null 2>&1 || { $(APT) update -qq && $(call install,gcc libc6-dev); }

# Postfix is installed without a configuration and without starting it; another MTA is never removed for it. The libraries
# are those of Debian's Sendmail, which the tests unpack and don't install.
deps-mta:
	@set -e; stop() { echo "Postfix is needed, and installing it would $$1: use another machine or a container"; exit 1; }; \
	if [ ! -x /usr/sbin/postfix ]; then \
		other=$$(dpkg-query -W -f '$${db:Status-Abbrev} $${Package} $${Provides}\n' | sed -n '/^ii .*mail-transport-agent/s/^ii *\([^ ]*\).*/\1/p'); \
		[ -z "$$other" ] || stop "remove $$other"; \
		[ ! -e /etc/postfix/main.cf ] || stop "start it with the /etc/postfix/main.cf that is there"; \
		echo "Postfix gets no configuration and isn't started; the demo and the tests bring their own"; \
		echo 'postfix postfix/main_mailer_type select No configuration' | $(SUDO) debconf-set-selections; \
	fi; \
	libs=$$(/sbin/ldconfig -p); has() { echo "$$libs" | grep -q "$$1"; }; \
	if [ ! -x /usr/sbin/postfix ] || ! command -v m4 >/dev/null || ! has libldap || ! has libsasl2 || ! has libdb-5.3; then \
		$(APT) update -qq; \
		ldap=$$(apt-cache policy libldap-2.5-0 2>/dev/null | grep -q "Candidate: [0-9]" && echo libldap-2.5-0 || echo libldap2); \
		$(call install,postfix m4 libsasl2-2 libdb5.3 $$ldap); \
	fi

# A test has Postfix ask a table of this kind; its package restarts nothing.
deps-pcre: deps-mta
	@[ ! -d /etc/apt ] || [ -e /usr/lib/postfix/postfix-pcre.so ] || { $(APT) update -qq && $(call install,postfix-pcre); }

# With it the tests make a root directory of Debian 13, whose Postfix is 3.10, and keep it in the user's cache: 130 MB, half a
# minute the first time.
deps-debootstrap:
	@[ -x /usr/sbin/debootstrap ] || { $(APT) update -qq && $(call install,debootstrap debian-archive-keyring gpgv); }

# The tests unpack Sendmail and Unbound into root's cache, and Pigeonhole into the user's; that needs a list of packages, and
# not last year's.
deps-lists:
	@[ ! -d /etc/apt ] || { $(SUDO) sh -c 'ls -d "$${XDG_CACHE_HOME:-$$HOME/.cache}"/tlsonly-test/unbound-*' && \
		ls -d "$${XDG_CACHE_HOME:-$$HOME/.cache}"/tlsonly-test/pigeonhole-*; } >/dev/null 2>&1 || $(APT) update -qq

# PostgreSQL is installed without a cluster: the tests make one of their own.
deps-postgres:
	@set -e; if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then \
		$(APT) update -qq; \
		$(SUDO) mkdir -p /etc/postgresql-common/createcluster.d; \
		echo 'create_main_cluster = false' | $(SUDO) tee /etc/postgresql-common/createcluster.d/tlsonly-test.conf >/dev/null; \
		status=0; $(call install,postgresql) || status=$$?; \
		$(SUDO) rm -f /etc/postgresql-common/createcluster.d/tlsonly-test.conf; exit $$status; \
	fi

# rpm installs into a root directory that a test makes, never into this system; mandoc and lintian are critics.
deps-package:
	@set -e; [ ! -d /etc/apt ] || for tool in rpm mandoc lintian; do \
		command -v $$tool >/dev/null || { $(APT) update -qq; $(call install,rpm mandoc lintian); break; }; \
	done

# The C milter is compiled here. The lists of packages are for what the bench unpacks.
deps-bench: deps-go deps-cc deps-mta
	@[ -x /usr/bin/python3 ] || { $(APT) update -qq && $(call install,python3); }
	@$(SUDO) sh -c 'ls -d "$${XDG_CACHE_HOME:-$$HOME/.cache}"/tlsonly-test/bench-*' >/dev/null 2>&1 || $(APT) update -qq

# A quarter of a gigabyte, and only for pictures, so "make test" does without.
deps-chromium:
	@command -v chromium >/dev/null || { $(APT) update -qq; $(call install,chromium fonts-dejavu-core); }

clean:
	rm -rf bin
