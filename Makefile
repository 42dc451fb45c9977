# Thin on purpose: every target is one or two commands that you can type yourself.

export CGO_ENABLED = 0
GOFLAGS ?= -trimpath
export GOFLAGS

DEMO_OUT ?= demo-out
DEMO_BASELINE ?= 1
FUZZTIME ?= 20s
SEEDS ?= 1000
BENCH ?= .
PKG ?= ./...

.PHONY: demo build test lint bench fuzz sim interop audits audit-table toploc-table contracts clean

build: ## one static binary
	go build -ldflags='-s -w' -o bin/shoal ./cmd/shoal

demo: build ## four peers train on Moby-Dick; one is killed, one joins
	bin/shoal testnet run --out $(DEMO_OUT) --baseline=$(if $(filter 0 false no,$(DEMO_BASELINE)),false,true)

test: ## everything that needs no GPU, no root and no long load
	go test -timeout 20m ./...

lint:
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt: $$out"; exit 1; }
	go vet ./...

bench:
	go test -run '^$$' -bench '$(BENCH)' $(PKG)

fuzz: ## each fuzz target for FUZZTIME
	@set -e; for p in $$(go list $(PKG)); do \
	  for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
	    echo "$$p $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$p; \
	  done; done

sim: ## search for violations of the protocol's invariants
	SIM_SEEDS=$(SEEDS) go test -timeout 0 -count 1 -run '^TestSeeds$$' -v ./testnet/sim

interop: ## a checkpoint fetched by an independent IPFS client (needs npm)
	SHOAL_INTEROP=1 go test -timeout 20m -count 1 -run Interop -v ./p2p/block

audits: ## 2,000 honest audits with real models: no false verdict
	SHOAL_AUDITS=2000 go test -timeout 0 -count 1 -run TestManyHonestAudits -v ./node

audit-table: ## the tables of toploc/audit/README.md: drift between engines, forgeries
	SHOAL_AUDIT_TABLE=40 go test -timeout 0 -count 1 -run TestDrift -v ./toploc/audit

toploc-table: ## the table of toploc/README.md: forgeries and limits
	SHOAL_TOPLOC_TABLE=1 go test -timeout 2h -count 1 -run Table -v ./toploc/calibrate

contracts: ## compile, bind, fuzz and check the contracts (needs npm)
	cd chain/contracts && npm install --no-audit --no-fund && sh generate.sh && sh test/forge.sh && sh test/planted.sh
	git diff --exit-code -- chain/contracts
	SHOAL_CHAIN=1 go test -timeout 20m -count 1 ./chain/... && SHOAL_CHAIN=1 go test -timeout 20m -count 1 -run 'Ledger|Town' ./cmd/shoal

clean:
	rm -rf bin
