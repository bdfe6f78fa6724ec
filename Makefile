# The two commands of the README are `make up` and `make test`. No C compiler is
# needed for either; RACE=1 (which needs one) adds the race detector to the tests.

GO ?= go
BIN := bin/keywright
PKGS := ./...
export CGO_ENABLED ?= $(if $(RACE),1,0)

.PHONY: build up test e2e bench fuzz lint tidy clean

build:
	$(GO) build -trimpath -o $(BIN) .

# ARGS passes flags, for example: make up ARGS="--validation-interval 5s"
up: build
	exec $(BIN) up $(ARGS)

test: build
	KEYWRIGHT_BIN=$(abspath $(BIN)) $(GO) test $(if $(RACE),-race) -shuffle=on -timeout 25m $(PKGS)

# The whole story against the built program, verbosely.
e2e: build
	KEYWRIGHT_BIN=$(abspath $(BIN)) $(GO) test -count=1 -v -timeout 25m ./test/e2e/...

bench:
	$(GO) test -run '^$$' -bench . -benchtime 1s -timeout 40m $(PKGS)

# Every fuzz target for FUZZTIME each.
FUZZTIME ?= 10s
fuzz:
	@for pkg in $$($(GO) list $(PKGS)); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
	  done; \
	done

lint:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	  if [ -n "$$unformatted" ]; then echo "not formatted: $$unformatted"; exit 1; fi
	$(GO) vet $(PKGS)
	$(GO) tool -modfile=tools/go.mod golangci-lint run

tidy:
	$(GO) mod tidy

clean:
	rm -rf bin
