# Thin on purpose: every target is one or two commands that you can type yourself.

export CGO_ENABLED = 0
GOFLAGS ?= -trimpath
export GOFLAGS

DEMO_OUT ?= demo-out
DEMO_BASELINE ?= 1
ZOO_OUT ?= zoo-out
FUZZTIME ?= 20s
SEEDS ?= 1000
BENCH ?= .
PKG ?= ./...

.PHONY: demo zoo build test test-arm64 lint bench bench-engine fuzz sim detection interop audits audit-table toploc-table contracts clean

build: ## one static binary
	go build -ldflags='-s -w' -o bin/shoal ./cmd/shoal

demo: build ## four peers train on Moby-Dick: one cheats and is caught, one is killed, one joins
	bin/shoal testnet run --out $(DEMO_OUT) --baseline=$(if $(filter 0 false no,$(DEMO_BASELINE)),false,true)

zoo: build ## every known cheat as a real peer, caught
	bin/shoal testnet zoo --out $(ZOO_OUT)

test: ## everything that needs no GPU, no root and no long load
	go test -timeout 20m ./...
	go test -timeout 20m -gcflags=-d=checkptr ./gpu/cpu

test-arm64: ## the engine's assembly for arm64, emulated (needs qemu-aarch64, Debian's qemu-user)
	@if command -v qemu-aarch64 >/dev/null; then set -x; \
	  GOARCH=arm64 go test -timeout 0 -exec qemu-aarch64 ./gpu/cpu && GOARCH=arm64 go test -timeout 0 -exec qemu-aarch64 -run Golden ./gpu/llama; \
	else echo "SKIPPED: qemu-aarch64 is not on PATH (package qemu-user), nothing was tested for arm64"; fi

lint:
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt: $$out"; exit 1; }
	go vet ./...

bench:
	go test -run '^$$' -bench '$(BENCH)' $(PKG)

bench-engine: ## the CPU engine beside OpenBLAS, oneDNN, PyTorch (needs Debian and, to install them, root) and llama.cpp (npm)
	@for p in gcc libc6-dev libopenblas-dev libopenblas0-openmp libdnnl-dev python3-torch; do \
	  dpkg -s $$p >/dev/null 2>&1 || apt-get install -y --no-install-recommends $$p >/dev/null 2>&1 || \
	  { apt-get update >/dev/null 2>&1; apt-get install -y --no-install-recommends $$p >/dev/null 2>&1; } || \
	  echo "SKIPPED $$p: apt-get install $$p failed"; done
	@mkdir -p bin/llamacpp && cp cmd/shoal/testdata/llamacpp/package.json bin/llamacpp && \
	  npm --prefix bin/llamacpp install --no-audit --no-fund --no-package-lock --ignore-scripts --omit=optional >/dev/null 2>&1 || \
	  echo "SKIPPED node-llama-cpp: npm install failed"
	go run ./gpu/cpu/bench -llama bin/llamacpp $(BENCH_ENGINE)

fuzz: ## each fuzz target for FUZZTIME
	@set -e; for p in $$(go list $(PKG)); do \
	  for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
	    echo "$$p $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$p; \
	  done; done

sim: ## search for violations of the protocol's invariants, then of the settlement's
	SIM_SEEDS=$(SEEDS) go test -timeout 0 -count 1 -run '^(TestSeeds|TestSettlement)$$' -v ./testnet/sim

detection: ## the table of toploc/audit/README.md: cheats found, and the formula
	SIM_DETECTION=200 go test -timeout 0 -count 1 -run '^TestDetection$$' -v ./testnet/sim

interop: ## checkpoints and models in others' programs: Helia, llama.cpp (needs npm)
	SHOAL_INTEROP=1 go test -timeout 20m -count 1 -run Interop -v ./p2p/block ./cmd/shoal

audits: ## 2,000 honest audits with real models: no false verdict
	SHOAL_AUDITS=2000 go test -timeout 0 -count 1 -run TestManyHonestAudits -v ./node

audit-table: ## the tables of toploc/audit/README.md: drift between engines, forgeries
	SHOAL_AUDIT_TABLE=40 go test -timeout 0 -count 1 -run TestDrift -v ./toploc/audit

toploc-table: ## the tables of toploc/README.md, to toploc-table/: forgeries and limits
	mkdir -p toploc-table
	SHOAL_TOPLOC_TABLE=$(CURDIR)/toploc-table go test -timeout 2h -count 1 -run Table -v ./toploc/calibrate

contracts: ## compile, bind, fuzz and check the contracts (needs npm)
	cd chain/contracts && npm install --no-audit --no-fund && sh generate.sh && sh test/forge.sh && sh test/planted.sh
	git diff --exit-code -- chain/contracts
	SHOAL_CHAIN=1 go test -timeout 20m -count 1 ./chain/... && SHOAL_CHAIN=1 go test -timeout 20m -count 1 -run 'Ledger|Town|NothingIsPaid' ./cmd/shoal

clean:
	rm -rf bin
