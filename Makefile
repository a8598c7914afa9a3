# Everything a fresh machine needs beyond Debian's python3.11 (with venv), make and git is installed from here.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test test-system chaos smoke lint install system-packages clean

## the main job: Figure 9 of CuDFKD on handwritten digits, 9 cells and their teacher
demo: $(STAMP)
	$(BIN)/sweep run cudfkd/fig9 --profile demo

## linters, types, import contracts and the tests that need no server
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not system and not gpu and not latex"

## 100 kills over a sweep of 48 trials with a real MLflow server on a real PostgreSQL; about 40 minutes on two idle cores
chaos: $(STAMP) system-packages
	$(BIN)/python -m tests.system.chaos --trials 48 --kills 100 --seed 0

## everything that docker/compose.yaml starts, natively, under a submitted sweep (cudfkd/fig8) that loses a worker and MLflow in its middle
smoke: $(STAMP) system-packages
	PYTHON=$(BIN)/python docker/smoke

## tests that start servers, browsers or many processes, or compile LaTeX
test-system: $(STAMP) system-packages
	$(BIN)/python -m pytest -m "system or latex"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

## Chromium and its driver, for the tests that look at pages as a person does; pdfLaTeX with booktabs and siunitx, and pdftotext, for the tables; faketime, for another day;
## PostgreSQL's programs, without the cluster that Debian would start; docker-compose, which checks compose.yaml without an engine; Slurm; g++, for torch.compile
system-packages:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
	  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q chromium chromium-driver; }
	@command -v pdftotext >/dev/null && kpsewhich booktabs.sty siunitx.sty hyperref.sty >/dev/null || \
	  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
	    texlive-latex-base texlive-latex-recommended texlive-science poppler-utils; }
	@command -v faketime >/dev/null || \
	  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends faketime; }
	@command -v g++ >/dev/null || \
	  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends g++; }
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
	  { mkdir -p /etc/postgresql-common/createcluster.d && \
	    echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/no-main-cluster.conf && \
	    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends postgresql; }
	@command -v docker-compose >/dev/null && command -v slurmctld >/dev/null && command -v munged >/dev/null || \
	  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
	    docker-compose slurm-wlm munge; }

clean:
	rm -rf $(VENV) build dist *.egg-info
