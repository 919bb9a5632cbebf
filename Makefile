# `make demo` and `make test` set everything up in .venv; nothing outside this folder is changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-long lint format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/lodos demo

test: $(VENV)/.installed-test $(VENV)/.installed-skypilot $(VENV)/.installed-libtpu $(VENV)/.installed-cuda
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

test-long: $(VENV)/.installed-test $(VENV)/.installed-skypilot $(VENV)/.installed-libtpu $(VENV)/.installed-cuda $(VENV)/.installed-llama-cpp
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m 'long or not long'

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"lodos needs Python 3.11 or newer; {sys.executable} is {v[0]}.{v[1]}. Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	@echo "Installing lodos into $(VENV) (JAX, Transformers, ...): a minute or two the first time."
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.created pyproject.toml
	@echo "Installing lodos and what its tests need (torch, PEFT, ...) into $(VENV): a few minutes the first time."
	$(PIP_INSTALL) --editable '.[test]'
	@touch $@ $(VENV)/.installed

# Apart, since it pins what lodos does not; a test has it read infra/sky.
$(VENV)/.installed-skypilot: $(VENV)/.created
	$(PYTHON) -m venv --clear $(VENV)/skypilot
	$(VENV)/skypilot/bin/python -m pip install --quiet --disable-pip-version-check 'skypilot>=0.14,<0.15'
	@touch $@

# Apart, since JAX looks for a TPU in every process that can import it.
$(VENV)/.installed-libtpu: $(VENV)/.created
	$(PIP_INSTALL) --target $(VENV)/libtpu 'libtpu>=0.0.42,<0.1'
	@touch $@

# Apart too, and without NVIDIA's libraries: to compile for a card that is not there takes none of them.
$(VENV)/.installed-cuda: $(VENV)/.installed-test
	$(PIP_INSTALL) --target $(VENV)/cuda "jax-cuda13-plugin==$$($(BIN)/python -c 'import jaxlib; print(jaxlib.__version__)')"
	@touch $@

# For the long tests alone: it is compiled, which takes minutes.
$(VENV)/.installed-llama-cpp: $(VENV)/.installed-test
	$(PIP_INSTALL) 'llama-cpp-python>=0.3.36,<0.4'
	@touch $@

clean:
	rm -rf $(VENV)
