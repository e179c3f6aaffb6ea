"""A training run that is killed, whose files are damaged, or whose numbers go wrong."""

import contextlib
import dataclasses
import json
import math
import os
import random
import re
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from helpers import training
from helpers.encoding import IGNORE, Encoded, EncodingError, batches_by_length, pad_batch
from helpers.training import (
    History,
    TrainingError,
    TrainSettings,
    load_finished,
    make_optimizer,
    small_step,
    train,
    training_step,
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


@pytest.fixture(autouse=True, scope="module")
def checkpoint_at_each_validation():
    """Else it would depend on the machine's speed which validations write one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "TRAINING_PER_WRITING", 0)
        yield


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Quicker for so small a model, and a copy of this process has no more than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def losses(history):
    return [(r.step, r.loss) for r in history.steps + history.validations]


def same_bits(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in theirs)


# Kills


def run_to_the_end(folder: Path, settings: TrainSettings, doom=None) -> None:
    """What each process does: train, and keep what came out; with a doom it meets that instead."""
    with open(f"{folder}.said", "w") as said, contextlib.redirect_stdout(said):
        model = tiny_model()
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = 0.1  # so that the state of chance counts as well
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
    with safe_open(f"{folder}.end", framework="pt") as file:
        history = History.from_json(file.metadata()["history"])
    return losses(history), load_file(f"{folder}.end")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """For both modes: where the undisturbed run is, its writings and its seconds."""
    ends = {}
    for memory in ("normal", "small"):
        folder = tmp_path_factory.mktemp("undisturbed") / memory
        settings = dataclasses.replace(SETTINGS, memory=memory)
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


# Interrupts


@pytest.mark.parametrize("rename", range(1, 11))
def test_an_interrupt_between_two_renames_loses_nothing(broken_off, tmp_path, monkeypatch, rename):
    real, renames = os.replace, []

    def interrupted(*names):
        renames.append(names)
        if len(renames) == rename:
            raise KeyboardInterrupt
        real(*names)

    monkeypatch.setattr(os, "replace", interrupted)
    # The first file of a run is on the disk before there is anything that could be kept.
    stopped = pytest.raises(KeyboardInterrupt) if rename == 1 else contextlib.nullcontext()
    model = tiny_model()
    with stopped:
        history = train(model, TRAIN, VALIDATION, SETTINGS, PAD, tmp_path)
        assert history.stopped == "interrupted"
        assert training.mean_loss(model, VALIDATION, PAD) == history.best.loss
    monkeypatch.undo()
    assert_the_same_end(tmp_path, broken_off)


# Damaged files


@dataclasses.dataclass
class BrokenOff:
    """A run that was interrupted after step 8, and what it comes to in the end."""

    folder: Path
    losses: list
    weights: dict


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory):
    def interrupt(history):
        if len(history.steps) == 8 and history.stopped == "running":
            raise KeyboardInterrupt

    folder, whole = tmp_path_factory.mktemp("broken off"), tiny_model()
    train(tiny_model(), TRAIN, VALIDATION, SETTINGS, PAD, folder / "run", watch=interrupt)
    history = train(whole, TRAIN, VALIDATION, SETTINGS, PAD, folder / "whole")
    other = dataclasses.replace(SETTINGS, seed=5)
    train(tiny_model(), TRAIN, VALIDATION, other, PAD, folder / "other", watch=interrupt)
    assert [look.step for look in history.validations] == [0, 2, 5, 7, 10]
    # Each validation was better than the one before it, so each wrote both files.
    assert [look.loss for look in history.validations] == sorted(
        (look.loss for look in history.validations), reverse=True
    )
    return BrokenOff(folder, losses(history), weights(whole))


def assert_the_same_end(folder: Path, broken_off: BrokenOff) -> None:
    model = tiny_model()
    history = train(model, TRAIN, VALIDATION, SETTINGS, PAD, folder)
    assert history.stopped == "finished"
    assert losses(history) == broken_off.losses
    assert same_bits(weights(model), broken_off.weights)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)


def header_bits(path: Path) -> range:
    """The bits of the names, shapes and notes of a safetensors file: after its length, 8 bytes."""
    return range(64, 64 + 8 * int.from_bytes(path.read_bytes()[:8], "little"))


def cut_off(path: Path, _: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def without_last_byte(path: Path, _: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def emptied(path: Path, _: Path) -> None:
    os.truncate(path, 0)


def one_bit_of_a_weight(path: Path, _: Path) -> None:
    flip(path, 8 * path.stat().st_size - 1000)


def one_bit_of_the_notes(path: Path, _: Path) -> None:
    # In a number that stands there, so that all can still be read.
    number = re.search(rb"__metadata__.*?[^0-9a-f](\d)", path.read_bytes()).start(1)
    flip(path, 8 * number)


def one_bit_of_the_length(path: Path, _: Path) -> None:
    flip(path, 40)


def text(path: Path, _: Path) -> None:
    path.write_text("Not a model at all.")


def of_another_program(path: Path, _: Path) -> None:
    save_file(weights(tiny_model()), path, metadata={"format": "pt"})


def of_another_run(path: Path, folder: Path) -> None:
    shutil.copy(folder / "other" / path.name, path)


DAMAGED = r"is damaged \("
DAMAGES = {
    cut_off: DAMAGED,
    without_last_byte: DAMAGED,
    emptied: DAMAGED,
    one_bit_of_a_weight: "does not have the hash that was noted",
    one_bit_of_the_notes: "does not have the hash that was noted",
    one_bit_of_the_length: DAMAGED,
    text: DAMAGED,
    of_another_program: "was not written by this course",
    of_another_run: "belongs to a run with other settings or examples",
}
CHECKPOINT, BEST = "checkpoint.safetensors", "best.safetensors"
FORMER = "checkpoint.previous.safetensors"


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_kept_aside_and_the_one_before_it_is_used(
    broken_off, tmp_path, capsys, damage
):
    folder = shutil.copytree(broken_off.folder / "run", tmp_path / "run")
    damage(folder / CHECKPOINT, broken_off.folder)
    damaged = (folder / CHECKPOINT).read_bytes()
    assert_the_same_end(folder, broken_off)
    said = capsys.readouterr().out
    assert re.search(f"{CHECKPOINT} .*{DAMAGES[damage]}.*kept as {CHECKPOINT}.damaged", said)
    assert "Going on from the checkpoint of step 5" in said
    assert (folder / f"{CHECKPOINT}.damaged").read_bytes() == damaged


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_with_both_checkpoints_damaged_the_run_starts_anew(broken_off, tmp_path, capsys, damage):
    folder = shutil.copytree(broken_off.folder / "run", tmp_path / "run")
    for name in (CHECKPOINT, FORMER):
        damage(folder / name, broken_off.folder)
    assert_the_same_end(folder, broken_off)
    said = capsys.readouterr().out
    assert len(re.findall(DAMAGES[damage], said)) == 2
    assert "Going on" not in said
    assert (folder / f"{CHECKPOINT}.damaged").exists() and (folder / f"{FORMER}.damaged").exists()


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_with_damaged_best_weights_the_checkpoint_before_is_used(
    broken_off, tmp_path, capsys, damage
):
    folder = shutil.copytree(broken_off.folder / "run", tmp_path / "run")
    damage(folder / BEST, broken_off.folder)
    assert_the_same_end(folder, broken_off)
    said = capsys.readouterr().out
    assert re.search(f"{BEST} .*{DAMAGES[damage]}.*kept as {BEST}.damaged", said)
    assert "has lost its best weights, those of step 7" in said
    assert "Going on from the checkpoint of step 5" in said


def test_no_flipped_bit_of_a_checkpoint_goes_unseen(broken_off, tmp_path, capsys):
    path, draw = tmp_path / CHECKPOINT, random.Random(0)
    whole = broken_off.folder / "run" / CHECKPOINT
    header = header_bits(whole)
    everywhere = range(8 * whole.stat().st_size)
    for place in draw.sample(header, 150) + draw.sample(everywhere, 50):
        shutil.copy(whole, path)
        flip(path, place)
        assert training._read_notes(path) is None, place
        assert "kept as" in capsys.readouterr().out
        assert not path.exists()


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_best_weights_of_a_finished_run_are_not_loaded(
    broken_off, tmp_path, capsys, damage
):
    folder = shutil.copytree(broken_off.folder / "whole", tmp_path / "whole")
    damage(folder / BEST, broken_off.folder)
    model = tiny_model()
    assert load_finished(model, TRAIN, SETTINGS, folder) is None
    assert same_bits(weights(model), weights(tiny_model()))
    assert re.search(f"{DAMAGES[damage]}.*kept as {BEST}.damaged", capsys.readouterr().out)


def another_digit(content: str) -> str:
    return content.replace('loss\\": ', 'loss\\": 1', 1)


def without_looks(content: str) -> str:
    kept = json.loads(content)
    return json.dumps({**kept, "history": json.dumps({"total_steps": 10, "steps_per_epoch": 5})})


SPOILT = {
    "cut off": lambda content: content[:-100],
    "emptied": lambda content: "",
    "another digit": another_digit,
    "no looks": without_looks,
    "a list": lambda content: "[1, 2]",
    "a number": lambda content: "3",
    "not UTF-8": lambda content: content.replace("run", "r\udcffn", 1),
    "of another program": lambda content: '{"run": 1, "history": {}, "sha256": 2}',
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_damaged_history_is_kept_aside(broken_off, tmp_path, capsys, spoil):
    folder = shutil.copytree(broken_off.folder / "whole", tmp_path / "whole")
    path, model = folder / "history.json", tiny_model()
    content = path.read_text(encoding="utf-8")
    spoilt = spoil(content).encode("utf-8", errors="surrogateescape")
    assert spoilt != content.encode("utf-8")
    path.write_bytes(spoilt)
    assert load_finished(model, TRAIN, SETTINGS, folder) is None
    assert same_bits(weights(model), weights(tiny_model()))
    said = capsys.readouterr().out
    assert "history.json is damaged" in said and "kept as history.json.damaged" in said
    assert (folder / "history.json.damaged").read_bytes() == spoilt


# Numbers that go wrong


@MODES
def test_a_loss_that_goes_wrong_names_the_step_and_its_examples(tmp_path, memory):
    model, after = tiny_model(), {}

    def spoil(history):
        if len(history.steps) == 8:
            with torch.no_grad():
                model.model.norm.weight[0] = math.inf
            after.update(weights(model))

    settings = dataclasses.replace(SETTINGS, memory=memory)
    batches = batches_by_length([len(one.input_ids) for one in TRAIN], 8, seed=1)
    rows = ", ".join(map(str, batches[3]))
    message = f"Step 9, with the training examples at index {rows}: The loss of this step is "
    with pytest.raises(TrainingError, match=message + ".*weights were left as they are"):
        train(model, TRAIN, VALIDATION, settings, PAD, tmp_path, watch=spoil)
    assert same_bits(weights(model), after)


def one_step(model, memory, batch):
    optimizer = make_optimizer(model, dataclasses.replace(SETTINGS, memory=memory))
    if memory == "small":
        return small_step(model, optimizer, batch)
    return training_step(model, optimizer, [batch], clip=1.0)


@MODES
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_step_without_a_finite_loss_leaves_all_as_it_was(memory, bad):
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight[0] = bad
    before = weights(model)
    with pytest.raises(TrainingError, match="weights were left as they are"):
        one_step(model, memory, pad_batch(TRAIN[:4], PAD))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name], rtol=0, atol=0, equal_nan=True)
        assert parameter.grad is None


@MODES
def test_a_step_with_all_labels_masked_is_refused(memory):
    model = tiny_model()
    masked = [Encoded(one.input_ids, [IGNORE] * len(one.labels)) for one in TRAIN[:4]]
    with pytest.raises(TrainingError, match="No token of this batch has a label that counts"):
        one_step(model, memory, pad_batch(masked, PAD))
    assert same_bits(weights(model), weights(tiny_model()))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_gradient_that_is_not_finite_leaves_the_weights_alone():
    model = tiny_model()
    model.model.norm.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match="weights were left as they are"):
        one_step(model, "normal", pad_batch(TRAIN[:4], PAD))
    assert same_bits(weights(model), weights(tiny_model()))


def test_a_small_step_with_such_a_gradient_says_what_has_changed():
    model = tiny_model()
    model.model.layers[0].mlp.up_proj.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match="Some weights have changed.*load the model again"):
        one_step(model, "small", pad_batch(TRAIN[:4], PAD))
    assert all(parameter.grad is None for parameter in model.parameters())


LAST = len(tiny_model().get_input_embeddings().weight) - 1
BAD = {
    "all labels masked": (Encoded([5, 6, 7], [IGNORE] * 3), "no label that counts"),
    "only the first label": (Encoded([5, 6, 7], [5, IGNORE, IGNORE]), "no label that counts"),
    "one token": (Encoded([5], [5]), "no label that counts"),
    "nothing": (Encoded([], []), "no label that counts"),
    "id too large": (Encoded([5, LAST + 1], [IGNORE, 6]), f"the token id {LAST + 1}"),
    "id below 0": (Encoded([-1, 6], [IGNORE, 6]), "the token id -1"),
    "label too large": (Encoded([5, 6], [IGNORE, 10**9]), "the token id 1000000000"),
    "label below 0": (Encoded([5, 6], [IGNORE, -1]), "the token id -1"),
    "more labels": (Encoded([5, 6], [IGNORE, 6, 7]), "2 tokens and 3 labels"),
    "fewer labels": (Encoded([5, 6, 7], [IGNORE, 6]), "3 tokens and 2 labels"),
}


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("which", ["training", "validation"])
def test_bad_examples_are_refused_before_anything_changes(tmp_path, which, bad, message):
    model, sets = tiny_model(), {"training": list(TRAIN), "validation": list(VALIDATION)}
    sets[which][3] = bad
    with pytest.raises(EncodingError, match=f"example at index 3 .*{message}"):
        train(model, sets["training"], sets["validation"], SETTINGS, PAD, tmp_path / "run")
    assert same_bits(weights(model), weights(tiny_model()))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "float16"}, "precision is 'float16'; it can be 'float32' or 'bfloat16'"),
        ({"memory": "tiny"}, "memory is 'tiny'; it can be 'normal' or 'small'"),
        ({"micro_batch": 0}, "micro_batch is 0"),
        ({"validations": 0}, "validations is 0"),
        ({"clip": -1.0}, "clip is -1.0"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"learning_rate": math.inf}, "learning_rate is inf"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, change, message):
    settings = dataclasses.replace(SETTINGS, **change)
    with pytest.raises(TrainingError, match=re.escape(message)):
        train(tiny_model(), TRAIN, VALIDATION, settings, PAD, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# The same numbers


def test_the_same_seed_gives_the_same_bits_in_another_process(undisturbed, tmp_path):
    whole, _, _ = undisturbed["normal"]
    folder = tmp_path / "again"
    assert how_it_ended(another_process(partial(run_to_the_end, folder, SETTINGS))) == 0
    (our_losses, ours), (their_losses, theirs) = the_end(folder), the_end(whole)
    assert our_losses == their_losses
    assert same_bits(ours, theirs)


def test_a_second_thread_changes_late_decimals_only(broken_off, tmp_path):
    try:
        torch.set_num_threads(2)
        history = train(tiny_model(), TRAIN, VALIDATION, SETTINGS, PAD, tmp_path)
    finally:
        torch.set_num_threads(1)
    for (step, ours), (_, theirs) in zip(losses(history), broken_off.losses, strict=True):
        # Sums in another order differ in the seventh digit, and each step makes that larger.
        assert ours == pytest.approx(theirs, rel=1e-3), step
