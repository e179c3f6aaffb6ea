# The work is done by tools/make.py, which also runs where there is no make: python tools/make.py lab
PYTHON ?= python3

.PHONY: lab course test test-oldest bench setup constraints teaching handout solutions grade wheelhouse
lab course test test-oldest bench setup constraints teaching handout solutions grade wheelhouse:
	@$(PYTHON) tools/make.py $@ $(ARGS)
