# Each target makes .venv (bench PEERS=1: .venv-peers, appfl: .venv-appfl) on first use. The stamp is written last, so that
# a half-finished set-up is done again. It carries Python's version: another PYTHON makes a new .venv; without PYTHON an
# existing .venv keeps its own.
VERSION_OF = $(shell $(1) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 15) and print("%d.%d" % v)' 2>/dev/null)
FOUND = $(if $(call VERSION_OF,$(1)),$(1))
ifndef PYTHON
PYTHON := $(or $(call FOUND,.venv/bin/python),$(call FOUND,python3.11),$(call FOUND,python3.12),$(call FOUND,python3.13),\
	$(call FOUND,python3.14),$(call FOUND,python3))
endif
VERSION := $(call VERSION_OF,$(PYTHON))
STAMP := .venv/.installed-$(VERSION)
PEERS_STAMP := .venv-peers/.installed-$(VERSION)
APPFL_STAMP := .venv-appfl/.installed-$(VERSION)
PROFILE ?= standard
ARGS ?=

.PHONY: setup report tune test lint proof bench deploy appfl lab lock clean

setup: $(STAMP)

report: $(STAMP)
	.venv/bin/python -m fedauto_core report --profile $(PROFILE) $(ARGS)

# Runs the grids of step sizes anew and keeps them in fedauto_core/experiments/tuned/, from where `make report` takes them.
tune: $(STAMP)
	FEDAUTO_STORE_TUNING=1 .venv/bin/python -m fedauto_core report --profile $(PROFILE) --only '10_*' --only '11_*' \
		--only '12_*' --only '13_*' --only '15_*' --out reports/scratch/tuning $(ARGS)

# Two processes of a thread each, whatever the machine: several tests start two processes of their own.
test: $(STAMP)
	OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(STAMP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/nbstripout --keep-id --verify notebooks/*.ipynb

# Optional: Debian's Coq checks one round of the theorems and prints the axioms that it used.
proof:
	@command -v coqc > /dev/null || { echo 'coqc is missing: apt-get install coq'; exit 1; }
	mkdir -p reports/scratch/proof
	cd reports/scratch/proof && coqc -q -noglob -o one_round.vo $(CURDIR)/docs/proof/one_round.v

# With PEERS=1 beside FedJAX and Flower's simulation, in an environment of its own.
bench: $(if $(PEERS),$(PEERS_STAMP),$(STAMP))
	$(if $(PEERS),.venv-peers,.venv)/bin/python -m fedauto_core.benchmark $(if $(PEERS),--peers )$(ARGS)

# Flower's SuperLink and six SuperNodes over links that fail; root gives each a network namespace.
deploy: $(STAMP)
	.venv/bin/python -m fedauto_core.flower.deploy $(ARGS)

# FedAuto and FedAvg in APPFL's simulation, in an environment of its own.
appfl: $(APPFL_STAMP)
	PYTHONPATH=examples/flower .venv-appfl/bin/python examples/appfl/simulate.py

lab: $(STAMP)
	.venv/bin/jupyter lab --notebook-dir notebooks

clean:
	rm -rf .venv .venv-peers .venv-appfl .pytest_cache .ruff_cache .hypothesis reports/scratch
	find fedauto_core tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

# Pins what pyproject.toml asks for, keeping the pins that fit; ARGS='--upgrade-package numpy' renews one. APPFL has pins
# of its own, since it does not go together with the extra [text].
PIN = .venv/bin/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --only-binary :all: \
	--no-annotate --custom-compile-command 'make lock' $(ARGS) pyproject.toml
EXTRAS = certificates cluster dev flower peers text
lock:
	$(PIN) $(EXTRAS:%=--extra %) --output-file constraints.txt
	$(PIN) --extra appfl --output-file examples/appfl/constraints.txt

$(STAMP): INSTALL = -c constraints.txt -e '.[certificates,cluster,dev,flower,text]'
$(PEERS_STAMP): INSTALL = -c constraints.txt -e '.[peers]'
$(APPFL_STAMP): INSTALL = -c examples/appfl/constraints.txt -e '.[appfl]'
$(STAMP) $(PEERS_STAMP): constraints.txt
$(APPFL_STAMP): examples/appfl/constraints.txt
$(STAMP) $(PEERS_STAMP) $(APPFL_STAMP): pyproject.toml
	$(if $(VERSION),,$(error No Python 3.11 to 3.14 found$(if $(PYTHON), ($(PYTHON) is none)); name one: make PYTHON=/path/to/python3.12))
	rm -f $(@D)/.installed*
	$(PYTHON) -m venv $(if $(filter $(VERSION),$(call VERSION_OF,$(@D)/bin/python)),,--clear) $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(INSTALL)
	touch $@
