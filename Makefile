# Two commands do all of their own set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV = $$(command -v uv || echo $(BIN)/uv)
# Compiled once, not by each of the processes that a loop starts: uv leaves that to whoever imports first, and where
# PYTHONDONTWRITEBYTECODE is set (as in many containers) nobody ever would.
INSTALL = VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip install --quiet --compile-bytecode --constraint constraints.txt --overrides overrides.txt
unexport PYTHONDONTWRITEBYTECODE
MADE_FROM := pyproject.toml constraints.txt overrides.txt

.PHONY: demo test test-all bench lint constraints machine audit clean

demo: $(VENV)/.demo-installed
	$(BIN)/curate demo

# `sync`: a disk that still writes the installation keeps every database of the tests waiting.
test: $(VENV)/.test-installed machine lint
	@sync
	$(BIN)/python -m pytest -n 2 -m "not gpu and not slow"

test-all: $(VENV)/.test-installed machine lint
	$(BIN)/python -m pytest -n 2

bench: $(VENV)/.test-installed
	failed=0; for name in $$(grep -l '__main__' benchmarks/*.py); do echo "== $$name"; $(BIN)/python $$name --quick || failed=1; done; exit $$failed

lint: $(VENV)/.test-installed
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy --explicit-package-bases curation labeling augment reports benchmarks

# The versions that we test with. The file holds no addresses, only names and numbers.
constraints: $(VENV)/.uv
	rm -f constraints.txt
	$(UV) pip compile pyproject.toml --all-extras --universal --python-version 3.11 --overrides overrides.txt \
	  --no-header --no-annotate --quiet --output-file constraints.txt
	sed -i "s/ ; python_full_version < '3.13' and platform_machine == 'x86_64' and sys_platform == 'linux'$$//" constraints.txt

$(VENV)/.uv:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed; name one with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is too old; name a Python 3.11 or newer with PYTHON=..."; exit 1; }
	@if command -v uv >/dev/null; then uv venv --quiet --allow-existing --python $(PYTHON) $(VENV); \
	  else $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet uv; fi
	@touch $@

$(VENV)/.demo-installed: $(VENV)/.uv $(MADE_FROM)
	@echo "Installing into $(VENV) (several GB the first time) ..."
	$(INSTALL) -e '.[server,demo]'
	$(BIN)/python -m labeling.server
	@touch $@

$(VENV)/.test-installed: $(VENV)/.uv $(MADE_FROM)
	@echo "Installing into $(VENV) (several GB the first time) ..."
	$(INSTALL) -e '.[server,demo,dev]'
	$(BIN)/python -m labeling.server
	@touch $@ $(VENV)/.demo-installed

# Browser tests need Chromium, the ledger's tests PostgreSQL, those of a team nginx and OpenSSL: installed where we are
# root, asked for where we are not.
DEBIANS = $$(command -v chromium >/dev/null || echo chromium fonts-dejavu-core) \
	$$(ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || echo postgresql) \
	$$(command -v nginx >/dev/null || test -x /usr/sbin/nginx || echo nginx-light) $$(command -v openssl >/dev/null || echo openssl)

machine:
	@missing=$$(echo $(DEBIANS)); if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing $$missing ..."; apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	  else echo "The tests need: sudo apt-get install $$missing"; exit 1; fi; fi

clean:
	rm -rf $(VENV) curation-demo artifacts

# Asks PyPI's advisories about every version that we test with; needs the network.
audit: $(VENV)/.uv
	$(UV) tool run pip-audit --requirement constraints.txt --no-deps --disable-pip
