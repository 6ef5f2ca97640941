# Every target sets up all that it needs by itself: a virtual environment in .venv, with the
# versions that constraints.txt names.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

# Set before torch is imported: threads that wait actively take the cores from everything else.
export OMP_WAIT_POLICY ?= passive

.DEFAULT_GOAL := help
.PHONY: help venv serve test test-slow test-properties exactness soak test-gpu check format audit fuzz \
	models-table bench bench-full bench-sweep bench-gpu growth performance-page \
	image sbom verify-deploy deploy-files

help:
	@echo "make serve      start the server (settings: TANDEM_*, see README.md)"
	@echo "make test       run the tests"
	@echo "make test-slow  run the tests that take minutes"
	@echo "make test-properties  draw 10,000 engine runs at random (SEED=, ARGS=)"
	@echo "make exactness  compare the shipped checkpoints with generate() in each dtype"
	@echo "make soak       overload a server for a minute, then send 10,000 mixed requests, twice"
	@echo "make test-gpu   run the tests that need an accelerator"
	@echo "make check      check format, lint and types"
	@echo "make audit      look for known holes in our code and in what it needs (needs the internet)"
	@echo "make fuzz       more than 100,000 bad inputs, docs/fuzz.json (ARGS=--share=0.1 for fewer)"
	@echo "make format     mend what ruff can mend by itself"
	@echo "make models-table  measure every architecture, write docs/models.md"
	@echo "make bench      measure Tandem beside transformers, LitServe and CTranslate2"
	@echo "make bench-full  the same with everything, on the CPU, for days"
	@echo "make bench-sweep  try settings of the others, three quarters of an hour"
	@echo "make bench-gpu  measure everything on a GPU, in under 8 minutes"
	@echo "make growth     measure how cost grows with the work"
	@echo "make performance-page  write docs/performance.md from the last runs"
	@echo "make image      build the image (TARGET=cpu or cuda; TORCH_INDEX_URL=)"
	@echo "make sbom       list what the image holds, in CycloneDX"
	@echo "make verify-deploy  run image, Compose file and chart for real, as far as the tools go"
	@echo "make deploy-files  write what of chart and docs/deployment.md is made from the service"

$(VENV)/.serve: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
		f"Tandem needs Python 3.11 or newer: found {v[0]}.{v[1]}; name another with PYTHON=")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV)"
	@$(BIN)/python -m pip install --quiet "$$(grep '^pip==' constraints.txt)"
	@$(INSTALL) --build-constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.serve
	@$(INSTALL) --group dev
	@touch $@

venv: $(VENV)/.dev

serve: $(VENV)/.serve
	@$(BIN)/tandem serve

# A file of tests is one process's, for what its tests share. Each process holds 2 GB at its end.
test: $(VENV)/.dev
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

test-slow: $(VENV)/.dev
	@$(BIN)/python -m pytest -m slow $(ARGS)

# The seed is printed, so that what fails can be run again: make test-properties SEED=...
test-properties: $(VENV)/.dev
	@seed=$${SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}; echo "SEED=$$seed"; \
		$(BIN)/python -m pytest tests/properties --hypothesis-profile=long \
		--hypothesis-seed=$$seed $(ARGS)

# In half precision and int8 the rate is measured, not judged. TRANSLATE_TEXTS and SUMMARIZE_TEXTS name files
# with a text on each line; without them the samples of `tandem verify` are used.
NUM_SOURCES ?= 200
exactness: $(VENV)/.serve
	@for dtype in float32 bfloat16 float16 int8; do \
		rate=1; test $$dtype = float32 && rate=0; \
		$(BIN)/tandem verify translate-en-de --dtype $$dtype --max-mismatch-rate $$rate \
			--num-sources $(NUM_SOURCES) $(if $(TRANSLATE_TEXTS),--texts $(TRANSLATE_TEXTS)) $(ARGS) \
		&& $(BIN)/tandem verify summarize-en --task summarize --dtype $$dtype \
			--max-mismatch-rate $$rate --num-sources $(NUM_SOURCES) \
			$(if $(SUMMARIZE_TEXTS),--texts $(SUMMARIZE_TEXTS)) $(ARGS) || exit 1; \
	done

# Both judge what they measure: run them on a machine that does nothing else.
soak: $(VENV)/.dev
	@$(BIN)/python -m soak.overload $(ARGS)
	@$(BIN)/python -m soak.endurance
	@$(BIN)/python -m soak.endurance --workers 2 --kill-every 2000

test-gpu: $(VENV)/.dev
	@$(BIN)/python -m pytest -m gpu $(ARGS)

check: $(VENV)/.dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(VENV)/.dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

$(VENV)/.audit: $(VENV)/.dev
	@$(INSTALL) --group audit
	@touch $@

# pip-audit asks PyPI for the advisories of each pinned version.
audit: $(VENV)/.audit
	@$(BIN)/bandit --quiet --configfile pyproject.toml --recursive app model_core
	@$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

$(VENV)/.fuzz: $(VENV)/.dev
	@$(INSTALL) --group fuzz
	@touch $@

fuzz: $(VENV)/.fuzz
	@nice -n 19 $(BIN)/python -m tests.fuzz.run $(ARGS)

models-table: $(VENV)/.dev
	@$(BIN)/python -m tests.models_table $(ARGS)

$(VENV)/.peers: $(VENV)/.dev
	@$(INSTALL) --group peers
	@touch $@

# Ends within the hour on two cores; what there was no time for is listed in the results.
bench: $(VENV)/.peers
	@$(BIN)/python -m benchmarks run --plan quick --minutes 58 $(ARGS)

bench-full: $(VENV)/.peers
	@$(BIN)/python -m benchmarks run --plan full $(ARGS)

bench-sweep: $(VENV)/.peers
	@$(BIN)/python -m benchmarks sweep $(ARGS)

bench-gpu: $(VENV)/.peers
	@$(BIN)/python -m benchmarks.gpu $(ARGS)

growth: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.growth $(ARGS)

# Takes over the last runs: make performance-page ARGS="--suite FILE --growth FILE" names others.
RESULTS := benchmarks/results
performance-page: $(VENV)/.dev
	@$(BIN)/python -m benchmarks publish $(or $(ARGS),\
		$(addprefix --suite ,$(wildcard $(RESULTS)/suite.json)) \
		$(addprefix --growth ,$(wildcard $(RESULTS)/growth.json)) \
		$(addprefix --sweep ,$(wildcard $(RESULTS)/sweep.json)))

TARGET ?= cpu
IMAGE ?= tandem:$(TARGET)
SBOM ?= build/sbom
BUILD := DOCKER_BUILDKIT=1 docker build --build-arg TORCH_INDEX_URL=$(TORCH_INDEX_URL) \
	--build-arg EXTRAS=$(EXTRAS)

image:
	@$(BUILD) --target $(TARGET) --tag $(IMAGE) \
		--build-arg VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) \
		--build-arg REVISION=$$(git rev-parse HEAD) \
		--build-arg CREATED=$$(date -u +%Y-%m-%dT%H:%M:%SZ) .

sbom:
	@$(BUILD) --quiet --target sbom --output type=local,dest=$(SBOM) .
	@echo "$(SBOM)/tandem.cdx.json"

verify-deploy: $(VENV)/.dev
	@$(BIN)/python -m deployment.verify $(ARGS)

deploy-files: $(VENV)/.dev
	@$(BIN)/python -m deployment.generate $(ARGS)
