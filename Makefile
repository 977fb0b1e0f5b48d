# bert_lamb: `make` lists what there is. The chain from raw text to F1 is the recipe of `pretrain`, in reading order.

EXPERIMENT ?= sample##   what to run: a file of conf/experiment
RUN ?=##                 name of the run folder (default: experiment and recipe hash)
DEVICES ?=##             processes, one a device (default: all local GPUs, or one on a CPU)
ARGS ?=##                any further settings, e.g. ARGS='phase1.peak_lr=0.008 seed=1'
PYTHON ?= python3##      interpreter (3.11 or newer) for the environment in .venv
PIP_ARGS ?=##            extra arguments for pip, e.g. an index of CPU builds (docs/training.md)

VENV := .venv
PY := $(VENV)/bin/python
SETTINGS = experiment=$(EXPERIMENT) $(if $(RUN),run.name=$(RUN)) $(if $(DEVICES),hardware.devices=$(DEVICES)) $(ARGS)
STAGE = @$(PY) -m

.DEFAULT_GOAL := help
.PHONY: help install fetch prepare pretrain finetune evaluate report verify sweep plan data-report inspect study figures
.PHONY: bench bench-parity bench-gpu bench-loader bench-data bench-optim
.PHONY: test test-data test-triton check mutants

help: ## this list
	@echo "targets:"; awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "variables:"; awk -F ' *\\?= *|## *' '/^[A-Z_]+ \?=/{printf "  %-13s %s\n", $$1, $$3}' $(MAKEFILE_LIST)

install: $(VENV)/installed ## environment in .venv with everything pinned

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[all,dev]'
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS) --no-deps timm # its torchvision would replace torch
	@touch $@

pretrain: install ## raw text to F1: prepare, pretrain (two phases), fine-tune, report
	@echo "raw text -> shards -> phase 1 -> phase 2 -> SQuAD -> report; experiment=$(EXPERIMENT)."
	@echo "'make plan' shows the recipe; change it with EXPERIMENT=..., ARGS='key=value ...'."
	$(STAGE) data_prep.prepare $(SETTINGS)
	$(STAGE) bert_lamb.pretrain $(SETTINGS)
	$(STAGE) bert_lamb.finetune $(SETTINGS)
	$(STAGE) bert_lamb.report $(SETTINGS)

fetch: install ## downloads the corpus that data.hub names: ARGS='data=wikipedia' (the one stage that needs a network)
	$(STAGE) data_prep.fetch $(SETTINGS)

prepare: install ## raw text to a token store
	$(STAGE) data_prep.prepare $(SETTINGS)

finetune: install ## SQuAD fine-tuning and F1 of a pretrained run
	$(STAGE) bert_lamb.finetune $(SETTINGS)

evaluate: install ## score a run's predictions again
	$(STAGE) bert_lamb.evaluate $(SETTINGS)

report: install ## tables and figures of a run
	$(STAGE) bert_lamb.report $(SETTINGS)

verify: install ## hash a run's checkpoints and fine-tuned arms, and its prepared data, once more
	$(STAGE) bert_lamb.verify $(SETTINGS)

rehearse: install ## a recipe's whole chain made small, in about a minute: EXPERIMENT=bert_large_64k_32k
	$(STAGE) bert_lamb.rehearse $(SETTINGS)

sweep: install ## a run for each combination: ARGS='optimizer=lamb,adamw seed=0,1'
	$(STAGE) bert_lamb.sweep $(SETTINGS)

plan: install ## steps, tokens, FLOPs and hours of a recipe, each setting with its source
	$(STAGE) bert_lamb.plan $(SETTINGS)

data-report: install ## figures of a prepared store: lengths, packing, balance, rejects; into its report/
	$(STAGE) bert_lamb.report_data $(SETTINGS)

inspect: install ## a prepared sequence decoded, its mask, a step's batch
	$(STAGE) data_prep.inspect $(SETTINGS)

bench: install ## our step beside HF Trainer and hand-written loops, on this machine: docs/results/speed.md
	$(STAGE) data_prep.prepare
	$(STAGE) bert_lamb.bench.step $(ARGS)

bench-parity: install ## whether our step learns what transformers' own does (docs/results/parity.md)
	$(STAGE) data_prep.prepare data.name=bench_loader 'data.seq_lens=[64,128,512]' data.passes=1
	$(STAGE) bert_lamb.bench.parity data.name=bench_loader 'data.seq_lens=[64,128,512]' $(ARGS)

bench-gpu: install ## one GPU: ceilings, our step, HF Trainer, LAMB (docs/results/gpu.md); ARGS='--part ceilings'
	$(STAGE) bert_lamb.bench.gpu $(ARGS)

bench-loader: install ## batches a core makes, against what a GPU eats (docs/results/loader.md)
	$(STAGE) data_prep.prepare data.name=bench_loader 'data.seq_lens=[64,128,512]' data.passes=1
	$(STAGE) bert_lamb.bench.loader data.name=bench_loader 'data.seq_lens=[64,128,512]' $(ARGS)

bench-data: install ## prepare beside other pipelines: ARGS='--text /my/texts --vocab /my/vocab.txt' (docs/results/data.md)
	$(PY) -m bert_lamb.bench.data $(ARGS)

study: install ## what pretraining on the embedded corpus is worth, over seeds and controls (hours)
	$(STAGE) bert_lamb.bench.sample_study $(ARGS)

figures: install ## the figures of docs/schedules.md, drawn from the recipes
	$(STAGE) bert_lamb.bench.schedule_figures

check: install ## lint, format and types
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

test: check ## all tests that need neither root nor GPU
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n 2

test-data: install ## kills prepare at random moments on 200 MB of your text: ARGS='--text /my/texts' (docs/results/data.md)
	@OMP_NUM_THREADS=1 PYTHONPATH=. $(PY) tests/data_prep/store/kill_study.py $(ARGS)

TRITON := build/triton/triton
$(TRITON): $(VENV)/installed
	$(PY) -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps --upgrade --target build/triton triton==3.6.0
	@touch $@

test-triton: $(TRITON) ## Triton's kernels by its interpreter (188 MB), and on a GPU where there is one
	@OMP_NUM_THREADS=1 TRITON_INTERPRET=1 PYTHONPATH=build/triton $(PY) -m pytest tests/optim/test_triton.py
	@$(PY) -m pytest tests/optim/test_triton.py -rs || [ $$? -eq 5 ] # 5: skipped as a whole, without a GPU

bench-optim: install ## time of an optimizer's step beside others' (docs/results/optim.md)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[bench]'
	MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=34359738368 $(PY) -m bert_lamb.bench.optim $(ARGS)

mutants: $(TRITON) ## plants mistakes, one at a time, in optimizer, data, step, SQuAD, ...: each must turn its tests red
	@$(PY) tests/law_mutants.py
	@$(PY) tests/optim/mutants.py
