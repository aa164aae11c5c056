# Every command of this project. `make help` lists them.
VENV   := .venv
PYTHON := $(VENV)/bin/python
CYCLONEDX := cyclonedx-bom==7.5.0
STAMP  := $(VENV)/.installed

export HF_HUB_OFFLINE := 1
export PYTHONWARNDEFAULTENCODING :=
# Bytecode is kept: else each of a test run's hundreds of processes compiles what it imports (torch: 7 s).
export PYTHONDONTWRITEBYTECODE :=

# Tests and the demo share their cores with much else: threads that wait for each other there sleep instead of spinning (a third of the CPU).
fast test demo soak: export OMP_WAIT_POLICY := passive

.DEFAULT_GOAL := help
.PHONY: help machine setup check lint types imports fast test test-scheduler test-crashes test-spaces test-mutants test-mutation fuzz docs demo soak bench-gates bench-operator bench-log bench-drift bench-server bench-soak bench-gpu bench-verify screenshots cluster cluster-down cluster-status install-yaml sbom requirements clean

help:  ## list the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv with everything that development and tests need (2 minutes, 7 GB: torch brings CUDA)

$(STAMP): pyproject.toml requirements/dev.txt requirements/bootstrap.txt
	@echo "installing the pinned packages into $(VENV): 2 minutes, 7 GB …"
	@{ python3 -m venv --clear $(VENV) \
	&& $(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt \
	&& VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip install --require-hashes -r requirements/dev.txt \
	&& VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip install --quiet --no-deps --no-build-isolation --editable . ; } \
	|| { echo "the packages could not be installed: no network, a mirror that does not answer, a full disk, or no python3-venv; the lines above say which"; exit 1; }
	@touch $@

check: setup lint types imports fast  ## lint, types, imports, fast tests: under 3 minutes

lint:
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

types:
	$(VENV)/bin/mypy

imports:
	$(VENV)/bin/lint-imports

fast:
	$(PYTHON) -m pytest -q -m "not model and not integration and not e2e and not long"

test: setup lint types imports  ## everything but test-scheduler and test-crashes; what CI runs
	$(PYTHON) -m tests.cluster build --tests
	$(PYTHON) -m pytest -m "not alone" --numprocesses=3 --dist=loadfile --no-loadscope-reorder --durations=25

test-scheduler: setup  ## room for canaries by the real scheduler, 23 releases at once; it wants the machine for itself (2 minutes)
	$(PYTHON) -m pytest -m alone tests/integration/test_scheduler.py

demo: machine setup  ## a release promoted, a damaged one refused, a starved one rolled back, on a real cluster; KEEP=1 leaves it running
	$(PYTHON) -m tests.e2e.demo $(if $(KEEP),--keep)

machine: # what the demo cannot do without is said before anything is installed
	@python3 -m tests.cluster.machine

soak: machine setup  ## an hour of rollouts, half of them bad, under load, with operator and pods killed, on a real cluster (MINUTES=5 for less; RATE=40)
	$(PYTHON) -W ignore -m tests.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(RATE),--rate $(RATE)) $(if $(KEEP),--keep)

bench-gates: setup  ## how often the gates fail good releases and how soon bad ones (2000 releases for each noise: 11 minutes of processor time; RELEASES=200 for less)
	$(PYTHON) -m tests.bench.gates $(if $(RELEASES),--releases $(RELEASES))

bench-operator: setup  ## what the operator costs: requests, CPU, memory for 100 releases at once on a real control plane (10 minutes; RELEASES=1000 RESTART=1 STORM=1)
	$(PYTHON) -m tests.bench.operator_load $(if $(RELEASES),--releases $(RELEASES)) $(if $(NO_CANARY),--no-canary) $(if $(RESTART),--restart) $(if $(STORM),--storm)

bench-log: setup  ## what the prediction log costs: rows a second, bytes a row, added latency (4 minutes; ROWS=100000000 for the large run)
	$(PYTHON) -m tests.bench.log $(if $(ROWS),--rows $(ROWS))

bench-drift: setup  ## a drift statistic's time beside evidently's, which gets an environment of its own (1 minute)
	$(PYTHON) -m tests.bench.drift

bench-server: setup  ## this server's CPU per request beside FastAPI + SentenceTransformer's (10 minutes; ENFORCE=0 only reports)
	$(PYTHON) -W ignore -m tests.bench.server $(if $(ROUNDS),--rounds $(ROUNDS))

