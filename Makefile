# Shortcuts for what one types often. CI runs .ci/run, not this.

GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
FUZZTIME ?= 1m
STATICCHECK ?= honnef.co/go/tools/cmd/staticcheck@v0.8.2
PGODIR ?= /tmp/anteroom-pgo
GOLANGCI ?= github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: build test race lint rego fuzz bench pgo docs image ci

build: ## one static binary, ./anteroom
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o anteroom ./cmd/anteroom

test: ## tests; those that need a peer program which is not installed say so and skip
	$(GO) test ./...

race: ## the same with the race detector
	$(GO) test -race ./...

lint: ## go vet, staticcheck and golangci-lint, at the versions CI uses
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) run $(GOLANGCI) run

rego: build ## the policies' own tests
	./anteroom policy test policies

fuzz: ## every parser of device bytes, FUZZTIME each
	@set -e; for dir in $$(git grep -lE '^func Fuzz' -- '*_test.go' | xargs -n1 dirname | sort -u); do \
		for target in $$($(GO) test -list '^Fuzz' ./$$dir | grep '^Fuzz'); do \
			echo "$$dir $$target"; $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) ./$$dir; \
		done; done

bench: ## what a request costs beside other gateways, a decision by itself, and issuing beside step-ca; rewrites their RESULTS.md
	$(GO) run ./integration/bench
	$(GO) run ./integration/bench/decision
	$(GO) run ./integration/bench/issuance

# The profiles of what the gateway does most, merged; go build uses the file by
# itself. Remake it on a quiet machine when the way of a request has changed.
pgo: ## cmd/anteroom/default.pgo, from the benchmark
	rm -rf $(PGODIR)
	$(GO) run ./integration/bench -targets anteroom -scenarios keepalive,tagged,varied,handshake,resumption,h2,upload,download \
		-rounds 1 -duration 20s -out '' -profiles $(PGODIR)
	$(GO) tool pprof -proto $(PGODIR)/*.pprof > $(PGODIR)/merged.pgo
	mv $(PGODIR)/merged.pgo cmd/anteroom/default.pgo

docs: ## rewrites the generated references in docs/
	$(GO) test ./pkg/config ./pkg/policy ./pkg/agent/settings -run Docs -update

image: ## the container image
	docker build -f docker/Dockerfile --build-arg VERSION=$(VERSION) -t anteroom:$(VERSION) .

ci: ## everything that must hold before a change lands
	.ci/run
