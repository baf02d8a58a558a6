# What a user and a developer of Playhead run. Needs make and Python 3.11 to 3.14, nothing else.

export PYTHON
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Tests wait for servers more than they compute: four at a time fill two cores, and take 3 minutes
# instead of 7.
WORKERS ?= 4
ARGS ?=

# Named after the place, so that a tree that was moved or copied installs again.
PLACE := $(shell pwd -P | cksum | cut -d ' ' -f 1)
RUN := .venv/.run-$(PLACE)
DEV := .venv/.dev-$(PLACE)
PIP := .venv/bin/python -m pip --quiet install --require-hashes
PROJECT := .venv/bin/python -m pip --quiet install --no-deps --no-build-isolation --editable .

.PHONY: help run demo test check format soak bench coverage lock clean

help:
	@echo 'make run       start Playhead with the example configuration, data in ./data'
	@echo 'make demo      capture a busy database and look at its past, data in ./demo-data'
	@echo 'make test      run the tests (ARGS="-k name" to choose, WORKERS=0 for one after another)'
	@echo 'make check     lint, formatting and types'
	@echo 'make format    put the formatting right'
	@echo 'make soak      run the long proofs'
	@echo 'make bench     measure it all beside limit, naive way and peer (ARGS="--quick" for a look)'
	@echo 'make coverage  run the tests and print branch coverage'
	@echo 'make lock      resolve the dependencies again (UPGRADE=1 for their newest versions)'
	@echo 'make clean     remove what was installed and cached; data stays'

run: $(RUN)
	@exec .venv/bin/playhead serve --config gateway/example/config.yaml --data-dir data --load-example $(ARGS)

# With what the tests need, a PostgreSQL among it.
demo: $(DEV)
	@exec .venv/bin/playhead demo $(ARGS)

test: $(DEV)
	.venv/bin/python -m pytest -n $(WORKERS) $(ARGS)

check: $(DEV)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: $(DEV)
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

soak: $(DEV)
	.venv/bin/python -m pytest -m soak --timeout 7200 -s $(ARGS)

bench: $(DEV)
	.venv/bin/python -m bench $(ARGS)

coverage: $(DEV)
	.venv/bin/python -m coverage run -m pytest $(ARGS)
	.venv/bin/python -m coverage combine --quiet
	.venv/bin/python -m coverage report --skip-covered

$(RUN): requirements.lock requirements-build.lock pyproject.toml
	@.ci/make-venv
	@echo 'Installing the locked dependencies'
	@$(PIP) -r requirements.lock -r requirements-build.lock
	@$(PROJECT)
	@touch $(RUN)

$(DEV): requirements-dev.lock requirements-build.lock pyproject.toml
	@.ci/make-venv
	@echo 'Installing the locked dependencies, tests and tools among them'
	@$(PIP) -r requirements-dev.lock -r requirements-build.lock
	@$(PROJECT)
	@touch $(RUN) $(DEV)

# One set of versions for every Python and platform; the other two files follow the first.
LOCK := .venv/bin/uv pip compile --quiet --no-header --universal --python-version 3.11 \
	--generate-hashes $(if $(UPGRADE),--upgrade)

lock: $(RUN)
	.venv/bin/python -m pip --quiet install uv
	$(LOCK) pyproject.toml --output-file requirements.lock
	$(LOCK) --group build --constraint requirements.lock --output-file requirements-build.lock
	$(LOCK) pyproject.toml --extra dev --constraint requirements.lock \
		--constraint requirements-build.lock --output-file requirements-dev.lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .schemathesis .coverage* dist
