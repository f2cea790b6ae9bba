# The five verbs: up, test, scan, lint, nightly. Each sets up what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TESTS ?= tests
# Many tests wait for real servers rather than compute, so there are more workers than cores.
WORKERS ?= 4
STAMP := $(VENV)/.set-up

.PHONY: setup up test scan lint fix nightly bench pictures clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/make_venv.py scripts/fetch_test_data.py
	@$(PYTHON) scripts/make_venv.py $(VENV)
	@$(BIN)/python scripts/fetch_test_data.py
	@touch $(STAMP)

up: setup
	@$(BIN)/kat up

scan: setup
	@test -n "$(TARGET)" || { echo "Say what to scan: make scan TARGET=example.org" >&2; exit 2; }
	@$(BIN)/kat scan $(TARGET) $(OPTIONS) || test $$? -eq 1

test: setup
	@$(BIN)/python -m pytest $(TESTS) -n $(WORKERS) --dist loadfile -q -m "not nightly" --durations=15

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

fix: setup
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

nightly: setup
	@$(BIN)/python -m pytest tests -q -m "nightly"

bench: setup
	@for each in bench/*.py; do echo "== $$each"; $(BIN)/python $$each || exit 1; done

pictures: setup
	@$(BIN)/python scripts/make_pictures.py

clean:
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
