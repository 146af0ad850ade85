# `make demo` and `make test` need no setup: they create .venv and install their requirements.
PYTHON ?= python3
VENV ?= .venv
FUZZ_SECONDS ?= 60
STRESS_SECONDS ?= 600
BIN = $(VENV)/bin
WHEEL_TESTS = tests/packaging/test_wheel.py
NATIVE = setup.py pyproject.toml $(wildcard src/websocket_handler/connection/inbox.p* src/websocket_handler/servers/asgi_calls.p* src/websocket_handler/engine/*.p* src/websocket_handler/engine/core/*)

.PHONY: demo chat-demo cluster-demo test test-wheel test-all coverage outage killed-workers newcomer autobahn-compression autobahn-client conformance-socketio test-socketio-versions lint format sanitize bench bench-quick bench-broadcast bench-blocking bench-compression bench-slow-member bench-local bench-socketio bench-deploy bench-testing bench-guard soak deploy-soak scorecard fuzz stress bench-deflaters dist wheel matrix prose-check clean

demo: $(VENV)/.installed
	$(BIN)/python -m websocket_handler

# Run the chat example on four workers of gunicorn, connected by local:// rooms.
chat-demo: $(VENV)/.test-ready
	$(BIN)/gunicorn -w 4 -k gthread --threads 8 -b 127.0.0.1:8000 --chdir examples/chat with_flask:app

# Run the chat example on three servers behind haproxy, with Redis.
cluster-demo: $(VENV)/.test-ready
	$(BIN)/python examples/chat/cluster.py

# Run the tests, four files in parallel: most tests mostly wait for a server. They start many
# processes of Python, which share their bytecode, even if the environment forbids to write any.
# Files with few but long tests would be the last if they were reordered.
test: $(VENV)/.test-ready
	PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$(CURDIR)/build/bytecode \
		$(BIN)/python -m pytest tests --ignore $(WHEEL_TESTS) \
		--numprocesses 4 --dist loadfile --no-loadscope-reorder

# Build the wheel as for a release, and test it. Takes a minute, most of it for the compiler.
test-wheel: $(VENV)/.test-ready
	$(BIN)/python -m pytest $(WHEEL_TESTS)

# Run the tests on each installed Python from 3.10 on, with the native and the pure-Python engine.
test-all:
	scripts/test-all

# Measure which lines the tests run, and fail below the floor in pyproject.toml. Takes some minutes;
# TESTS=tests measures all of them.
coverage: $(VENV)/.test-ready
	scripts/coverage $(BIN)/python $(TESTS)

# Kill the brokers of the rooms under load, at full scale. Takes some minutes.
outage: $(VENV)/.test-ready
	ROOMS_OUTAGE_MESSAGES=100000 $(BIN)/python -m pytest tests/rooms/test_outage.py

# Kill the workers of gunicorn under local:// rooms, at full scale. Takes some minutes.
killed-workers: $(VENV)/.test-ready
	KILLED_WORKERS=full $(BIN)/python -m pytest tests/rooms/test_killed_workers.py -s --timeout=400

# Follow each page of docs/start in an empty environment, with a wheel. Takes some minutes.
newcomer: $(VENV)/.test-ready
	NEWCOMER=full $(BIN)/python -m pytest tests/end_to_end/test_newcomer.py

# Run all Autobahn cases of permessage-deflate with each engine. Takes half an hour.
autobahn-compression: $(VENV)/.test-ready
	AUTOBAHN_COMPRESSION=all $(BIN)/python -m pytest tests/end_to_end/test_autobahn.py -k compression

# Run all Autobahn cases against the client, in all styles. Takes an hour.
autobahn-client: $(VENV)/.test-ready
	AUTOBAHN_CLIENT=all $(BIN)/python -m pytest tests/client/test_autobahn_client.py

# Run the test suites of the Socket.IO project, with and without this library.
conformance-socketio: $(VENV)/.test-ready
	$(BIN)/python -m tests.socketio.conformance

# Run the tests of Socket.IO with the oldest and the newest allowed version of python-socketio.
test-socketio-versions: $(VENV)/.test-ready
	scripts/test-socketio-versions

lint: $(VENV)/.test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	scripts/verify-types $(BIN)/python
	scripts/prose-check

format: $(VENV)/.test-ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Run the tests on a native engine with AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize:
	scripts/sanitize

# Run each fuzz target for FUZZ_SECONDS, two in parallel; see fuzz/README.md.
fuzz: fuzz/build/ready
	scripts/fuzz all $(FUZZ_SECONDS)

# Stress the engine with random actions of listeners, for STRESS_SECONDS in each mode; see
# fuzz/README.md.
stress: fuzz/build/ready
	scripts/stress $(STRESS_SECONDS)

# Compare this library with other servers and with a C baseline; see benchmarks/.
bench: benchmarks/build/ready
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/report.py

bench-quick: benchmarks/build/ready
	$(BIN)/python benchmarks/run.py --quick
	$(BIN)/python benchmarks/report.py

# Compare the cost of compressed messages.
bench-compression: benchmarks/build/ready
	$(BIN)/python benchmarks/compression.py

# Compare broadcasts: rooms, a loop of send() in C, and broadcast() of websockets.
bench-broadcast: benchmarks/build/ready
	$(BIN)/python benchmarks/broadcast.py

# Measure the impact of a room member that never reads on the other members.
bench-slow-member: $(VENV)/.installed
	$(BIN)/python benchmarks/slow_member.py

# Compare local:// rooms with Redis.
bench-local: $(VENV)/.test-ready
	$(BIN)/python benchmarks/local.py

# Compare Socket.IO served by this library with Flask-SocketIO on gevent and AsyncServer on uvicorn.
bench-socketio: $(VENV)/.test-ready
	$(BIN)/python benchmarks/socketio.py

# Compare moving connections to a new process with closing them, after which clients reconnect.
bench-deploy: $(VENV)/.installed
	$(BIN)/python benchmarks/deploy.py

# Measure the impact of blocking listeners on other connections.
bench-blocking: $(VENV)/.installed benchmarks/build/load
	$(BIN)/python benchmarks/blocking.py

# Measure a thousand tests with the test client, beside a thousand empty tests.
bench-testing: $(VENV)/.test-ready
	$(BIN)/python benchmarks/testing.py

# Compare zlib with its alternatives, and measure the memory of idle compressed connections.
bench-deflaters: benchmarks/build/ready
	dpkg -s libisal-dev libdeflate-dev >/dev/null || \
		apt-get install -y --no-install-recommends libisal-dev libdeflate-dev
	$(CC) -O3 -Wall -Wextra -shared -fPIC -o benchmarks/build/deflaters.so \
		benchmarks/programs/deflaters.c -lz -lisal -ldeflate
	benchmarks/.venv/bin/python benchmarks/deflaters.py
	$(BIN)/python benchmarks/compression_memory.py

# Compare the instruction counts of fixed workloads with benchmarks/instructions.json.
bench-guard: $(VENV)/.test-ready
	command -v valgrind || apt-get install -y --no-install-recommends valgrind
	$(BIN)/python benchmarks/instruction_counts.py

# Ten deploys of gunicorn with 5,000 open connections. Takes some minutes.
deploy-soak: $(VENV)/.test-ready
	DEPLOYS=full $(BIN)/python -m pytest tests/moving/test_deploys.py --timeout=0 -s

# The attacks of tests/attacks at full scale, and the histories of rooms: some hours.
soak: $(VENV)/.test-ready
	ATTACKS=full $(BIN)/python -m pytest tests/attacks tests/rooms/test_loss_property.py --timeout=0

# Run them at the scale of the tests, unless ATTACKS=full, and write docs/scorecard.md.
scorecard: $(VENV)/.test-ready benchmarks/build/load
	$(BIN)/python -m tests.attacks.scorecard

# The same situations on every server, with the table in docs/matrix.md.
matrix: $(VENV)/.test-ready
	$(BIN)/python -m tests.matrix.table

.PHONY: screenshots
# Take the pictures of the pages in docs/, with Chromium. Takes three minutes.
screenshots: $(VENV)/.test-ready
	$(BIN)/python -m tests.end_to_end.screenshots

dist: $(VENV)/.test-ready
	$(BIN)/python -m build

# Build a stripped wheel for the platform of this machine, as in a release.
wheel: $(VENV)/.test-ready
	PYTHON=$(BIN)/python scripts/build-wheel

prose-check:
	scripts/prose-check

.PHONY: docs
# Build the site of the documentation into build/docs, without the network. A warning is an error.
docs: $(VENV)/.test-ready
	$(BIN)/python -m sphinx --builder html --nitpicky --fail-on-warning --keep-going --quiet \
		--fresh-env --doctree-dir build/docs/.doctrees docs build/docs
	@echo build/docs/index.html

clean:
	rm -rf .venv* build dist fuzz/build src/*.egg-info tests/peers/node_modules
	find src -name '*.so' -delete
	find src -name '*.c' -not -path '*/core/*' -delete

$(VENV)/.installed: $(NATIVE)
	@echo "Creating a virtual environment in $(VENV) (1 of 2)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@echo "Compiling and installing websocket-handler; this takes about a minute (2 of 2)"
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.test-ready: $(VENV)/.installed tests/peers/package.json scripts/install-test-peers
	@echo "Installing the requirements of the tests; this takes some minutes"
	@$(BIN)/python -m pip install --quiet --group dev
	@scripts/install-test-peers
	@touch $@

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
