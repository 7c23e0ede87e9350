# Everything starts from a Python 3.10 to 3.13 with pip: `make lab` to read, `make test` to check.
PYTHON ?= python3
BIN = .venv/bin
READY = .venv/ready
LEDGER = $(CURDIR)/.build/ledger.jsonl

lab: $(READY)              ## open the course in JupyterLab
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

test: $(READY)             ## lint, unit tests, every notebook under strict comparison, the equation ledger
	$(BIN)/ruff check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto tests
	@mkdir -p $(dir $(LEDGER)) && rm -f $(LEDGER)
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 USRLIB_LEDGER=$(LEDGER) $(BIN)/pytest -n auto --dist loadscope \
		--nbval --nbval-current-env --nbval-kernel-startup-timeout=300 --nbval-cell-timeout=300 \
		--nbval-sanitize-with tests/nbval.cfg notebooks
	USRLIB_LEDGER=$(LEDGER) $(BIN)/pytest tests/test_ledger.py

notebooks: $(READY)        ## run every notebook in place, rewrite figures/ and the table of equations
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python notebooks/build.py

html: $(READY)             ## the notebooks as pages to read in a browser, in html/
	$(BIN)/jupyter nbconvert --to html --template reading --TemplateExporter.extra_template_basedirs=notebooks \
		--output-dir html $(HTML) notebooks/*.ipynb

benchmark: $(READY)        ## time the data step and the explorers; writes figures/benchmark.json and .png
	CUDA_VISIBLE_DEVICES= $(BIN)/python tests/benchmark.py

MEASURE = $(BIN)/python -m usrlib.evaluation --images own --rows 2:0,3:0,3:2.55,3:7.65,4:0 --kernels own
OWN = bicubic wiener tv pnp tiny
own_bicubic = --method bicubic
own_wiener = --method wiener
own_tv = --method tv
own_pnp = --method pnp --weights denoiser
own_tiny = --weights tiny
evaluate: $(READY)         ## measure the methods on the course's own pictures again, and say whether results/ holds
	@mkdir -p .build && rm -f .build/own_*.json
	$(foreach name,$(OWN),$(MEASURE) $(own_$(name)) --out .build/own_$(name).json --against results/own_$(name).json &&) true

results: $(READY)          ## measure them, and write them anew, in results/
	rm -f $(OWN:%=results/own_%.json)
	$(foreach name,$(OWN),$(MEASURE) $(own_$(name)) --out results/own_$(name).json &&) true

clean:                     ## remove the environment and everything that can be made again
	rm -rf .venv .build html .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[course,test]"
	@touch $(READY)

.PHONY: lab test notebooks html benchmark evaluate results clean
