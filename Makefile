# `make run` and `make test` set up everything they need in .venv (Python 3.11 or later, git).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test lint bench validate docs figures clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

run: $(STAMP)  ## Simulate the bundled scenario; the files land in out/.
	$(BIN)/kinesim run aime24-best-of-32 --out out

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(STAMP) lint  ## All checks: lint, types, tests.
	$(BIN)/python -m pytest -n 2

bench: $(STAMP)  ## Scenarios A to E, growth, naive engine, start-up; writes bench.json.
	$(BIN)/python tests/bench.py

validate: $(STAMP)  ## Held-out shapes and left-out GPUs of the measured tables; writes docs/validation.md.
	$(BIN)/python -m calibration.validate_page

docs: $(STAMP)  ## Regenerate the pages that come from the code.
	$(BIN)/python docs/generate.py

figures: $(STAMP)  ## Redraw the pictures of the README.
	$(BIN)/kinesim graph aime24-best-of-32 --batch 64 --context 8192 --out docs/decode-step.svg
	$(BIN)/kinesim roofline aime24-best-of-32 --batch 64 --context 8192 --query 2048 --out docs/roofline.png

clean:
	rm -rf $(VENV) out bench.json build dist *.egg-info
