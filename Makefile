# Needs git, make and Python 3.11 or newer; everything else is fetched and locked (uv.lock, bus/platform/kafka.lock.toml).
# No rule names the directory it is in: that name may hold spaces and any letters.

PYTHON ?= $(shell for each in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$each && break; done)
ARGS ?=
MINUTES ?=
SEED ?=
MAKEFLAGS += --no-print-directory
VENV := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo bench bench-growth test lint dev soak strength failpoints planted chaos check-python fuzz interop contracts-interop verdicts decisions

help:
	@echo 'make setup   make .venv: then .venv/bin/bus is ready'
	@echo 'make demo    the whole flow on mock agencies; ARGS="--seconds 60 --json" goes to `bus demo`'
	@echo 'make test    style, types, import rules and tests'
	@echo 'make lint    the same without the tests'
	@echo 'make bench   the engine beside Kafka Streams, the capture beside Debezium; ARGS="--rounds 1 --without-capture" goes to `bus bench`'
	@echo 'make bench-growth   what an event costs as people, agreements and records grow; draws docs/growth-*.svg'
	@echo 'make soak    the tests of the whole flow, for longer and with more people'
	@echo 'make strength  the engine under every mistreated request, broker restart, sleeping worker, and output that takes nothing; on one broker and on three'
	@echo 'make interop  the schema registry with clients of four languages, installed for it; needs node, npm, java and go'
	@echo 'make fuzz    mutated records for the kernel, built with sanitizers, and for Python; MINUTES=5 SEED=1'
	@echo 'make chaos   everything at random goes wrong under load: MINUTES=5, SEED=7 to have the same again'
	@echo 'make failpoints  kill -9 at every step of the engine and of capture, for the 1st, 2nd and 3rd time'
	@echo 'make verdicts    our verdicts on schemas beside those of Apache Avro for Java, over random pairs; ARGS="-s" shows how many of what'
	@echo 'make decisions   the engine beside the oracle, which shares no code with it, over 100,000 random events and agreements; SEED=1'
	@echo 'make contracts-interop  documents and clients of agencies before the official parser, Node, Java and kcat'
	@echo 'make planted     the engine and capture with one bug after the other, and which check found it'

check-python:
	@test -n '$(PYTHON)' || { echo 'setup: Python 3.11 or newer is needed: apt-get install python3' >&2; exit 1; }

setup: check-python
	@$(PYTHON) tools/bootstrap.py

dev: check-python
	@$(PYTHON) tools/bootstrap.py --group dev

demo: setup
	@exec $(VENV)/bus demo $(ARGS)

bench: setup
	@exec $(VENV)/bus bench --with-capture $(ARGS)

bench-growth: setup
	@exec $(VENV)/bus bench growth --plots docs $(ARGS)

lint: dev
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/python -m mypy
	$(VENV)/lint-imports

test: lint
	$(VENV)/python -m pytest -q --numprocesses 3 --no-loadscope-reorder $(ARGS)

soak: dev
	LT_SOAK=1 $(VENV)/python -m pytest -q tests/pipeline tests/oracle $(ARGS)

strength: dev
	LT_SOAK=1 $(VENV)/python -m pytest -q --numprocesses 0 tests/engine/strength tests/engine/test_several_brokers.py tests/engine/test_changes.py tests/capture/test_belated.py $(ARGS)

interop: dev
	LT_INTEROP=1 $(VENV)/python -m pytest -q --numprocesses 0 tests/interop $(ARGS)

fuzz: dev
	$(VENV)/python -m tests.engine.fuzz --minutes $(or $(MINUTES),1) --seed $(or $(SEED),0)

chaos: dev
	@exec $(VENV)/python -m tests.chaos.run --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED)) $(ARGS)

failpoints: dev
	LT_FAILPOINTS=1 $(VENV)/python -m pytest -q tests/engine/test_failpoints.py tests/engine/test_worker.py tests/engine/test_redrive.py tests/engine/test_ledger.py tests/platform/test_agreed.py tests/capture/test_failpoints.py tests/capture/test_holding.py tests/capture/test_altered.py tests/capture/test_forget.py tests/capture/test_handover.py tests/delivery/test_webhooks.py tests/processors/test_worker.py tests/platform/test_servers.py tests/platform/test_up_and_down.py $(ARGS)

planted: dev
	LT_PLANTED=1 $(VENV)/python -m pytest -q --numprocesses 0 tests/chaos/test_planted.py $(ARGS)

verdicts: dev
	LT_VERDICTS=20000 $(VENV)/python -m pytest -q --numprocesses 0 tests/contracts/test_java.py $(ARGS)

decisions: dev
	LT_PAIRS=100000 SEED=$(SEED) $(VENV)/python -m pytest -q -s --numprocesses 0 tests/engine/test_oracle_agrees.py $(ARGS)

contracts-interop: dev
	LT_INTEROP=1 $(VENV)/python -m pytest -q --numprocesses 0 tests/subscription $(ARGS)
