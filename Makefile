PYTHON ?= python3
VENV ?= .venv
PROOF := .proof
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

# Idle threads of one process must not spin on the cores that another needs.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test proof bench lint format docs wheel names clean

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; got " + sys.version.split()[0] + ". Set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.ready
	$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.lint: $(VENV)/.ready
	$(PIP) --editable '.[lint,import,ray]'
	@touch $@

demo: $(VENV)/.ready  ## Start the server, sweep a planted feature through a real client, show the answer.
	@$(BIN)/mechinterp-runner demo

test: $(VENV)/.test  ## Run the whole suite.
	@$(BIN)/python -m pytest

lint: $(VENV)/.lint  ## Check style and types.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright

format: $(VENV)/.lint  ## Format the code.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

$(VENV)/.proof: $(VENV)/.test
	$(PIP) --editable '.[test,proof]'
	@touch $@

# A hidden folder: one of the npm packages holds a Python file, which is none of ours.
$(PROOF)/.ready: tests/proof/package.json tests/proof/package-lock.json tests/proof/.npmrc
	@mkdir -p $(PROOF)
	@cp $^ $(PROOF)/
	npm ci --prefix $(PROOF) --loglevel=error
	@touch $@

proof: $(VENV)/.proof $(PROOF)/.ready  ## Run the official MCP suites, the Inspector, the fuzzers and the load test.
	@MECHINTERP_PROOF=1 $(BIN)/python -m pytest tests/proof

bench: $(VENV)/.ready  ## Measure, and print a table with ratios.
	@$(BIN)/python -m mechinterp_runner.benchmarks

docs: $(VENV)/.ready  ## Fill the generated parts of the documentation.
	@$(BIN)/python docs/fill_pages.py

wheel:  ## Build a wheel into dist/.
	rm -rf build
	$(PYTHON) -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir dist .

names: $(VENV)/.test  ## The folder's name must not matter: run the fast tests in clones of two names.
	@BIN="$(abspath $(BIN))" bash tests/in_clones.sh mechinterp-runner project

clean:
	rm -rf $(VENV) $(PROOF) build dist *.egg-info .pytest_cache .ruff_cache
