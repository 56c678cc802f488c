# Mirrors the verbs of `python3 -m linker`, for those whose fingers know make.
.PHONY: demo test plan run status
MANIFEST ?= workflow/resources/demo/manifest.csv
RESULTS ?= results/demo

demo test:
	python3 -m linker $@

plan run status:
	python3 -m linker $@ $(MANIFEST) --results $(RESULTS)
