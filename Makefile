# `make demo` and `make test` make their own environment in .venv first.
PYTHON ?= python3
VENV := .venv
TPU_VENV := .venv-tpu
SERVING_VENV := .venv-serving
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

EXAMPLES := japanese_vowels ocr_letters newspapers shakespeare pronounce documents sunspots \
	carbon_dioxide memory_policy ppo_memory long_series own_cell port_tf1_g2p

FUZZ := tests/test_random_calls.py tests/interop/test_fuzzed_files.py

.PHONY: demo examples notebooks docs test distributed tpu serving test-newest fuzz faults golden benchmarks lint clean

demo: $(VENV)/demo
	$(BIN)/python examples/japanese_vowels.py $(ARGS)

# All of them, for half an hour; ARGS=--smoke shows only that the loss of each falls.
examples: $(VENV)/demo
	set -e; for each in $(EXAMPLES); do $(BIN)/python examples/$$each.py $(ARGS); done

# ARGS=--write keeps what they print and draw.
notebooks: $(VENV)/tests
	$(BIN)/python examples/notebooks.py $(ARGS)

# The site, in .cache/site; `cd .cache/site && python -m http.server` shows it.
docs: $(VENV)/tests
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# ARGS=--full runs every engine, dtype and x64.
test: $(VENV)/tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

# Several processes on this machine, which train, crash and go on.
distributed: $(VENV)/tests
	JAX_DYNRNN_DISTRIBUTED=1 $(BIN)/python -m pytest tests/distributed $(ARGS)

# Compiles for TPUs, without one.
tpu: $(TPU_VENV)/tpu
	$(TPU_VENV)/bin/python -m pytest -n 2 tests/tpu $(ARGS)

# Exports models to ONNX and LiteRT, and runs them.
serving: $(SERVING_VENV)/serving
	$(SERVING_VENV)/bin/python -m pytest -n 2 tests/serving docs/serving.md $(ARGS)

# The same suite on the newest Python that is found, with the newest jax and flax.
test-newest:
	$(MAKE) test PYTHON=$$(sh tests/newest_python.sh) VENV=.venv-newest ARGS="$(ARGS)"

# Random calls and random files, new ones in each run, for about an hour.
fuzz: $(VENV)/tests
	$(BIN)/python -m pytest $(FUZZ) --hypothesis-profile=long $(ARGS)

# Plants faults one at a time; the suite must catch each.
faults: $(VENV)/tests
	$(BIN)/python tests/faults.py

# Makes the golden files anew, with TensorFlow.
golden: $(VENV)/tests
	$(BIN)/python tests/golden/make_golden.py

# Ours and every peer, for about an hour; ARGS=--short shows only that all are alive, and
# ARGS=--resume goes on with a run that was cut off.
benchmarks: $(VENV)/tests
	$(BIN)/python -m benchmarks $(ARGS)

lint: $(VENV)/tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python tests/type_completeness.py $(BIN)/pyright

$(VENV)/demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[examples]"
	touch $@

$(VENV)/tests: $(VENV)/demo
	$(BIN)/python -m pip install --quiet --editable ".[examples,oracles]" --group tests --group dev --group docs
	touch $@

$(TPU_VENV)/tpu: pyproject.toml
	$(PYTHON) -m venv $(TPU_VENV)
	$(TPU_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(TPU_VENV)/bin/python -m pip install --quiet --editable . --group tpu
	touch $@

$(SERVING_VENV)/serving: pyproject.toml
	$(PYTHON) -m venv $(SERVING_VENV)
	$(SERVING_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(SERVING_VENV)/bin/python -m pip install --quiet --editable . --group serving
	touch $@

clean:
	rm -rf .venv .venv-newest .venv-tpu .venv-serving .cache .pytest_cache .ruff_cache
