# Everything a fresh machine needs: `make demo` draws pictures, `make test` runs the checks. Both build .venv first.

PYTHON ?= python3
PRESET ?= emoji
RUN ?= runs/$(PRESET)
BIN := .venv/bin
LOWEST := .venv-lowest
PARALLEL := --numprocesses logical --maxprocesses 4 --dist worksteal
PYTEST := $(BIN)/pytest $(PARALLEL)
LAUNCH := $(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no
# COMPILE="--dynamo_backend inductor" trains the models that draw about 1.8 times as fast; it needs a C++ compiler.
COMPILE ?=

.PHONY: demo lint test test-all test-lowest train-emoji compare clean

demo: .venv/installed
	$(BIN)/python -m sampling.generate --config demo --out outputs/demo
	$(BIN)/python -m sampling.generate --config demo --backend diffusion --out outputs/demo-diffusion

lint: .venv/complete
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# All but the tests that are marked slow.
test: lint
	$(PYTEST) -m "not slow"

# Everything, with ten times as many damaged files for the readers of what strangers wrote.
test-all: lint
	$(PYTEST) --hypothesis-profile all

# The tests once more, with the lowest versions that pyproject.toml allows, in an environment of their own.
test-lowest: $(LOWEST)/installed
	$(LOWEST)/bin/pytest $(PARALLEL) -m "not slow"

# Trains everything from nothing and assembles the bundle. Each step resumes where it was stopped.
train-emoji: .venv/complete
	$(BIN)/python -m tokenizer.train_text --config $(PRESET) --out $(RUN)/text
	$(LAUNCH) tokenizer/train.py --config $(PRESET) --out $(RUN)/tokenizer
	$(LAUNCH) tokenizer/train.py --config $(PRESET)-decoder --out $(RUN)/decoder \
		--init $(RUN)/tokenizer/model --decoder_only true
	$(BIN)/python -m evaluation.reconstruct --config $(PRESET) --model $(RUN)/decoder/model --out $(RUN)/reconstruction
	$(LAUNCH) tokenizer/train_upsampler.py --config $(PRESET) --tokenizer $(RUN)/decoder/model --out $(RUN)/upsampler
	$(BIN)/python -m tokenizer.encode --config $(PRESET) --model $(RUN)/decoder/model --out $(RUN)/codes
	$(LAUNCH) $(COMPILE) seq2seq/train.py --config $(PRESET) --out $(RUN)/seq2seq \
		--data $(RUN)/codes --tokenizer $(RUN)/decoder/model --text $(RUN)/text
	$(BIN)/python -m sampling.average --run $(RUN)/seq2seq --out $(RUN)/token-model
	$(LAUNCH) $(COMPILE) diffusion/train.py --config $(PRESET) --out $(RUN)/diffusion \
		--tokenizer $(RUN)/decoder/model --text $(RUN)/text
	$(BIN)/python -m sampling.bundle --text $(RUN)/text --tokenizer $(RUN)/decoder/model \
		--backend autoregressive=$(RUN)/token-model --backend diffusion=$(RUN)/diffusion/model \
		--upsampler $(RUN)/upsampler/model --reconstruction $(RUN)/reconstruction/report.json --out $(RUN)/bundle
	$(BIN)/python -m sampling.generate --model $(RUN)/bundle --config demo --out $(RUN)/demo

# Draws one suite with each backend of a bundle, equal prompts and seeds, over guidances, and puts them side by side.
MODEL ?= checkpoints/emoji
SUITE ?= emoji/heldout-style
BACKENDS ?= autoregressive diffusion
GUIDANCES ?= 1 2 3
COMPARISON ?= outputs/compare
COMPARE_FLAGS ?= --readme docs/which-model.md
compare: .venv/complete
	for backend in $(BACKENDS); do \
		$(BIN)/python -m evaluation.run --model $(MODEL) --suite $(SUITE) --backend $$backend \
			$(foreach guidance,$(GUIDANCES),--sweep guidance=$(guidance)) --out $(COMPARISON)/$$backend $(RUN_FLAGS) || exit; \
	done
	$(BIN)/python -m evaluation.compare \
		$(foreach backend,$(BACKENDS),$(foreach guidance,$(GUIDANCES),$(COMPARISON)/$(backend)/guidance-$(guidance))) \
		--out $(COMPARISON) $(COMPARE_FLAGS)

# What drawing needs, and everything. Both go into the same environment. A torch that is there already stays if
# pyproject.toml allows it: it fits the machine's GPU and driver.
.venv/installed: EXTRAS := diffusion
.venv/complete: EXTRAS := bench,dev,diffusion,emoji,eval,prepare
.venv/installed .venv/complete: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	if $(BIN)/pip show --quiet torch 2>/dev/null; then grep -v "^torch==" constraints.txt; else cat constraints.txt; fi \
		> .venv/constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c .venv/constraints.txt -e ".[$(EXTRAS)]"
	touch .venv/installed $@

$(LOWEST)/installed: pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)/tools
	$(LOWEST)/tools/bin/pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/tools/bin/uv pip compile --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --all-extras \
		--output-file $(LOWEST)/versions.txt pyproject.toml
	$(LOWEST)/tools/bin/uv pip sync --quiet --python $(LOWEST)/bin/python $(LOWEST)/versions.txt
	$(LOWEST)/tools/bin/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps -e .
	touch $@

# Removes what the commands above made, but not runs/, which may hold hours of training, nor your pictures in outputs/.
clean:
	rm -rf outputs/demo outputs/demo-diffusion outputs/compare
	rm -rf .venv $(LOWEST) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
