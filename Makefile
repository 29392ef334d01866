# Everything runs in .venv, which is built on first use from pyproject.toml; git, make and Python >= 3.11 are enough.
#   make demo | test | test-long | lint | proof | mutation | benchmark | install | install-rocm | clean

# The first Python >= 3.11 on this machine; another one: make PYTHON=/path/to/python install
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
# Which PyTorch: auto, cpu, cu130, rocm6.4 ... (`uv pip install --help`). auto looks at the GPU and its driver.
TORCH_BACKEND ?= auto
# uv of this machine, else our own copy in .uv/.
UV ?= $(shell command -v uv || echo .uv/bin/uv)

RUN := .venv/bin/python
INSTALLED := .venv/installed
EXTRAS := dev

.PHONY: install install-rocm test test-long lint demo proof mutation benchmark clean
.DEFAULT_GOAL := install

install: $(INSTALLED)

# The stamp is older than pyproject.toml after a change of it, and only then is anything installed again.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 found; install one or name it: make PYTHON=/path/to/python $(MAKECMDGOALS)"; exit 1; }
	@test -x "$(UV)" || $(MAKE) --no-print-directory .uv/bin/uv PYTHON="$(PYTHON)"
	@test -x $(RUN) || "$(UV)" venv --quiet --python "$$("$(PYTHON)" -c 'import sys; print(sys.executable)')" .venv
	@UV="$(UV)" PYTHON="$(PYTHON)" TORCH_BACKEND="$(TORCH_BACKEND)" EXTRAS="$(EXTRAS)" sh tools/install.sh
	@touch $@

# With pip alone: a Debian without python3-venv still has it. Where pip is missing, venv brings its own.
.uv/bin/uv:
	@echo "Fetching uv into .uv/"
	@if "$(PYTHON)" -m pip --version >/dev/null 2>&1; then "$(PYTHON)" -m pip install --quiet --target .uv uv; \
	else "$(PYTHON)" -m venv .uv && .uv/bin/python -m pip install --quiet uv; fi

# uv asks the machine for its AMD GPU. Where it finds none, name the version: make install-rocm TORCH_BACKEND=rocm6.4
install-rocm: $(INSTALLED)
	@$(RUN) -c 'import sys, torch; sys.exit(torch.version.hip is None)' || { \
	echo "error: uv chose a PyTorch without ROCm; name yours: make clean && make install-rocm TORCH_BACKEND=rocm6.4"; exit 1; }

test: $(INSTALLED)
	$(RUN) -m pytest

test-long: $(INSTALLED)
	$(RUN) -m pytest -m long

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

demo: $(INSTALLED)
	$(RUN) main.py demo

# docs/proof.md: every formula measured against an independent oracle and against TRL.
proof: $(INSTALLED)
	$(RUN) -m proof

# Do the tests notice a broken formula? Tens of minutes; the record is part of docs/proof.md.
mutation: $(INSTALLED)
	$(RUN) -m proof.mutation

# Every method beside TRL: benchmarks/results/ and docs/images/benchmark.png. For a quiet machine.
benchmark: $(INSTALLED)
	$(RUN) -m benchmarks

clean:
	rm -rf .venv .uv build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
