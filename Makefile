# One word a job; .ci/run calls the same words.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: up test setup style types layers bench check real image cluster cluster-test soak fuzz clean

up: .venv/.run  ## set up and run the main job: authority, demonstration broker and sidecar; DEMO=NAME runs a demonstration
	@$(BIN)/robin up $(if $(DEMO),--demo $(DEMO)) $(ARGS)

test: .venv/.dev  ## set up and pass the tests, in parallel; ARGS="-n 0 tests/wire" runs some of them in one process
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

setup: .venv/.run  ## leave the program at .venv/bin/robin

style: .venv/.dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: .venv/.dev
	@$(BIN)/mypy

layers: .venv/.dev
	@$(BIN)/lint-imports

check: style types layers test  ## everything a change must pass

bench: .venv/.run  ## compare speed and memory with other proxies, side by side
	@$(BIN)/python bench/run $(ARGS)

real: .venv/.dev  ## prove Robin against servers and clients we did not write
	@$(BIN)/python tests/real/run $(ARGS)

image: .venv/.run  ## Robin as an OCI image, with its bill of materials, in build/image; no daemon, no root
	@$(BIN)/python deploy/image/build $(ARGS)

cluster: .venv/.dev  ## a real one-node Kubernetes cluster in namespaces of its own; ARGS=--keep leaves it up and prints a KUBECONFIG
	@$(BIN)/python tests/cluster/run $(ARGS)

cluster-test: .venv/.dev  ## prove Robin in pods of that cluster
	@$(BIN)/python tests/cluster/run test $(ARGS)

soak: .venv/.dev  ## bounded soak: MINUTES=20 by default
	@$(BIN)/python tests/soak/run $(ARGS)

fuzz: .venv/.dev  ## coverage-guided fuzzing, SECONDS=60 a target by default
	@$(BIN)/python tests/fuzz/run $(ARGS)

.venv/.run: requirements/run.lock pyproject.toml
	@test -x $(BIN)/python || { echo "setting up .venv, once ..."; $(PYTHON) -m venv .venv; }
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/run.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e . && touch $@

.venv/.dev: .venv/.run requirements/dev.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.lock && touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache dist build
