# Two commands do everything on a fresh machine: `make repro` and `make test`. `VENV=path` names another virtual environment.
VENV ?= .venv
PYTHON ?= python3.11
SHARED ?= ../shared
# Label Studio pins much that would fight our own packages, so it has an environment of its own.
LABEL_STUDIO_VENV ?= .venv-labelstudio

BIN := $(abspath $(VENV))/bin
KEY := $(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
STAMP := $(VENV)/.detloop-$(KEY)
# The checkout's own code wins over what a shared environment has installed.
ENV := PATH="$(BIN):$$PATH" PYTHONPATH="$(CURDIR)" PYTHONDONTWRITEBYTECODE=1

LABEL_STUDIO := $(abspath $(LABEL_STUDIO_VENV))/bin/label-studio
LABEL_STUDIO_STAMP := $(LABEL_STUDIO_VENV)/.detloop-$(shell cksum < constraints-labelstudio.txt | cut -d ' ' -f 1)

.PHONY: setup repro loop test check bccd labelstudio labelstudio-stop

setup: $(STAMP)

$(STAMP):
	@test -x "$(BIN)/python" || $(PYTHON) -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch "$(STAMP)"

repro: setup  ## sample (when the inbox is empty), then the whole round
	@$(ENV) detloop sample --if-empty
	@$(ENV) dvc repro
	@$(ENV) detloop report

$(LABEL_STUDIO_STAMP):
	@test -x "$(LABEL_STUDIO_VENV)/bin/python" || $(PYTHON) -m venv "$(LABEL_STUDIO_VENV)"
	"$(LABEL_STUDIO_VENV)/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints-labelstudio.txt label-studio
	@touch "$(LABEL_STUDIO_STAMP)"

labelstudio: setup $(LABEL_STUDIO_STAMP)  ## start a Label Studio on this machine; prints what to export and the project's page
	@$(ENV) detloop labels serve --program "$(LABEL_STUDIO)"

labelstudio-stop: setup
	@$(ENV) detloop labels stop

loop: setup  ## two rounds on the sample, half labeled: train, mine, ask, answer from the true labels, retrain, gate, promote; then the report
	@rm -rf build/loop
	@$(ENV) detloop new build/loop
	@cd build/loop && $(subst PYTHONPATH="$(CURDIR)",PYTHONPATH="$(CURDIR)/build/loop",$(ENV)) sh -e -c '\
		detloop sample --unlabeled 0.5; \
		echo "== round 1"; dvc repro; detloop promote; \
		detloop queue accept --budget 100; detloop sample --answer 1; \
		echo "== round 2"; dvc repro label_sync; detloop suite confirm; dvc repro; \
		detloop promote || echo "the champion stays"; \
		echo "== the report of both rounds"; dvc repro; detloop report'

test: setup $(LABEL_STUDIO_STAMP)
	@$(ENV) LABEL_STUDIO_VENV="$(abspath $(LABEL_STUDIO_VENV))" python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

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
