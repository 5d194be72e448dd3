VERSIONS := 3.13 3.12 3.11
PYENV := $(shell pyenv root 2>/dev/null || echo ~/.pyenv)
# The newest Python that runs: on the path there may be a shim of pyenv's for a version that is not selected.
PYTHON ?= $(shell \
	for version in $(VERSIONS); do \
		for python in python$$version $(PYENV)/versions/$$version.*/bin/python python3; do \
			$$python -c 'import ensurepip, sqlite3, ssl, sys; sys.exit("%d.%d" % sys.version_info[:2] != sys.argv[1])' $$version \
				2>/dev/null && echo $$python && exit; \
		done; \
	done)
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin
CLIENTS := tests/clients
CLIENTS_READY := $(CLIENTS)/node_modules/.ready
BROWSER_READY := $(VENV)/.browser
PORT ?= 7071
# Tests mostly wait for processes that they start; a worker that has none left takes some of another's.
WORKERS ?= 3
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

define TRY

Open http://localhost:$(PORT)/api/chat in a browser, or try, in another terminal:
  curl -X POST http://localhost:$(PORT)/api/agents/TravelPlanner/run -H "Content-Type: text/plain" -d "Plan a 3-day trip to Tokyo"
and follow it with the stream_url that it answers:
  curl -N "http://localhost:$(PORT)<stream_url>"
endef
export TRY

.PHONY: help run test unit lint infra bench chaos screenshots func lock clean python

help: ## show this help
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.lock
	@test -n "$(PYTHON)" || { echo "found no Python 3.11 to 3.13 with pip: install Python 3.13, from python.org or by 'pyenv install 3.13'" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

# Without Node.js nothing is made, and what needs it is skipped and says so.
$(CLIENTS_READY): $(CLIENTS)/package.json $(CLIENTS)/package-lock.json
	@if node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null; then \
		npm ci --prefix $(CLIENTS) --no-audit --no-fund --loglevel error && touch $@; \
	else \
		echo "found no Node.js 20 or newer: the tests of the JavaScript clients will be skipped"; \
	fi

# Nor is there a wheel of Playwright for every system.
$(BROWSER_READY): $(READY) requirements-browser.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-browser.txt && touch $@ || \
		echo "Playwright cannot be installed: the tests of the page will be skipped"

run: $(READY) ## the app on http://localhost:7071 on the embedded host, Redis included; OTEL=1 shows spans and metrics
	@$(if $(OTEL),DEVHOST_TELEMETRY=1) $(BIN)/python -m devhost --port $(PORT) --hint "$$TRY"

test: $(READY) $(CLIENTS_READY) $(BROWSER_READY) ## every test that needs no network; of JavaScript clients and of the page, too, where Node.js 20 or newer and Chromium are
	$(PYTEST)

unit: $(READY) ## the tests that start no host
	$(PYTEST) tests/unit

chaos: $(READY) ## the chaos suite's long form: 200 seeded scenarios; SEED=<n> replays one
	$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED))

lint: $(READY) $(BROWSER_READY) ## ruff and mypy (strict)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

infra: $(READY) ## check infra/, azure.yaml and the workflows; BICEP_CHECK=<command> and AZD_SCHEMA=<schema> check more
	$(BIN)/python -m pytest -q tests/unit/infra
	$(if $(BICEP_CHECK),$(BICEP_CHECK) infra/*.bicep)
	$(if $(AZD_SCHEMA),$(BIN)/check-jsonschema --schemafile $(AZD_SCHEMA) azure.yaml)
	$(BIN)/actionlint
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet .github/workflows
	$(BIN)/azure-functions-doctor doctor --profile deploy

bench: $(READY) ## measure against the reference pattern; ONLY="<name> …" runs some of the benchmarks
	$(BIN)/python -m benchmarks $(ONLY)

screenshots: $(READY) $(BROWSER_READY) ## the README's pictures of the page, made anew
	$(BIN)/python -m tests.browser.screenshots docs

func: $(READY) ## the same app on the real Functions host (needs func, Azurite and Redis)
	@command -v func >/dev/null || { echo "func is not installed: see 'Run on the real Functions host' in README.md" >&2; exit 1; }
	. $(BIN)/activate && func start --port $(PORT)

lock: $(READY) ## write requirements.lock anew from the requirements files; keeps the versions that still fit
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --custom-compile-command "make lock" requirements-dev.txt --output-file requirements.lock

clean: ## remove the virtual environment, the JavaScript clients and the embedded host's state
	rm -rf .venv* .devhost $(CLIENTS)/node_modules

python: ## the Python that the virtual environment is made with
	@echo $(PYTHON)
