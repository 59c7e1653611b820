# make demo    real mail through a real Postfix, judged by the daemon; installs what it lacks
# make test    everything; installs what it lacks
# make build   bin/tlsonly
# make fuzz    each fuzz target for FUZZTIME

GO       ?= go
FUZZTIME ?= 60s
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
SUDO     := $(if $(filter 0,$(shell id -u)),,sudo)
APT      := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get

.PHONY: build test demo check mta fuzz deps deps-go deps-cc deps-mta clean

build: deps-go
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/tlsonly ./cmd/tlsonly

# The demo and the tests that need a real MTA run in a network namespace of their own, with their own configuration,
# queue and data directories; that takes root.
demo: deps-mta build
	$(GO) build -o bin/demo ./internal/testnet/demo
	$(SUDO) bin/demo -tlsonly bin/tlsonly

test: deps check
	$(GO) test -race $(TESTFLAGS) ./...
	@[ -z "$(SUDO)" ] || $(MAKE) mta

check: deps-go
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt wants changes in:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

# The tests with a real MTA again, for users who aren't root: there "make test" could only skip them.
mta: deps
	$(GO) test -race -c -o bin/tlsonly.test ./cmd/tlsonly
	$(GO) test -race -c -o bin/rig.test ./internal/testnet/rig
	cd cmd/tlsonly && $(SUDO) ../../bin/tlsonly.test -test.v -test.run MTA
	cd internal/testnet/rig && $(SUDO) ../../../bin/rig.test -test.v

fuzz: deps-go
	@set -e; for file in $$(grep -l --include='*_test.go' -r '^func Fuzz' .); do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$file); do \
			echo "$$target in $$(dirname $$file)"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$(dirname $$file); \
		done; \
	done

deps: deps-go deps-cc deps-mta

# A Debian older than the Go this needs has a newer one in its backports.
deps-go:
	@command -v $(GO) >/dev/null || { $(APT) update -qq; $(APT) install -y --no-install-recommends golang-go; }
	@$(GO) version >/dev/null || { echo "Go 1.26 or later is needed"; exit 1; }

# The race detector needs a C compiler.
deps-cc:
	@command -v gcc >/dev/null || { $(APT) update -qq; $(APT) install -y --no-install-recommends gcc libc6-dev; }

# Postfix is installed without a configuration and without starting it; another MTA is never removed for it. The libraries
# are those of Debian's Sendmail, which the tests unpack and don't install.
deps-mta:
	@if [ ! -x /usr/sbin/postfix ] || ! command -v m4 >/dev/null || ! ldconfig -p | grep -q libldap || ! ldconfig -p | grep -q libsasl2; then \
		set -e; $(APT) update -qq; \
		[ -x /usr/sbin/postfix ] || echo 'postfix postfix/main_mailer_type select No configuration' | $(SUDO) debconf-set-selections; \
		ldap=$$(apt-cache show libldap-2.5-0 >/dev/null 2>&1 && echo libldap-2.5-0 || echo libldap2); \
		$(APT) install -y --no-install-recommends --no-remove postfix m4 ca-certificates libsasl2-2 libdb5.3 $$ldap; \
	fi

clean:
	rm -rf bin
