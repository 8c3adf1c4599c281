# Python 3.10 to 3.13, pip and make are all that is needed; PYTHON=python3.12 chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

.PHONY: install demo test test-slow lint style duplicates bench docs lock release clean

# The package as a user gets it; updated when the dependencies change, made anew for another Python.
$(STAMP): setup.cfg setup.py pyproject.toml
	test -e $@ || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

# The same with what the tests and the linter need.
$(STAMP)-test: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/tfdfd detect tfdfd/samples --report demo_report.html
	@echo "The report page is $(CURDIR)/demo_report.html"

style: $(STAMP)-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Not part of `test`: a new release of a library may change its types.
lint: style
	$(BIN)/mypy

# Pairs of ten equal lines or more, without comments, docstrings and imports.
duplicates: $(STAMP)-test
	$(BIN)/pylint --disable=all --enable=duplicate-code --min-similarity-lines=10 --ignore-comments=y --ignore-docstrings=y \
		--ignore-imports=y tfdfd tools benchmarks

# Two files at a time, in the order of tests/conftest.py: most tests keep one core busy.
test: style
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder --durations 25

test-slow: $(STAMP)-test
	$(BIN)/python -m pytest

BENCHMARKS = detect inference reseption extract pipelines self_blend bottleneck explain \
	training serving fuzz kills soak scale cost

# The rival of the training benchmark is PyTorch: gigabytes, which no test needs.
$(STAMP)-bench: $(STAMP)-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,bench]'
	touch $@

# All of them, even after one that misses its limits: the status says so at the end.
bench: $(STAMP)-bench
	status=0; for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name || status=1; done; exit $$status

$(STAMP)-docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

docs: $(STAMP)-docs
	$(BIN)/python -m mkdocs build --quiet
	@echo "The site is $(CURDIR)/build/site/index.html"

$(STAMP)-release: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[release]'
	touch $@

# What a deployment installs: detection and the server on Python 3.10 and later, every file with its hash.
lock: $(STAMP)-release
	$(BIN)/uv pip compile setup.cfg --extra edge --extra heif --extra serve --universal --python-version 3.10 \
		--upgrade --generate-hashes --no-annotate --custom-compile-command "make lock" --quiet -o requirements.lock

# The committed sources as sdist and wheel of reproducible bytes, their bill of materials, and digests.
release: $(STAMP)-release
	$(BIN)/python -m tools.release

clean:
	rm -rf $(VENV) build dist *.egg-info demo_report.html demo_report.record.json
