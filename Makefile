# KingServer. `make help` lists the targets; the variables below may be set on the command line.

CARGO      ?= cargo
RUSTC      ?= rustc
TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
PREFIX     ?= /usr/local
BINDIR     ?= $(PREFIX)/bin
MANDIR     ?= $(PREFIX)/share/man
DATADIR    ?= $(PREFIX)/share/kingserver
UNITDIR    ?= $(PREFIX)/lib/systemd/system
SYSCONFDIR ?= /etc
TIER       ?= test
ARGS       ?=
OPTIMISED  ?= --release

BIN     := $(TARGET_DIR)/release/kingserver
SOURCES := Cargo.toml Cargo.lock .cargo/config.toml $(shell find src -name '*.rs')
PAGES   := $(wildcard man/*.[1-9])
BENCH   := tests/bench/Cargo.toml
BENCHDB := tests/bench-store/Cargo.toml
FUZZ    := tests/fuzz/Cargo.toml
CLIENTS := tests/clients/rust/Cargo.toml
DEB     := $(TARGET_DIR)/deb
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
INSTALL ?= install
# A tree that carries its crates (`cargo vendor`) builds from them, without a network.
ifneq ($(wildcard vendor),)
CARGOFLAGS += --offline --config 'source.crates-io.replace-with="vendor"' --config 'source.vendor.directory="vendor"'
endif
CARGOFLAGS += --locked
# The table for unwinding at run time takes 27 KB; a panic of this program aborts, and debuggers do without.
LEAN = -C link-arg=-Wl,--no-eh-frame-hdr
# What was compiled to the same code is kept once, where rustc's linker can do that: 8 KB. (`FOLD=` where cargo has another.)
FOLD ?= -C link-arg=-Wl,--icf=all
LEAN += $(if $(FOLD),$(shell mkdir -p $(TARGET_DIR) && echo 'fn main() {}' | $(RUSTC) $(FOLD) -o $(TARGET_DIR)/fold - 2>/dev/null && rm $(TARGET_DIR)/fold && echo '$(FOLD)'))
# LevelDB is linked as Debian has it, not statically as the product is.
DYNAMIC := RUSTFLAGS='-C target-feature=-crt-static'
export CARGO_TARGET_DIR := $(TARGET_DIR)

.PHONY: all build run test test-needs test-ci test-full coverage bench bench-threads bench-commit bench-store bench-cache bench-growth bench-large bench-smoke lint install deb clean help

all: build

build: ## the optimised, static binary: target/release/kingserver
	$(CARGO) rustc --release --bin kingserver $(CARGOFLAGS) -- $(LEAN)

run: build ## serve 127.0.0.1:11211 in the foreground, data in ./kingdb-data (ARGS='-p 11311')
	exec $(BIN) --db.path=kingdb-data $(ARGS)

test: ## everything that proves it, under 5 minutes; installs what it needs (TIER=test|ci|full)
	$(MAKE) -j2 build test-needs
	KINGSERVER=$(BIN) TIER=$(TIER) tests/run $(ARGS)

# The link of the binary keeps one processor busy: another one does this meanwhile.
test-needs:
	tests/setup test
	tests/peer/run --build

test-ci: ## the same with larger counts, and the Debian package in a chroot: under 20 minutes
	$(MAKE) test TIER=ci

test-full: ## the same with the largest counts: hours
	$(MAKE) test TIER=full

coverage: ## which regions of the connection's state machine and of the loop the tests reach (ARGS=suites)
	tests/setup coverage
	TIER=$(TIER) tests/coverage $(ARGS)

bench: build ## compare with memcached, Redis and a null server (ARGS=...)
	tests/setup bench
	$(CARGO) run $(OPTIMISED) --locked --manifest-path $(BENCH) --bin bench -- $(ARGS)

bench-threads: build ## compare with a thread per connection (ARGS=...)
	tests/setup bench
	$(CARGO) run $(OPTIMISED) --locked --manifest-path $(BENCH) --bin threads -- $(ARGS)

bench-commit: build ## sets that share an fdatasync under --db.sync=always (ARGS=...)
	$(CARGO) run $(OPTIMISED) --locked --manifest-path $(BENCH) --bin commit -- $(ARGS)

bench-store: ## compare the store with LevelDB, RocksDB and fjall (ARGS=...)
	tests/setup bench-store
	$(DYNAMIC) $(CARGO) run $(OPTIMISED) --locked --manifest-path $(BENCHDB) --bin bench-store -- $(ARGS)

bench-cache: ## hit ratios of the record cache, of an LRU and of memcached (ARGS=...)
	tests/setup bench-store
	$(DYNAMIC) $(CARGO) run $(OPTIMISED) --locked --manifest-path $(BENCHDB) --bin bench-cache -- $(ARGS)

bench-large: build ## small gets beside values of 64 MiB, and what these cost, beside memcached (ARGS=...)
	tests/setup bench
	$(CARGO) run $(OPTIMISED) --locked --manifest-path $(BENCH) --bin large -- $(ARGS)

bench-growth: ## the worst single put while a store grows to 20 million keys (ARGS=...)
	$(CARGO) run $(OPTIMISED) --locked --manifest-path $(BENCH) --bin growth -- $(ARGS)

# Compiled quickly: these numbers count for nothing.
bench-smoke: SMOKE := ARGS=--smoke OPTIMISED=
bench-smoke: ## half a minute of all of these: do they run?
	$(MAKE) bench $(SMOKE)
	$(MAKE) bench-commit $(SMOKE)
	$(MAKE) bench-store $(SMOKE)
	$(MAKE) bench-cache $(SMOKE)
	$(MAKE) bench-growth $(SMOKE)
	$(MAKE) bench-large $(SMOKE)

lint: ## formatting, clippy and the man pages; warnings are errors
	tests/setup lint
	$(CARGO) fmt --check
	$(CARGO) clippy $(CARGOFLAGS) --all-targets -- -D warnings
	$(CARGO) fmt --check --manifest-path $(BENCH)
	$(CARGO) clippy --locked --manifest-path $(BENCH) --all-targets -- -D warnings
	$(CARGO) fmt --check --manifest-path $(BENCHDB)
	$(DYNAMIC) $(CARGO) clippy --locked --manifest-path $(BENCHDB) --all-targets -- -D warnings
	$(CARGO) fmt --check --manifest-path $(FUZZ)
	$(CARGO) clippy --locked --manifest-path $(FUZZ) --lib --bins --test fixed -- -D warnings
	$(CARGO) fmt --check --manifest-path $(CLIENTS)
	$(DYNAMIC) $(CARGO) clippy --locked --manifest-path $(CLIENTS) --all-targets -- -D warnings
	mandoc -Tlint -Wwarning $(PAGES)

install: $(BIN) ## binary, man pages, unit, configuration, sysctl profile (DESTDIR, PREFIX)
	$(INSTALL) -D -p -m 755 $(BIN) $(DESTDIR)$(BINDIR)/kingserver
	for page in $(PAGES); do \
	  $(INSTALL) -D -p -m 644 $$page $(DESTDIR)$(MANDIR)/man$${page##*.}/$${page##*/} || exit 1; done
	$(INSTALL) -D -p -m 644 sysctl/60-kingserver.conf $(DESTDIR)$(DATADIR)/sysctl/60-kingserver.conf
	test -e $(DESTDIR)$(SYSCONFDIR)/kingserver/kingserver.conf || \
	  $(INSTALL) -D -p -m 644 debian/kingserver.conf $(DESTDIR)$(SYSCONFDIR)/kingserver/kingserver.conf
ifneq ($(UNITDIR),)
	mkdir -p $(DESTDIR)$(UNITDIR)
	sed 's,/usr/bin/,$(BINDIR)/,; s,/etc/,$(SYSCONFDIR)/,' debian/kingserver.service \
	  > $(DESTDIR)$(UNITDIR)/kingserver.service
endif

$(BIN): $(SOURCES)
	$(CARGO) rustc --release --bin kingserver $(CARGOFLAGS) -- $(LEAN)

deb: ## the Debian package, in target/deb
	tests/setup deb
	rm -rf $(DEB)/kingserver*
	mkdir -p $(DEB)/kingserver-$(VERSION)
	git ls-files -z | tar -c --null -T - $(wildcard vendor) | tar -x -C $(DEB)/kingserver-$(VERSION)
	cd $(DEB)/kingserver-$(VERSION) && \
	  CARGO_TARGET_DIR=$(DEB)/cargo dpkg-buildpackage --no-sign --build=full --no-pre-clean $(DEBFLAGS)
	rm -rf $(DEB)/kingserver-$(VERSION)

clean: ## remove what was built (not ./kingdb-data)
	$(CARGO) clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 15
