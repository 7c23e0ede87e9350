# Everything starts from a Python of at least 3.10 with pip: `make lab` to read, `make test` to check.
PYTHON ?= python3
BIN = .venv/bin
READY = .venv/ready
LEDGER = $(CURDIR)/.build/ledger.jsonl

lab: $(READY)              ## open the course in JupyterLab
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

test: $(READY)             ## lint, unit tests, every notebook under strict comparison, the equation ledger
	$(BIN)/ruff check
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/pytest -n auto tests
	@mkdir -p $(dir $(LEDGER)) && rm -f $(LEDGER)
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 USRLIB_LEDGER=$(LEDGER) $(BIN)/pytest -n auto --dist loadscope \
		--nbval --nbval-current-env --nbval-cell-timeout=300 --nbval-sanitize-with tests/nbval.cfg notebooks
	USRLIB_LEDGER=$(LEDGER) $(BIN)/pytest tests/test_ledger.py

notebooks: $(READY)        ## run every notebook in place, rewrite figures/ and the table of equations
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python notebooks/build.py

benchmark: $(READY)        ## time the data step and the explorers; writes figures/benchmark.json and .png
	CUDA_VISIBLE_DEVICES= $(BIN)/python tests/benchmark.py

clean:                     ## remove the environment and everything that can be made again
	rm -rf .venv .build .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[course,test]"
	@touch $(READY)

.PHONY: lab test notebooks benchmark clean
