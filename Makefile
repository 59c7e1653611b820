# make build        bin/tlsonly
# make demo         real mail through a real Postfix, judged by the daemon; installs what it lacks
# make test         everything; installs what it lacks
# make check        gofmt, go vet and staticcheck: before each change is sent
# make mta          the tests with real MTAs again, with sudo, if you aren't root
# make mta-package  of these, those of the packages
# make test-package the tests of the packages alone
# make fresh        make demo and make test on a Debian 12 and a Debian 13 that have nothing; as root
# make cross        does it build, with its tests, for FreeBSD, OpenBSD and macOS?
# make package      bin/packages: .deb and .rpm for amd64 and arm64
# make fuzz         each fuzz target for FUZZTIME
# make bench        what it costs, each figure against its counterpart: a table, also in bin/bench.md
# make soak         an hour's load in SOAKTIME, and all the hardships of the tests in their full number
# make mutate       would the tests notice a wrong verdict? one changed condition after the other
# make gosec        what gosec finds suspicious and nobody has judged
# make vuln         known vulnerabilities that the code can reach, by VULNDB's database, else Go's own
# make screenshots  pictures of the status page in bin/screenshots; installs Chromium
# make deps         only install what make test needs
# make clean        remove bin
# make help         this list

# Go wants a home for its caches; root's may be missing where no one logged in.
export HOME ?= $(shell getent passwd $$(id -u) | cut -d: -f6)

# Asked each time, because deps-go may have fetched one.
GO       ?= $(shell ./deps.sh go-command)
DEPS      = $(if $(filter command environment,$(firstword $(origin GO))),GO='$(GO)') ./deps.sh
FUZZTIME ?= 60s
SOAKTIME ?= 10m
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
SUDO     := $(if $(filter 0,$(shell id -u)),,sudo)

# Two at a time would both install.
.NOTPARALLEL:

.PHONY: demo test build cross package test-package check mta mta-package fresh fuzz bench soak mutate gosec vuln screenshots help deps clean

build: deps-go
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-X main.version=$(VERSION)' -o bin/tlsonly ./cmd/tlsonly

# VERSION and SOURCE_DATE_EPOCH, given to make, say what git would.
package: deps-go
	$(if $(filter command environment,$(firstword $(origin VERSION))),VERSION='$(VERSION)') GO='$(GO)' packaging/build.sh bin/packages

test-package: deps-test-package
	$(GO) test -race -v ./packaging
	@[ -z "$(SUDO)" ] || $(MAKE) mta-package

# The demo and the tests that need a real MTA run in a network namespace of their own, with their own configuration,
# queue and data directories; that takes root.
demo: deps-demo build
	$(GO) build -buildvcs=false -o bin/demo ./internal/testnet/demo
	$(SUDO) bin/demo -tlsonly bin/tlsonly

# Tests with real MTAs take longer together than Go's limit for a package.
test: deps check
	$(GO) test -race -timeout 60m $(TESTFLAGS) ./...
	@[ -n "$(SUDO)" ] || ls -d "$${XDG_CACHE_HOME:-$$HOME/.cache}"/tlsonly-test/postfix-3.10-* >/dev/null 2>&1 || \
		echo "SKIPPED: tests with Postfix 3.10, for want of a Debian 13: $(GO) test -v -run TLSRequiredNo ./cmd/tlsonly says why"
	@[ -z "$(SUDO)" ] || $(MAKE) mta

# Compiled and vetted only: nothing here can run it. Tests that start real MTAs, or take a store's disk away, need Linux's namespaces.
CROSS = freebsd/amd64 openbsd/amd64 darwin/arm64

cross: deps-go
	@for system in $(CROSS); do \
		export CGO_ENABLED=0 GOOS=$${system%/*} GOARCH=$${system#*/}; \
		packages=$$($(GO) list -f '{{.ImportPath}} {{join .Imports " "}} {{join .TestImports " "}} {{join .XTestImports " "}}' ./... | \
			sed '/testnet\/rig/d; /storetest/d; s/ .*//') && \
		echo "$$system: tlsonly, and the tests of $$(echo $$packages | wc -w) packages" && \
		$(GO) build -trimpath -buildvcs=false -o "bin/cross/tlsonly-$${system%/*}-$${system#*/}" ./cmd/tlsonly && \
		$(GO) vet $$packages || exit 1; \
	done

check: deps-go
	@unformatted=$$($$($(GO) env GOROOT)/bin/gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt wants changes in:"; echo "$$unformatted"; exit 1; }
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
	rules/judge.go rules/names.go rules/class.go rules/rules.go milter/judge.go \
	internal/destination/destination.go internal/destination/cache.go internal/destination/host.go

mutate: deps-go
	$(GO) run ./internal/testnet/mutate -limit 60s -equal internal/testnet/mutate/equal.txt $(JUDGES)

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

# What is missing is installed or fetched, once it is clear that all of it can be: see deps.sh.
deps:
	@$(DEPS) go cc mta pcre debootstrap lists postgres package crypto

deps-demo:
	@$(DEPS) go mta unbound gpg

deps-test-package:
	@$(DEPS) go cc debootstrap package

deps-%:
	@$(DEPS) $*

# The C milter is compiled here.
deps-bench:
	@$(DEPS) go cc mta python bench

help:
	@sed -n '/^# make/s/^# //p' Makefile

fresh:
	.ci/fresh

clean:
	rm -rf bin
