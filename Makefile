# Two commands do everything on a fresh machine: `make repro` and `make test`. `VENV=path` names another virtual environment.
VENV ?= .venv
PYTHON ?= python3.11
SHARED ?= ../shared

BIN := $(abspath $(VENV))/bin
KEY := $(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
STAMP := $(VENV)/.detloop-$(KEY)
# The checkout's own code wins over what a shared environment has installed.
ENV := PATH="$(BIN):$$PATH" PYTHONPATH="$(CURDIR)" PYTHONDONTWRITEBYTECODE=1

.PHONY: setup repro test check bccd report clean

setup: $(STAMP)

$(STAMP):
	@test -x "$(BIN)/python" || $(PYTHON) -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch "$(STAMP)"

repro: setup  ## sample (when the inbox is empty), then the whole round
	@$(ENV) detloop sample --if-empty
	@$(ENV) dvc repro
	@$(ENV) detloop report

test: setup
	@$(ENV) python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup
	@$(ENV) ruff format --check --quiet .
	@$(ENV) ruff check --quiet .
	@$(ENV) mypy
	@$(ENV) python -m pytest tests/test_structure.py

bccd: setup  ## real data: import to release in build/bccd, then the figures that must hold
	@rm -rf build/bccd
	@$(ENV) detloop new build/bccd --params examples/bccd/params.yaml
	@cd build/bccd && $(subst PYTHONPATH="$(CURDIR)",PYTHONPATH="$(CURDIR)/build/bccd",$(ENV)) sh -c '\
		detloop import "$(abspath $(SHARED))/data/bccd" --format voc --name bccd && dvc repro && detloop report'
	@$(ENV) python examples/bccd/check.py build/bccd
