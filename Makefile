# `make run` and `make test` set up everything they need in .venv (Python 3.11 or later, git).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

KERNELS := $(VENV)/.kernels

.PHONY: run test test-versions lint bench validate sparse-check serving findings docs site docs-check answers figures browser clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# For the checks of the Triton kernels, on the CPU. This triton last: a torch may bring one of its own.
$(KERNELS): $(STAMP)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet triton==3.9.0
	touch $@

run: $(STAMP)  ## Simulate the bundled scenario; the files land in out/.
	$(BIN)/kinesim run aime24-best-of-32 --out out

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

browser: $(STAMP)  ## Chromium for the tests of pages, from the system's packages where that is allowed.
	$(BIN)/python tests/browser.py

test: $(KERNELS) lint browser  ## All checks: lint, types, tests.
	$(BIN)/python -m pytest -n 2

test-versions: $(KERNELS)  ## The kernels' checks over versions of torch and triton (installs each; many GB).
	$(BIN)/python tests/kernel_versions.py

bench: $(STAMP)  ## Scenarios A to E, growth, naive engine, start-up; writes bench.json.
	$(BIN)/python tests/bench.py

validate: $(STAMP)  ## Held-out shapes and left-out GPUs of the measured tables; writes docs/validation.md and validation-modern.md.
	$(BIN)/python -m calibration.validate_page

sparse-check: $(STAMP)  ## Sparse attention as modelled beside measured kernels; writes docs/sparse-check.md.
	$(BIN)/python -m calibration.sparse_page

# TABLE=FILE measures against a table of your own.
serving: $(STAMP)  ## Measured deployments beside predictions; writes docs/serving.md and serving-disaggregated.md.
	$(BIN)/python -m calibration.serving_page $(TABLE)
	$(if $(TABLE),,$(BIN)/python -m calibration.serving_pools_page)

findings: $(STAMP)  ## The Kinetics paper's claims, by the law and simulated; writes docs/findings.md.
	$(BIN)/python -m simulator.law.findings.page

docs: $(STAMP)  ## Regenerate the pages that come from the code.
	$(BIN)/python docs/generate.py

DOCS := $(VENV)/.docs

$(DOCS): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

site: $(DOCS)  ## The documentation as a site in site/, readable without a network; broken links are errors.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

docs-check: $(STAMP)  ## Every code block of README and docs, those that take minutes too.
	KINESIM_SLOW_DOCS=1 $(BIN)/python -m pytest tests/test_code_blocks.py -rs

answers: $(STAMP)  ## The head of the README: three questions, their answers and a picture of them (minutes).
	$(BIN)/python docs/answers.py

figures: $(STAMP)  ## Redraw the pictures of the README.
	$(BIN)/kinesim graph aime24-best-of-32 --batch 64 --context 8192 --out docs/decode-step.svg
	$(BIN)/kinesim roofline aime24-best-of-32 --batch 64 --context 8192 --query 2048 --out docs/roofline.png
	$(BIN)/kinesim law frontier --cost law,simulated --unit seconds --out docs/law-frontier.png

clean:
	rm -rf $(VENV) .versions out site bench.json build dist *.egg-info
