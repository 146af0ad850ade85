# One word a job. `make demo` and `make test` do all their set-up by themselves.
PYTHON ?= python3
VENV ?= .venv
FUZZ_SECONDS ?= 60
STRESS_SECONDS ?= 600
BIN = $(VENV)/bin
NATIVE = setup.py pyproject.toml $(wildcard src/websocket_handler/connection/inbox.p* src/websocket_handler/engine/*.p* src/websocket_handler/engine/core/*)

.PHONY: demo cluster-demo test test-all outage autobahn-compression lint format sanitize bench bench-quick bench-broadcast bench-blocking bench-compression bench-slow-member bench-guard soak scorecard fuzz stress bench-deflaters dist wheel prose-check clean

demo: $(VENV)/.installed
	$(BIN)/python -m websocket_handler

# The chat on three servers behind haproxy, with Redis.
cluster-demo: $(VENV)/.test-ready
	$(BIN)/python examples/chat/cluster.py

# Two files at a time: most tests wait for a server most of the time.
test: $(VENV)/.test-ready
	$(BIN)/python -m pytest tests --numprocesses 2 --dist loadfile

# The suite on every Python from 3.10 on that is here, with and without the native engine.
test-all:
	scripts/test-all

# The brokers of the rooms killed under load, at full scale: some minutes.
outage: $(VENV)/.test-ready
	ROOMS_OUTAGE_MESSAGES=100000 $(BIN)/python -m pytest tests/rooms/test_outage.py

# Autobahn's cases about permessage-deflate, all of them, in every home: half an hour.
autobahn-compression: $(VENV)/.test-ready
	AUTOBAHN_COMPRESSION=all $(BIN)/python -m pytest tests/end_to_end/test_autobahn.py -k compression

lint: $(VENV)/.test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test-ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The native part with AddressSanitizer and UndefinedBehaviorSanitizer, and the suite on it.
sanitize:
	scripts/sanitize

# Every fuzz target for FUZZ_SECONDS, two at a time; see fuzz/README.md.
fuzz: fuzz/build/ready
	scripts/fuzz all $(FUZZ_SECONDS)

# Listeners that do everything they should not, for STRESS_SECONDS in each mode; see fuzz/README.md.
stress: fuzz/build/ready
	scripts/stress $(STRESS_SECONDS)

# Ours beside its peers and the limits of the machine; see benchmarks/.
bench: benchmarks/build/ready
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/report.py

bench-quick: benchmarks/build/ready
	$(BIN)/python benchmarks/run.py --quick
	$(BIN)/python benchmarks/report.py

# The same for compressed messages.
bench-compression: benchmarks/build/ready
	$(BIN)/python benchmarks/compression.py

# One message to many: rooms beside a loop of send() in C and websockets' broadcast().
bench-broadcast: benchmarks/build/ready
	$(BIN)/python benchmarks/broadcast.py

# What the other members of a room feel of one that never reads.
bench-slow-member: $(VENV)/.installed
	$(BIN)/python benchmarks/slow_member.py

# What others feel of listeners that block.
bench-blocking: $(VENV)/.installed benchmarks/build/load
	$(BIN)/python benchmarks/blocking.py

# Which library should compress, and what idle compressed connections hold.
bench-deflaters: benchmarks/build/ready
	dpkg -s libisal-dev libdeflate-dev >/dev/null || \
		apt-get install -y --no-install-recommends libisal-dev libdeflate-dev
	$(CC) -O3 -Wall -Wextra -shared -fPIC -o benchmarks/build/deflaters.so \
		benchmarks/programs/deflaters.c -lz -lisal -ldeflate
	benchmarks/.venv/bin/python benchmarks/deflaters.py
	$(BIN)/python benchmarks/compression_memory.py

# Instructions of fixed work, against those recorded in benchmarks/instructions.json.
bench-guard: $(VENV)/.test-ready
	command -v valgrind || apt-get install -y --no-install-recommends valgrind
	$(BIN)/python benchmarks/guard.py

# The attacks of tests/attacks at full scale, and the histories of rooms: some hours.
soak: $(VENV)/.test-ready
	ATTACKS=full $(BIN)/python -m pytest tests/attacks tests/rooms/test_loss_property.py --timeout=0

# The same at the suite's scale, unless ATTACKS=full, with the figures in docs/scorecard.md.
scorecard: $(VENV)/.test-ready benchmarks/build/load
	$(BIN)/python -m tests.attacks.scorecard

dist: $(VENV)/.test-ready
	$(BIN)/python -m build

# A stripped wheel for this machine's platform, as released.
wheel: $(VENV)/.test-ready
	PYTHON=$(BIN)/python scripts/build-wheel

prose-check:
	scripts/prose-check

clean:
	rm -rf .venv* build dist fuzz/build src/*.egg-info tests/peers/node_modules
	find src -name '*.so' -delete
	find src -name '*.c' -not -path '*/core/*' -delete

$(VENV)/.installed: $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.test-ready: $(VENV)/.installed tests/peers/package.json scripts/install-test-peers
	$(BIN)/python -m pip install --quiet --group dev
	scripts/install-test-peers
	touch $@

benchmarks/build/load: benchmarks/programs/load.c
	mkdir -p benchmarks/build
	$(CC) -O3 -Wall -Wextra -o $@ $<

benchmarks/build/ready: $(VENV)/.test-ready benchmarks/requirements.txt benchmarks/package.json benchmarks/build/load $(wildcard benchmarks/programs/*.c)
	$(PYTHON) -m venv benchmarks/.venv
	benchmarks/.venv/bin/python -m pip install --quiet --upgrade pip
	benchmarks/.venv/bin/python -m pip install --quiet --requirement benchmarks/requirements.txt
	npm install --prefix benchmarks --silent --no-audit --no-fund
	$(CC) -O3 -Wall -Wextra -o benchmarks/build/limit benchmarks/programs/limit.c -lz
	$(CC) -O3 -Wall -Wextra -o benchmarks/build/send_all benchmarks/programs/send_all.c
	touch $@

fuzz/build/ready: $(VENV)/.installed scripts/install-fuzzers pyproject.toml $(wildcard fuzz/*.*) \
		$(shell find src -name '*.py' -o -name '*.p[xy][xdi]' -o -name '*.[ch]' -path '*/core/*')
	PYTHON=$(PYTHON) scripts/install-fuzzers
	$(BIN)/python -m fuzz.seeds fuzz/build/seeds
	touch $@
