"""`python -m helpers.model` fetches and converts the starting model; `make setup` calls it."""

import sys

from transformers.utils import logging

from helpers.model.load import ModelError, prepare_starting_model

logging.disable_progress_bar()
try:
    print(f"The starting model is in {prepare_starting_model()}.")
except ModelError as problem:
    sys.exit(f"{problem}")
