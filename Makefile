# make help lists what there is.

FUZZTIME ?= 30s
BENCHTIME ?= 1s
GO ?= go

# The nats command, to which tests and benchmarks hold us, is the one that make nats has
# built. Without one they look for it in PATH.
NATSCLI ?= v0.4.0
export NATS_CLI ?= $(wildcard $(CURDIR)/bin/nats)

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

.PHONY: build
build: ## build bin/keyturn
	$(GO) build -o bin/keyturn ./cmd/keyturn

# As go run ./cmd/keyturn machine run would, but Ctrl-C is no error: go run and make
# make one of it. So in the foreground of a terminal (+) the machine is a job of its
# own (set -m), and make does not hear of Ctrl-C.
.PHONY: run
run: build ## run the example machine
	@case $$(ps -o stat= -p $$$$ 2>/dev/null) in *+*) set -m ;; esac; \
	bin/keyturn machine run examples/machines/deployment; exit $$?

.PHONY: nats
nats: ## build bin/nats, the nats command, for the tests that need one
	@GOBIN=$(CURDIR)/bin $(GO) install github.com/nats-io/natscli/nats@$(NATSCLI) || { \
		echo "the nats command cannot be built: is there a way to the module github.com/nats-io/natscli?"; exit 1; }

.PHONY: test
test: ## vet, and run all tests under the race detector
	@command -v "$${NATS_CLI:-nats}" >/dev/null || \
		echo "SKIPPED: what holds us to the nats command, because there is none; make nats builds it"
	$(GO) vet ./...
	$(GO) test -race ./...

SCHEDULES ?= 100000
CRASHES ?= 10000
STEPS ?= 500

.PHONY: torture
torture: ## play random schedules, crashes and faults for hours
	KEYTURN_SCHEDULES=$(SCHEDULES) $(GO) test -count=1 -timeout 0 -run TestRandomSchedules -v ./machine
	KEYTURN_CRASHES=$(CRASHES) $(GO) test -count=1 -timeout 0 -run TestCrashAnywhere -v .
	KEYTURN_AWAY=30s $(GO) test -count=1 -run TestFaultBrokerAway -v .
	$(GO) test -count=1 -timeout 0 -run TestTorture -v ./kv/natskv -args -torture $(STEPS)

.PHONY: lint
lint: ## gofmt and staticcheck
	@unformatted=$$(gofmt -l .); \
	[ -z "$$unformatted" ] || { echo "run gofmt -w on:"; echo "$$unformatted"; exit 1; }
	$(GO) tool staticcheck ./...

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME
	@set -e; for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n 1 dirname | sort -u); do \
		targets=$$($(GO) test -list '^Fuzz' $$dir); \
		for target in $$(echo "$$targets" | grep '^Fuzz'); do \
			echo "$$dir $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$dir; \
		done; \
	done

# The script is in a module of its own, with modules of others that may not be to be had.
.PHONY: bench
bench: ## play the script of docs/benchmarks.md (15 minutes), and run all benchmarks (make nats first)
	@cd bench && if $(GO) list -deps ./... >/dev/null; then \
		$(GO) run .; \
	else \
		echo "SKIPPED: the script of docs/benchmarks.md, because its modules cannot be had"; \
	fi
	$(GO) test -run '^$$' -bench . -benchtime $(BENCHTIME) ./...

.PHONY: check
check: test lint ## all that CI does
