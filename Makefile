# Everything on a fresh machine: `make demo` audits the bundled example, `make test` runs the test suite.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# One process per core, four at most: each takes a gigabyte. A test is given to whoever is free.
TESTS := $(BIN)/pytest -n logical --maxprocesses 4 --dist worksteal

.PHONY: demo test coverage check lint docs screenshot clean system

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# WeasyPrint needs Pango for the PDF. Installed where we may, named where we may not.
system:
	@.ci/system-packages

demo: system $(INSTALLED)
	$(BIN)/python examples/quickstart/make_example.py
	$(BIN)/leakaudit scan examples/quickstart/model.onnx --batch examples/quickstart/batch.npz \
		--mean 0.5 --std 0.25 --preset quick --seed 165 --fail-on never --out demo-report
	@echo "Open demo-report/report.html or demo-report/report.pdf"

test: system $(INSTALLED)
	$(TESTS)

# The same tests, with the lines that they reach and a floor; sys.monitoring makes that cheap from Python 3.12 on.
coverage: system $(INSTALLED)
	COVERAGE_CORE=$$($(BIN)/python -c "import sys; print('sysmon' if sys.version_info >= (3, 12) else 'ctrace')") \
		$(TESTS) --cov --cov-report=term:skip-covered

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Warnings are errors: a link, a page or a docstring that is missing.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The picture in the README, from the report of the demo; needs poppler-utils.
screenshot: demo
	pdftoppm -png -r 60 -f 1 -l 1 -singlefile demo-report/report.pdf docs/images/report

check: lint docs coverage

clean:
	rm -rf $(VENV) dist build demo-report leakaudit-report .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	rm -f examples/quickstart/model.onnx examples/quickstart/batch.npz