bench-soak: machine setup  ## the server at 80 % of its capacity for 10 minutes: flat memory, no failed request (SECONDS=60 for less; WORKERS=2)
	$(PYTHON) -W ignore -m tests.bench.server_soak $(if $(SECONDS),--seconds $(SECONDS)) $(if $(WORKERS),--workers $(WORKERS))

bench-gpu: setup  ## the torch encoder on this machine's GPU: tokens a second, memory over random lengths (6 minutes; without a GPU it judges nothing)
	$(PYTHON) -W ignore -m tests.bench.server_gpu --random-weights $(if $(SECONDS_WATCHED),--seconds $(SECONDS_WATCHED))

bench-verify: setup  ## what verify's limits rest on: the noise of one model, and what each damage to it changes (5 minutes)
	$(PYTHON) -m tests.bench.verify

cluster:  ## start a real Kubernetes cluster on this machine (10 seconds; the first time 12 minutes, as root); `make cluster-down` ends it
	python3 -m tests.cluster up

cluster-down:  ## stop what `make cluster` started
	python3 -m tests.cluster down

cluster-status:  ## what of it runs, and where the logs are
	python3 -m tests.cluster status

screenshots: setup  ## draw docs/dashboard/*.png: the page in headless Chromium, over a real control plane (1 minute)
	SERINUS_SCREENSHOTS=docs/dashboard $(PYTHON) -m pytest -q tests/integration/test_cli.py -k "evidence or phone"

test-crashes: setup  ## 240 crash points, late and old views on a real API server, and every call to a real MLflow (it wants the machine for itself; 10 minutes; PLANS=44 takes 3)
	SERINUS_CRASH_PLANS=$(or $(PLANS),240) $(PYTHON) -m pytest -s tests/integration/test_crash_points.py tests/integration/test_registry_crashes.py

test-spaces: setup  ## 10 000 pinned and unpinned requests through a whole release with pods killed (`make test` sends 1500; 5 minutes; REQUESTS=20000 for more)
	SERINUS_SPACES_REQUESTS=$(or $(REQUESTS),10000) $(PYTHON) -m pytest -s tests/integration/test_spaces.py

test-mutants: setup  ## 5000 changed specs in memory and 500 on a real API server (`make test` runs 250 and 50; 15 minutes)
	SERINUS_MUTANTS=$(or $(MUTANTS),5000) $(PYTHON) -m pytest -s tests/faults/test_mutants.py
	SERINUS_MUTANTS_APPLIED=$(or $(APPLIED),500) $(PYTHON) -m pytest -s tests/integration/test_mutants.py

test-mutation: setup  ## Cosmic Ray's mutants of the decision core, and how many the tests kill (DRAW=300 for less than an hour)
	VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip install --quiet --target .cache/cosmic-ray cosmic-ray==8.7.0
	PYTHONPATH=.cache/cosmic-ray:. $(PYTHON) -W ignore -m tests.mutation $(if $(DRAW),--draw $(DRAW))

fuzz: setup  ## atheris on everything that reads what others write, 10 minutes each (TARGET=spec for one; FUZZ_SECONDS=60)
	VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip install --quiet --target .cache/atheris atheris==3.0.0
	for target in $(or $(TARGET),request spec metrics model report status); do \
		PYTHONPATH=.cache/atheris:. $(PYTHON) -m tests.fuzz $$target --seconds $(or $(FUZZ_SECONDS),600) || exit 1; done

docs: setup  ## write the generated parts of the documents (a test fails while they differ from the code)
	$(PYTHON) docs/generate.py

install-yaml: setup  ## the chart as one plain manifest on standard output: make -s install-yaml SET="--set images.operator=… --set …" > install.yaml
	@$(PYTHON) -m tests.cluster.chart $(SET)

sbom: setup  ## write sbom/*.cdx.json: what each image's Python packages are, with hashes, as CycloneDX (10 seconds)
	@mkdir -p sbom
	@for kind in operator server-cpu server-gpu; do \
	  PYTHONWARNINGS=ignore $(VENV)/bin/uv tool run --quiet --from $(CYCLONEDX) cyclonedx-py requirements requirements/$$kind.txt --pyproject pyproject.toml \
	    --output-reproducible --validate --output-file sbom/$$kind.cdx.json && echo "sbom/$$kind.cdx.json"; \
	done

requirements:  ## resolve requirements/*.txt anew from pyproject.toml (hashed; no index named)
	./requirements/compile.sh

clean:  ## remove the virtual environment and caches of this folder
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .cache
