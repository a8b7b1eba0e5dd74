# make train [CONFIG=name] [ARGS="key=value ..."]   set up if need be, then train
# make test | test-slow | lint | bench | docs | clean
PYTHON ?= python3
CONFIG ?= a3c-cartpole
ARGS ?=
# Tests run so many at a time; some of them start a small Ray cluster.
JOBS ?= 2

BIN := .venv/bin
READY := .venv/.ready
FOLDERS := agents configs envs generative

.PHONY: train test test-slow lint bench docs clean setup
.DELETE_ON_ERROR:

train: setup
	@$(BIN)/rlgen train $(CONFIG) $(ARGS)

test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow" $(ARGS)

test-slow: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m slow $(ARGS)

# An editable install's mapping of folders to packages is hidden from mypy, so they are laid out for
# it as they are installed.
lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf build/lint && mkdir -p build/lint/rlgen
	@cd build/lint/rlgen && ln -s ../../../rlgen/* $(addprefix ../../../,$(FOLDERS)) .
	$(BIN)/mypy build/lint/rlgen tests benchmarks

bench: setup
	$(BIN)/python benchmarks/run.py $(ARGS)

# The site, in build/site; what its theme says of other products is no news to a reader.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

setup: $(READY)

# The stamp is newer than what it was made from, so that a second call has nothing to do.
$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(MAKE) --no-print-directory .venv-made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[dev]'
	@touch $@

.PHONY: .venv-made
.venv-made:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "rlgen needs Python 3.11 to 3.13, and $(PYTHON) is another or missing;" \
	       "name one with 'make PYTHON=python3.12 ...'" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "$(PYTHON) cannot make a virtual environment (Debian, Ubuntu: apt install python3-venv)" \
	       >&2; exit 1; }
