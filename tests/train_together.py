"""What tests/test_training_processes.py starts in several processes: small runs, one by one.

    torchrun --nproc-per-node 2 -m tests.train_together RUNS

RUNS is JSON, a list. Each run has a folder and may have: family (a name of tests/families.py, or
"tiny"), die (number of the step after which the second process is killed, while a third one is
busy and does not wait for it), and fields of TrainSettings to change.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

import torch
from datasets import disable_progress_bars

from helpers.training import History, train
from helpers.training.processes import join_processes, process_index
from tests.families import family_model
from tests.made_up import COLLATE, SETTINGS, made_up
from tests.processes import die
from tests.tiny import tiny_model


def one_run(family: str, settings: dict, folder: Path, watch=None) -> History:
    """A small run in this process, or in this one's part of several."""
    model = tiny_model() if family == "tiny" else family_model(family)
    for module in model.modules():  # what is dropped depends on the process
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    apart = model.config.is_encoder_decoder
    # 41 rows: the last batch has one, so that one of two processes has none.
    sets = [made_up(count, seed, apart=apart) for seed, count in enumerate((41, 12))]
    settings = dataclasses.replace(SETTINGS, **settings)
    return train(model, *sets, settings, COLLATE, folder, watch=watch)


def main(runs: str) -> None:
    torch.set_num_threads(1)
    disable_progress_bars()
    join_processes()
    for settings in json.loads(runs):
        folder, die_at = Path(settings.pop("folder")), settings.pop("die", None)

        def watch(history, die_at=die_at):
            if len(history.steps) == die_at:
                if process_index() == 1:
                    die()
                time.sleep(60 * (process_index() == 2))

        history = one_run(settings.pop("family", "tiny"), settings, folder, watch)
        if process_index() == 0:
            (folder / "result.json").write_text(history.to_json(), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
