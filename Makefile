# The work is done by tools/make.py, which also runs where there is no make: python tools/make.py lab
PYTHON ?= python3

.PHONY: lab course book test test-rest test-oldest bench check setup constraints teaching handout solutions grade wheelhouse
lab course book test test-rest test-oldest bench check setup constraints teaching handout solutions grade wheelhouse:
	@$(PYTHON) tools/make.py $@ $(ARGS)
