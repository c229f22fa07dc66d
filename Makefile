# Two commands matter: `make quickstart` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: quickstart test test-all card browser lint lab bench gpu readme install-cell release test-colab resolve-colab docs tiny clean

quickstart: $(INSTALLED)  ## a first clip, on the bundled model: no GPU, no account, no download of weights
	@mkdir -p results/quickstart
	$(BIN)/papermill --engine svdlab --log-level WARNING --no-progress-bar notebooks/01_quickstart.ipynb results/quickstart/01_quickstart.ipynb \
	  -p variant tiny
	@echo
	@echo "The executed notebook: results/quickstart/01_quickstart.ipynb"
	@echo "The video:             $$(ls -t results/quickstart/clip*.mp4 | head -1)"

test: $(INSTALLED)  ## everything that needs neither a GPU nor a browser, in minutes
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-all: $(INSTALLED)  ## and what takes minutes more, with a browser where Chromium is installed
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not gpu"

card: $(INSTALLED)  ## what needs a card, on a pretended one, in minutes; CI runs it too. On a real card: pytest -m gpu
	$(BIN)/python -m pytest -m slow tests/test_pretended_card.py

browser: $(INSTALLED)  ## JupyterLab in headless Chromium
	$(BIN)/python -m pytest -n 2 --dist loadfile -m browser

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf build/notebooks && mkdir -p build/notebooks
	$(BIN)/jupyter nbconvert --log-level ERROR --to python --output-dir build/notebooks notebooks/*.ipynb
	$(BIN)/pyright

lab: $(INSTALLED)  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks

bench: $(INSTALLED)  ## ratios, each measured in one run: what a sweep costs, what a warm kernel saves, what a second worker adds
	$(BIN)/python benchmarks/sweep_overhead.py
	$(BIN)/python benchmarks/warm_kernel.py
	$(BIN)/python benchmarks/cluster.py

gpu:  ## what this machine's card makes of a full-size clip, part by part in eight minutes, with or without .venv
	PYTHONPATH=.$${PYTHONPATH:+:$$PYTHONPATH} $(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu.py $(ARGS)

readme: $(INSTALLED)  ## the table of optimisations in docs/, from their own words
	$(BIN)/python benchmarks/reference.py --readme

install-cell: $(INSTALLED)  ## the line that installs svdlab, from pyproject.toml into the notebooks and the README
	$(BIN)/python -m release.install_cell

release: $(INSTALLED)  ## wheel and sdist, checked; a clip from the wheel in a fresh environment; dist/PUBLISH.md says the rest
	$(BIN)/python -m release.release

build/colab/made: constraints-colab.txt pyproject.toml release/colab_environment.py | $(INSTALLED)
	$(BIN)/python -m release.colab_environment
	@touch $@

COLAB := quickstart[14] micro_conditioning memory_and_speed review troubleshooting[4-14]  # each notebook once
test-colab: build/colab/made  ## an environment like Colab's, and in it the notebooks, the hub, and the panel in a classic notebook
	PYTHONPATH=$(CURDIR) build/colab/bin/python -m pytest -m "not gpu" $(COLAB:%=tests/test_notebooks.py::test_%)
	PYTHONPATH=$(CURDIR) build/colab/bin/python -m pytest tests/test_hub.py
	$(BIN)/python -m pytest -m "browser and slow" tests/browser/test_colab_in_browser.py

resolve-colab: $(INSTALLED)  ## whether svdlab goes together with Colab's versions, by pip's own resolution
	$(BIN)/python -m release.colab_environment --resolve

.DELETE_ON_ERROR:  # a notebook that failed half way is run again
RUN := build/notebooks_run
$(RUN)/01_quickstart.ipynb: ARGS = -p variant tiny
$(RUN)/02_micro_conditioning.ipynb: ARGS = -y "{axes: {motion_bucket_id: [20, 127, 220], seed: [1, 2, 3]}}"
$(RUN)/%.ipynb: notebooks/%.ipynb
	@mkdir -p $(RUN)
	$(BIN)/papermill --engine svdlab --log-level WARNING --no-progress-bar --cwd $(RUN) $(ARGS) $< $@

docs: $(INSTALLED) $(patsubst notebooks/%,$(RUN)/%,$(wildcard notebooks/*.ipynb))  ## the site: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

tiny:  ## train the bundled model's next edition, on a card in ten minutes; goes on from checkpoints/tiny (training/README.md)
	PYTHONPATH=.$${PYTHONPATH:+:$$PYTHONPATH} $(or $(wildcard $(BIN)/python),$(PYTHON)) -m training.train $(ARGS)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[notebooks,lab,dev]"
	@touch $(INSTALLED)

clean:
	rm -rf .venv build dist
