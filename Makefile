# `make` lists the targets. Nothing has to be activated: each target makes the environment it needs.

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
TORCH ?=
PYTHON_GPU ?=
TRAIN ?= False

ifneq ($(words $(VENV)),1)
$(error VENV must be one path without spaces, got "$(VENV)")
endif

PY := $(VENV)/bin/python
ISMKIT := $(VENV)/bin/ismkit
# Two environments in one folder: `learn` for who reads and runs the notebooks, `all` for who works on the kit.
LEARN := $(VENV)/.ismkit-learn
ALL := $(VENV)/.ismkit-all
LEARN_SIZE := $(if $(TORCH),0.5 GB to download and 2.1 GB on disk,3.3 GB to download and 6.9 GB on disk)
ALL_SIZE := $(if $(TORCH),0.7 GB to download and 2.8 GB on disk,3.5 GB to download and 7.6 GB on disk)
RUN_GPU := $(if $(PYTHON_GPU),$(PYTHON_GPU),$(PY))
# The kernel `python3` of the environment goes before one of the same name in the user's home.
export JUPYTER_PREFER_ENV_PATH := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help venv demo lab test lint types unit notebooks browser book refresh bench gpu clean force

# An environment shared by two checkouts holds the one named in its stamp: install again if that is not this one.
ifneq "$(shell cat $(LEARN) 2>/dev/null)" "$(CURDIR)"
$(LEARN): force
endif
ifneq "$(shell cat $(ALL) 2>/dev/null)" "$(CURDIR)"
$(ALL): force
endif

$(LEARN): pyproject.toml constraints.txt
	$(call install,learn,$(LEARN_SIZE))
	@printf '%s\n' "$(CURDIR)" > $(LEARN)

$(ALL): pyproject.toml constraints.txt
	$(call install,all,$(ALL_SIZE))
	@printf '%s\n' "$(CURDIR)" | tee $(LEARN) > $(ALL)  # who has all has learn

