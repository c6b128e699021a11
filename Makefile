# On a fresh machine: `make demo` and `make test`. Everything else is for developers.
PYTHON ?= python3
BIN := .venv/bin
# Processes that run tests; a file's tests stay in one, where they share what is slow to make.
WORKERS ?= 2
export HF_HUB_OFFLINE := 1
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test check lint type format proto serve evaluate train bench soak clean

demo: .venv/installed  ## start the server, judge the handwritten seven, print the ranking
	$(BIN)/python examples/demo.py

test: .venv/installed .venv-proto/installed
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

check: lint type

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: .venv/installed
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: .venv-proto/installed  ## regenerate the stubs beside the contract
	PATH=$(CURDIR)/.venv-proto/bin:$$PATH .venv-proto/bin/python proto/generate.py

serve: .venv/installed
	$(BIN)/adjudge-server

evaluate: .venv/installed  ## what the embedded critic scores on its held-out data
	PYTHONPATH=training $(BIN)/python -m embedded_critic.evaluate server/adjudge_server/embedded --exam --out build/evaluation.json

train: .venv/installed  ## train the embedded critic anew, into build/embedded
	PYTHONPATH=training $(BIN)/python -m embedded_critic.train --out build/embedded

bench: .venv/installed  ## what judgements cost, beside the floor and beside peers; BENCH=--quick: what the bars need
	$(BIN)/python -m benchmarks.engine $(BENCH)

soak: .venv/installed  ## half an hour of everything that a cluster does to a server; SOAK="--minutes 5": less
	$(BIN)/python -m tests.soak $(SOAK)

clean:
	rm -rf .venv .venv-proto build dist

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# The generator cannot share an environment with what uses its stubs: it wants an old protobuf.
.venv-proto/installed: proto/requirements.txt
	$(PYTHON) -m venv .venv-proto
	.venv-proto/bin/python -m pip install --disable-pip-version-check -q -r $<
	touch $@
