# The work is done by tools/make.py, which also runs where there is no make: python tools/make.py lab
PYTHON ?= python3

.PHONY: lab course book test test-oldest bench check setup constraints
lab course book test test-oldest bench check setup constraints:
	@$(PYTHON) tools/make.py $@ $(ARGS)