# $(call install,EXTRA,SIZE): the stamps go first, so that an installation which fails leaves none.
define install
	@python="$(PYTHON)"; if [ -x $(PY) ]; then python=$(PY); fi; \
	command -v "$$python" >/dev/null || { echo "error: no '$$python' here. Name a Python 3.11 or later: make PYTHON=/path/to/python3" >&2; exit 1; }; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: ismkit needs Python 3.11 or later, and '$$python' is $$("$$python" --version 2>&1). Name another: make PYTHON=python3.12" >&2; exit 1; }
	@echo "== Environment in $(VENV): the extra $(1), at the versions of constraints.txt. The first time some minutes,"
	@echo "   $(2)$(if $(TORCH),, with the CUDA libraries that torch brings along on Linux; without them: book/installing.md)."
	@$(PY) -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv $(VENV) || { \
	  echo "error: no virtual environment. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@rm -f $(LEARN) $(ALL)
	$(PY) -m pip install $(PIP_FLAGS) -c constraints.txt setuptools
	$(if $(TORCH),$(PY) -m pip install $(TORCH) --no-deps -c constraints.txt torch torchvision)
	$(PY) -m pip install $(PIP_FLAGS) -c constraints.txt --no-build-isolation -e '.[$(1)]'
	@echo "== Environment ready: $(VENV)"
endef

help: ## list the targets
	@echo "make TARGET [VARIABLE=value]"
	@awk 'BEGIN { FS = ":.*## " } /^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile
	@echo "Variables: VENV=$(VENV) (the environment), PYTHON=$(PYTHON) (3.11 or later, makes it),"
	@echo "           PIP_FLAGS= (for pip install), TORCH= (for pip install of torch alone, to choose a build without CUDA),"
	@echo "           PYTHON_GPU= (for make gpu: a Python to use as it is)"

venv: $(ALL) ## create the environment, or bring it up to date

demo: $(LEARN) ## draw clothes and emoji in one step, and score the clothes (a minute; TRAIN=True trains first: minutes)
	@echo "== Notebook 00, profile laptop: samples at 1, 2, 4 and 128 evaluations, scores, emoji"
	$(ISMKIT) notebook 00 --profile laptop -p train $(TRAIN)
	@echo "== Left in out/: the executed notebook, the clothes (rows NFE, columns w), the emoji, the table"
	@find "$${ISMKIT_OUT:-out}" -type f \( -name '*.ipynb' -o -name '*.png' -o -name '*.csv' \) | sort

lab: $(LEARN) ## check the machine (doctor), then open notebook 00 in JupyterLab
	$(ISMKIT) lab

# Bars of progress are not shown, as in CI: they are outputs of a notebook, too.
# In two processes, which share out files and notebooks: on two cores three take longer, since those that they start
# compute too. Hundreds of processes import the kit: what Python has compiled is kept for the next one. glibc keeps the
# memory of large tensors for the next ones, instead of returning it to the system after each operation, and what tests
# start begins with the libraries in memory (tests/forks.py). The canary is a notebook that must fail: a test runs it.
KEEP := 268435456
PYTEST = CI=true OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=$(KEEP) MALLOC_TRIM_THRESHOLD_=$(KEEP) PYTHONDONTWRITEBYTECODE= \
  $(PY) -m pytest -n 2 -p tests.order -p tests.forks --durations=20
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=2400 --nbval-sanitize-with=tests/nbval.cfg \
  --ignore=tests/canary.ipynb

test: lint ## lint, types, unit tests, notebook tests, browser tests: what CI runs
	@echo "== Types (mypy), and in two workers of pytest all unit tests, notebooks (nbval), pages and widgets (Chromium)"
	@$(PY) -m mypy ismkit & types=$$!; \
	$(PYTEST) notebooks tests $(NBVAL); status=$$?; \
	wait $$types || { echo "error: mypy found wrong types: make types" >&2; exit 1; }; exit $$status

lint: $(ALL) ## style of code and notebooks (ruff)
	@echo "== Lint and format (ruff)"
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: $(ALL) ## types of the library (mypy)
	@echo "== Types (mypy)"
	@$(PY) -m mypy ismkit

unit: $(ALL) ## unit tests
	@echo "== Unit tests (pytest, two workers)"
	@$(PYTEST) -m "not browser"

notebooks: $(ALL) ## run every notebook and compare the outputs that are tagged for it (nbval)
	@echo "== Notebooks (nbval, two at a time; the slowest cells take minutes)"
	@$(PYTEST) notebooks $(NBVAL)

browser: $(ALL) ## try the book's pages, its live models, and widgets in JupyterLab (skipped without Chromium)
	@echo "== Book, live models and widgets in Chromium and Node (ISMKIT_BROWSER=required: fail where there is none)"
	@$(PYTEST) -m browser -rs

book: $(ALL) ## build the book: book/_build/html/index.html
	@echo "== Book (Sphinx)"
	@$(PY) book/build.py
	@echo "== Open book/_build/html/index.html"

refresh: $(ALL) ## run every notebook in place (profile laptop), to commit its outputs with its code
	@echo "== Notebooks in place, from clean kernels and an empty output folder"
	out=$$(mktemp -d) && CI=true ISMKIT_OUT="$$out" $(PY) -c 'import sys; from pathlib import Path; \
	  from ismkit.lessons.notebooks import refresh; [refresh(Path(name)) for name in sys.argv[1:]]' \
	  notebooks/*.ipynb && rm -r "$$out"

bench: $(ALL) ## measure on this CPU and append to tests/bench/RESULTS.md
	@echo "== Benchmarks on the CPU"
	$(PY) -m tests.bench --device cpu --append tests/bench/RESULTS.md

gpu: $(if $(PYTHON_GPU),,$(ALL)) ## GPU tests, then all benchmarks into tests/bench/RESULTS.md (about 20 minutes)
	@"$(RUN_GPU)" -c 'import sys, torch; torch.cuda.is_available() or sys.exit("error: torch %s sees no CUDA device here" % torch.__version__)'
	@echo "== GPU tests"
	"$(RUN_GPU)" -m pytest tests/test_gpu.py tests/evaluation/test_metrics.py -m gpu
	@echo "== Benchmarks on the GPU"
	"$(RUN_GPU)" -m tests.bench --device cuda --append tests/bench/RESULTS.md

clean: ## remove caches and build leftovers (not out/, not the environment)
	rm -rf build dist book/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis ismkit.egg-info
	find . -path ./$(VENV) -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
