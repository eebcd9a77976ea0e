# Each target makes the environment that it needs, in .venv. Use another Python with
# `make PYTHON=python3.12 …`; keep the data elsewhere with the variable COURSE_DATA.

PYTHON ?= python3
BIN := .venv/bin
BENCH := .venv-bench/bin
# The environment is up to date when the stamp for exactly these two files exists.
STAMP := .venv/installed-$(shell cat requirements.txt pyproject.toml | cksum | cut -d ' ' -f 1)
MATHJAX := _build/extra/mathjax/tex-chtml-full.js
BENCH_STAMP := .venv-bench/installed-$(shell cat tests/bench/requirements.txt | cksum | cut -d ' ' -f 1)
LAB := .venv/share/jupyter/lab/settings/overrides.json

# Two busy threads per process can be many times slower than one; pages run side by side instead.
export OMP_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: book test strict lab data results bench lint clean
.SILENT:

book: $(STAMP) $(MATHJAX)  ## run what changed, build the pages
	status=0; $(BIN)/python freshness.py || \
	$(BIN)/python -m pytest -q --no-header --stale chapters || status=$$?; \
	$(BIN)/jupyter-book build -q . >_build/book.log && \
	echo "Open _build/html/index.html" && exit $$status

test: $(STAMP)  ## all tests; every page is one
	$(BIN)/python -m pytest

strict: $(STAMP) $(MATHJAX)  ## the build that CI accepts
	PATH="$(CURDIR)/$(BIN):$$PATH" .ci/strict .

lab: $(STAMP) $(LAB)  ## a chapter opens as a notebook by a double click
	$(BIN)/jupyter lab --FileCheckpoints.checkpoint_dir="$(CURDIR)/_build/checkpoints" $(ARGS)

data: $(STAMP)  ## fetch CIFAR-10 into data/
	$(BIN)/python -m course_lib.data

results: $(STAMP)  ## run what the studies still need; MERGE=path joins records
	$(BIN)/python -m course_lib.experiments $(if $(MERGE),--merge "$(MERGE)") $(ARGS)

bench: $(STAMP) $(BENCH_STAMP)  ## time the course against its peers; ARGS names rows
	env -u OMP_NUM_THREADS $(BENCH)/python tests/bench/bench.py $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check -q .
	$(BIN)/ruff format -q --check .

clean:  ## all that was built; keeps .venv and data
	rm -rf _build build .pytest_cache .ruff_cache .hypothesis *.egg-info
	find chapters course_lib tests -name __pycache__ -prune -exec rm -rf {} +

$(STAMP):
	echo "Installing the tools into .venv (once, some minutes)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq -r requirements.txt
	rm -f .venv/installed-*
	touch $@

$(BENCH_STAMP):
	echo "Installing the peers into .venv-bench (once, some minutes)"
	test -x $(BENCH)/python || $(PYTHON) -m venv .venv-bench
	$(BENCH)/python -m pip install -qq -r tests/bench/requirements.txt
	rm -f .venv-bench/installed-*
	touch $@

# MathJax is copied out of an installed package: pages then need no network, and git holds no copy.
$(MATHJAX): $(STAMP)
	from="$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"; \
	from="$$from/sphinx-mathjax-offline/static/mathjax"; \
	mkdir -p $(@D)/output/chtml/fonts && \
	cp -R "$$from/output/chtml/fonts/woff-v2" $(@D)/output/chtml/fonts/ && \
	cp "$$from/tex-chtml-full.js" $@

$(LAB): $(STAMP)
	mkdir -p $(@D)
	{ echo '{"@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"markdown": "Jupytext Notebook"}},'; \
	  echo ' "@jupyterlab/apputils-extension:notification": {"checkForUpdates": false, "fetchNews": "false"}}'; } > $@
