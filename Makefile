# Everything starts from a clean clone: Python 3.11+, make and a C library are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Clients that others wrote, which must not change what the project itself is installed with.
CLIENTS := .venv-clients
# Cores and one more, at most five: many tests wait.
TEST_PROCESSES ?= $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count() or 1, 4) + 1)')
# A folder with mnist.npz, fashion_mnist.npz, ...; tests that need it skip with a reason where it is absent.
export SNF_DATA_DIR ?=
# One file for all platforms and all versions of Python from 3.11 on.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-annotate --custom-compile-command 'make lock'

PIP := PYTHONUNBUFFERED=1 $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off
# Its steps in a few lines: its own are hundreds, and with --quiet it says nothing for minutes.
STEPS := { found=0; while read -r word rest; do case "$$word $$rest" in \
  *.metadata*) ;; \
  Collecting*) found=$$((found + 1)); [ $$((found % 25)) -ne 0 ] || echo "  $$found packages found" ;; \
  Downloading*[MG]B*) echo "  downloads $$rest" ;; \
  "Installing collected"*) echo "  installs them ..." ;; \
  pip-failed*) exit 1 ;; esac; done; }

.PHONY: up test lint types tests test-browser docs notebooks lock sbom wheels clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

up: $(VENV)/installed  ## install what is missing, start broker, worker and service
	@SNF_URL= nice $(BIN)/snf backbones add efficientnet-lite0 --quiet || echo "Feature models need it; all others work." >&2 & \
	  exec $(BIN)/snf up

test: lint  ## lint, type check, all tests but those of the pages, with coverage
	@$(MAKE) --no-print-directory --jobs=2 types tests

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Half a minute of a core at a low priority: beside it the tests leave cores idle for longer than that.
types: $(VENV)/installed-test
	nice $(BIN)/mypy

tests: $(VENV)/installed-test $(CLIENTS)/installed
	$(BIN)/coverage erase
	# One thread a process: threads that wait for each other burn time.
	# Hundreds of processes are started: none of them should compile again what another one has compiled.
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(TEST_PROCESSES) \
	  --ignore tests/browser --dist loadfile --no-loadscope-reorder --cov --cov-report=term

test-browser: $(VENV)/installed-test  ## the pages' tests, in a Chromium that is downloaded where there is none
	@[ -n "$$SNF_CHROMIUM" ] || command -v chromium-headless-shell || command -v chromium || command -v chromium-browser || \
	  command -v google-chrome || $(BIN)/python -m playwright install --no-shell chromium || \
	  { echo "Without its libraries: sudo $(BIN)/python -m playwright install --with-deps chromium" >&2; exit 1; }
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/browser

docs: $(VENV)/installed-docs  ## write build/api, pages of the library, the client and the runner from their docstrings
	$(BIN)/pdoc --docformat google --output-directory build/api snf_models snf_client snf_runtime

notebooks: $(VENV)/installed-docs  ## run examples/notebooks and store their outputs
	$(BIN)/jupyter execute --inplace examples/notebooks/*.ipynb

lock: $(VENV)/installed-release  ## write docker/*.lock anew: the newest versions that fit, with hashes of all their files
	$(LOCK) --upgrade --excludes docker/not-locked.txt --extra features \
	  pyproject.toml client/pyproject.toml runtime/pyproject.toml docker/build.in --output-file docker/requirements.lock
	$(LOCK) --upgrade docker/sbom.in --output-file docker/sbom.lock

sbom: $(VENV)/installed $(VENV)/installed-release  ## write build/sbom.json, a CycloneDX list of all that is installed in .venv
	@mkdir -p build
	$(BIN)/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-reproducible --output-file build/sbom.json

wheels: $(VENV)/installed-release  ## write dist/, wheels and sdists of all three distributions, and try them in an empty environment
	rm -rf dist build/try
	for folder in client runtime .; do $(BIN)/python -m build --outdir dist $$folder || exit 1; done
	$(PYTHON) -m venv build/try
	build/try/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd build/try && export SNF_HOME=$$PWD/home && bin/snf score $(CURDIR)/tests/data/mnist && \
	  bin/snf export mnist-snf-glow exported && bin/snf-density-runtime exported $(CURDIR)/tests/data/mnist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=python3.12 ..." >&2; exit 1; }
	@# Where pip cannot be added, as on Debian without the package python3-venv, the next try begins anew.
	@$(PYTHON) -m venv $(VENV) || { rm -f $@; exit 1; }

$(VENV)/installed: pyproject.toml client/pyproject.toml runtime/pyproject.toml | $(BIN)/python
	@echo "Installs into $(VENV) (a few minutes at the first time) ..."
	@{ $(PIP) --editable ./client --editable ./runtime --editable '.[features]' || echo pip-failed; } | $(STEPS)
	@touch $@

$(VENV)/installed-test: pyproject.toml client/pyproject.toml runtime/pyproject.toml | $(BIN)/python
	@{ $(PIP) --editable ./client --editable ./runtime --editable '.[features,onnx,ray,tensorboard,test]' || echo pip-failed; } | $(STEPS)
	@touch $@ $(VENV)/installed

# One notebook imports the test suite.
$(VENV)/installed-docs: $(VENV)/installed-test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

# Their files are not compiled: the tests import a tenth of them.
$(CLIENTS)/installed: tests/end_to_end/foreign_clients/requirements.txt | $(BIN)/python
	@$(BIN)/python -m venv $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --requirement $< && touch $@ || \
	  echo "Foreign clients cannot be installed: their tests are skipped." >&2

$(VENV)/installed-release: pyproject.toml | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'build>=1.2,<2' 'uv>=0.11,<1' --requirement docker/sbom.in
	@touch $@

clean:  ## remove what was installed and built; keeps var/, where models and jobs live
	rm -rf $(VENV) $(CLIENTS) build dist *.egg-info client/build client/dist client/*.egg-info runtime/build runtime/dist runtime/*.egg-info .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache
