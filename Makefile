# `make` lists the targets. Everything runs in .venv; nothing is installed outside the working tree.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## create .venv and install everything, at the versions in constraints.txt

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all]' --group dev
	@touch $@

run: install ## train lenet5 if the repository is empty, serve it, print how to call it
	$(BIN)/atril run

catalogue: install ## train, check and publish every architecture on data that needs no download
	$(BIN)/atril catalogue build

test: install lint ## lint, then all tests
	$(BIN)/pytest

lint: install ## ruff, mypy, import directions, generated stubs up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory proto-check

fmt: install ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: install ## generate the stubs of proto/
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=proto --grpc_python_out=proto \
	    --mypy_out=quiet:proto --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy proto/atril_proto/v1/*.proto

proto-check: proto
	@git diff --exit-code --stat -- proto || { echo "proto: run 'make proto' and commit the result"; exit 1; }

bench: install ## serve LeNet-5 and measure it beside the bare ONNX Runtime loop
	$(BIN)/python -m benchmarks.serving

soak: install ## ten minutes of mixed requests: is the resident memory flat?
	$(BIN)/python -m benchmarks.soak

smoke: ## start docker-compose.yml for real, ask it, break it (needs a docker engine)
	deploy/ci/compose-smoke.sh

up: ## build and start docker-compose
	docker compose up --build --detach --wait

down: ## stop docker-compose
	docker compose down

lock: ## write the installed versions to constraints.txt
	@sed -n '/^#/p' constraints.txt > constraints.new
	$(BIN)/pip freeze --all --exclude-editable | sed 's/+cpu$$//' | sort -f >> constraints.new
	@mv constraints.new constraints.txt

clean: ## remove what was built
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

.PHONY: help install run catalogue test lint fmt proto proto-check bench soak smoke up down lock clean
