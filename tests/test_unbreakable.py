"""A training run that is killed, whose files are damaged, or whose numbers go wrong."""

import contextlib
import dataclasses
import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import training
from helpers.encoding import IGNORE, Encoded
from helpers.training import (
    History,
    TrainSettings,
    train,
)
from tests.processes import another_process, die, how_it_ended
from tests.tiny import tiny_model

PAD = 1


def made_up(count: int, seed: int) -> list[Encoded]:
    """Examples of random ids; the completion repeats the end of the prompt, so it can be learnt."""
    draw, encoded = random.Random(seed), []
    for _ in range(count):
        prompt = [draw.randrange(2, 40) for _ in range(draw.randint(4, 16))]
        completion = prompt[-draw.randint(1, 3) :]
        encoded.append(Encoded(prompt + completion, [IGNORE] * len(prompt) + completion))
    return encoded


TRAIN, VALIDATION = made_up(40, seed=0), made_up(12, seed=1)
# The same arithmetic on every machine.
SETTINGS = TrainSettings(
    epochs=2,
    batch_size=8,
    micro_batch=4,
    learning_rate=1e-2,
    validations=2,
    precision="float32",
    memory="normal",
)
MODES = pytest.mark.parametrize("memory", ["normal", "small"])


@pytest.fixture(autouse=True)
def checkpoint_at_each_validation(monkeypatch):
    """Else it would depend on the machine's speed which validations write one."""
    monkeypatch.setattr(training, "TRAINING_PER_WRITING", 0)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def losses(history):
    return [(r.step, r.loss) for r in history.steps + history.validations]


def same_bits(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in theirs)


# Kills


def run_to_the_end(folder: Path, settings: TrainSettings, doom=None) -> None:
    """What each process does: train, and keep what came out; with a doom it meets that instead."""
    torch.set_num_threads(1)  # threads of the process that this one is a copy of are not here
    with open(f"{folder}.said", "w") as said, contextlib.redirect_stdout(said):
        model = tiny_model()
        history = train(model, TRAIN, VALIDATION, settings, PAD, folder)
    if doom:
        doom()
    save_file(weights(model), f"{folder}.end", metadata={"history": history.to_json()})


def count_writing(at_call) -> None:
    """Call `at_call(number, what follows)` before each thing that is done to a file of the run."""
    number = 0

    def counted(real):
        def call(*given, **named):
            nonlocal number
            number += 1
            at_call(number, partial(real, *given, **named))
            return real(*given, **named)

        return call

    training.save_file = counted(training.save_file)
    os.replace, os.fsync = counted(os.replace), counted(os.fsync)
    Path.unlink = counted(Path.unlink)


def counting(folder: Path, settings: TrainSettings) -> None:
    """An undisturbed run that also notes how many things were done to its files."""
    numbers = [0]
    count_writing(lambda number, _: numbers.append(number))
    run_to_the_end(folder, settings)
    Path(f"{folder}.count").write_text(str(numbers[-1]))


def dying_in_writing(folder: Path, settings: TrainSettings, last: int) -> None:
    """A run that dies before the `last` thing that it does to a file, or with half a file.

    One that was taken up has less to write, and may die only when it has finished.
    """

    def at_call(number, real):
        if number == last:
            if real.func is save_file:
                real()
                part = real.args[1]
                os.truncate(part, os.path.getsize(part) // 2)
            die()

    count_writing(at_call)
    run_to_the_end(folder, settings, doom=die)


def the_end(folder: Path) -> tuple[list, dict]:
    with training.safe_open(f"{folder}.end", framework="pt") as file:
        history = History.from_json(file.metadata()["history"])
    return losses(history), load_file(f"{folder}.end")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """For both modes: where the undisturbed run is, its writings and its seconds."""
    ends = {}
    for memory in ("normal", "small"):
        folder = tmp_path_factory.mktemp("undisturbed") / memory
        settings = dataclasses.replace(SETTINGS, memory=memory)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "TRAINING_PER_WRITING", 0)
            begin = time.perf_counter()
            assert how_it_ended(another_process(partial(counting, folder, settings))) == 0
        seconds = time.perf_counter() - begin
        ends[memory] = folder, int(Path(f"{folder}.count").read_text()), seconds
    return ends


MOMENTS = [("normal", moment) for moment in range(10)] + [("small", 0), ("small", 9)]


# Moments 0 to 6 are within writing; at 7 to 9 the run is killed from outside, wherever it is.
@pytest.mark.parametrize(("memory", "moment"), MOMENTS)
def test_a_run_killed_anywhere_goes_on_to_the_same_bits(undisturbed, tmp_path, memory, moment):
    whole, writings, seconds = undisturbed[memory]
    settings, folder = dataclasses.replace(SETTINGS, memory=memory), tmp_path / "run"
    draw = random.Random(f"{memory} {moment}")
    # Every third run is killed once more when it has been taken up.
    for _ in range(2 if moment % 3 == 0 else 1):
        if moment < 7:
            last = draw.randint(1, writings)
            child = another_process(partial(dying_in_writing, folder, settings, last))
        else:
            wait = partial(time.sleep, 600)
            child = another_process(partial(run_to_the_end, folder, settings, doom=wait))
            time.sleep(draw.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
        assert how_it_ended(child) == -signal.SIGKILL

    was_there = list(folder.glob("checkpoint*.safetensors"))
    assert how_it_ended(another_process(partial(run_to_the_end, folder, settings))) == 0
    said = Path(f"{folder}.said").read_text()
    assert ("Going on from the checkpoint of step" in said) == bool(was_there)
    assert "kept as" not in said  # a kill damages nothing
    (our_losses, ours), (their_losses, theirs) = the_end(folder), the_end(whole)
    assert our_losses == their_losses
    assert same_bits(ours, theirs)
