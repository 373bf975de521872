# Each target makes .venv on first use. The stamp is written last, so that a half-finished set-up is done again.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PROFILE ?= standard
ARGS ?=
STAMP := .venv/.installed

.PHONY: report tune test lint bench lab clean

report: $(STAMP)
	.venv/bin/python -m fedauto_core report --profile $(PROFILE) $(ARGS)

# Runs the grids of step sizes anew and keeps them in fedauto_core/tuned/, from where `make report` takes them.
tune: $(STAMP)
	FEDAUTO_STORE_TUNING=1 .venv/bin/python -m fedauto_core report --profile $(PROFILE) --only '10_*' --only '11_*' \
		--only '13_*' --out reports/scratch/tuning $(ARGS)

test: $(STAMP)
	.venv/bin/pytest $(ARGS)

lint: $(STAMP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/nbstripout --keep-id --verify notebooks/*.ipynb

bench: $(STAMP)
	.venv/bin/python -m fedauto_core.benchmark $(ARGS)

lab: $(STAMP)
	.venv/bin/jupyter lab --notebook-dir notebooks

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis reports/scratch
	find fedauto_core tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

$(STAMP): pyproject.toml
	rm -f $@
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[certificates,dev,text]'
	touch $@
