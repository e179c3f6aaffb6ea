"""A run that is killed, interrupted, whose files are damaged, or whose folder is another's."""

import contextlib
import dataclasses
import json
import os
import pickle
import random
import shutil
import signal
import time
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from helpers.training import checkpoint
from helpers.training.checkpoint import RunFolder, load_finished
from helpers.training.loop import make_optimizer, train, training_step
from helpers.training.loss import evaluate_loss
from helpers.training.settings import TrainingError
from tests.made_up import (
    BATCH,
    COLLATE,
    SETTINGS,
    TRAIN,
    VALIDATION,
    interrupt_at,
    losses,
    same_bits,
    untouched,
    weights,
)
from tests.processes import another_process, die, how_it_ended, wait_for
from tests.refusals import refusal
from tests.tiny import tiny_model

CHECKPOINT, BEST, HISTORY = "checkpoint.pt", "best.pt", "history.json"
FORMER = "checkpoint.previous.pt"


@pytest.fixture(autouse=True, scope="module")
def checkpoint_at_each_evaluation():
    """Else it would depend on the machine's speed which evaluations write one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "TRAINING_PER_WRITING", 0)
        yield


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Quicker for so small a model, and a copy of this process has no more than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def learn(folder, settings=SETTINGS, model=None, watch=None):
    """A run of the tiny model. Returns (model, history)."""
    model = model or tiny_model()
    return model, train(model, TRAIN, VALIDATION, settings, COLLATE, folder, watch=watch)


def finished(folder, model=None, train_set=TRAIN, validation_set=VALIDATION, settings=SETTINGS):
    return load_finished(model or tiny_model(), train_set, validation_set, settings, folder)


def test_a_run_killed_while_it_stops_for_patience_does_not_train_on(tmp_path):
    settings = dataclasses.replace(SETTINGS, epochs=30, learning_rate=0.05, patience=2)
    model, whole = learn(tmp_path / "whole", settings)
    assert whole.stopped == "patience"

    def watch(history):
        if len(history.evaluations) == len(whole.evaluations) and history.stopped != "interrupted":
            raise KeyboardInterrupt

    _, stopped = learn(tmp_path / "cut", settings, watch=watch)
    assert stopped.stopped == "interrupted"
    again, resumed = learn(tmp_path / "cut", settings)
    assert resumed.stopped == "patience" and losses(resumed) == losses(whole)
    assert same_bits(weights(again), weights(model))


# Kills


def run_to_the_end(folder: Path, settings, doom=None) -> None:
    """What each process does: train, and keep what came out; with a doom it meets that instead."""
    model = tiny_model()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1  # so that what is dropped counts as well
    with open(f"{folder}.said", "w", encoding="utf-8") as said, contextlib.redirect_stdout(said):
        _, history = learn(folder, settings, model)
    if doom:
        doom()
    torch.save({"losses": losses(history), "weights": weights(model)}, f"{folder}.end")


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

    torch.save, os.replace, os.fsync = map(counted, (torch.save, os.replace, os.fsync))
    Path.unlink = counted(Path.unlink)


def counting(folder: Path, settings) -> None:
    """An undisturbed run that also notes how many things were done to its files."""
    numbers = [0]
    count_writing(lambda number, _: numbers.append(number))
    run_to_the_end(folder, settings)
    Path(f"{folder}.count").write_text(str(numbers[-1]), encoding="utf-8")


def dying_in_writing(folder: Path, settings, last: int) -> None:
    """A run that dies before the `last` thing that it does to a file, or with half a file.

    One that was taken up has less to write, and may die only when it has finished.
    """
    save = torch.save

    def at_call(number, real):
        if number == last:
            if real.func is save:
                real()
                part = real.args[1]
                os.truncate(part, os.path.getsize(part) // 2)
            die()

    count_writing(at_call)
    run_to_the_end(folder, settings, doom=die)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """For both ways to train: where the undisturbed run is, its writings and its seconds."""
    ends = {}
    for low_memory in (False, True):
        folder = tmp_path_factory.mktemp("undisturbed") / str(low_memory)
        settings = dataclasses.replace(SETTINGS, low_memory=low_memory)
        begin = time.perf_counter()
        assert how_it_ended(another_process(partial(counting, folder, settings))) == 0
        seconds = time.perf_counter() - begin
        ends[low_memory] = folder, int(Path(f"{folder}.count").read_text(encoding="utf-8")), seconds
    return ends


MOMENTS = [(False, moment) for moment in range(10)] + [(True, 0), (True, 9)]


# Moments 0 to 6 are within writing; at 7 to 9 the run is killed from outside, wherever it is.
@pytest.mark.parametrize(("low_memory", "moment"), MOMENTS)
def test_a_run_killed_anywhere_goes_on_to_the_same_bits(undisturbed, tmp_path, low_memory, moment):
    whole, writings, seconds = undisturbed[low_memory]
    settings, folder = dataclasses.replace(SETTINGS, low_memory=low_memory), tmp_path / "run"
    draw = random.Random(f"{low_memory} {moment}")
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

    was_there = list(folder.glob("checkpoint*.pt"))
    assert how_it_ended(another_process(partial(run_to_the_end, folder, settings))) == 0
    said = Path(f"{folder}.said").read_text(encoding="utf-8")
    assert ("Going on from the checkpoint of step" in said) == bool(was_there)
    assert "damaged" not in said and "deleted" not in said  # a kill damages nothing
    ours, theirs = torch.load(f"{folder}.end"), torch.load(f"{whole}.end")
    assert ours["losses"] == theirs["losses"]
    assert same_bits(ours["weights"], theirs["weights"])
    assert {path.name for path in folder.iterdir()} - {"run.lock"} == {BEST, HISTORY}


# Interrupts


@dataclasses.dataclass
class BrokenOff:
    """A run that was interrupted after step 8, and what it comes to in the end."""

    folder: Path
    losses: list
    weights: dict


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken off")
    learn(folder / "run", watch=interrupt_at(8))
    learn(folder / "other", dataclasses.replace(SETTINGS, seed=5), watch=interrupt_at(8))
    model, history = learn(folder / "whole")
    assert [one.step for one in history.evaluations] == [0, 2, 5, 7, 10]
    # Each evaluation was better than the one before it, so each wrote both files.
    found = [one.loss for one in history.evaluations]
    assert found == sorted(found, reverse=True)
    return BrokenOff(folder, losses(history), weights(model))


def assert_the_same_end(folder: Path, broken_off: BrokenOff) -> None:
    model, history = learn(folder)
    assert history.stopped == "finished"
    assert losses(history) == broken_off.losses
    assert same_bits(weights(model), broken_off.weights)


@pytest.mark.parametrize("step", [1, 3, 9])
def test_an_interrupted_run_keeps_what_it_has_and_goes_on(broken_off, tmp_path, capsys, step):
    model, partial_history = learn(tmp_path, watch=interrupt_at(step))
    assert partial_history.stopped == "interrupted"
    assert losses(partial_history)[:step] == broken_off.losses[:step]
    assert evaluate_loss(model, VALIDATION, COLLATE) == partial_history.best.loss
    assert f"Interrupted after step {step} of 10" in capsys.readouterr().out
    assert_the_same_end(tmp_path, broken_off)
    # Before the first evaluation after a step there is nothing to go on from but the start.
    assert ("Going on from the checkpoint of step" in capsys.readouterr().out) == (step > 1)


def test_a_run_goes_on_from_a_checkpoint_that_is_not_the_best(tmp_path, capsys):
    settings = dataclasses.replace(SETTINGS, learning_rate=1.0, warmup_ratio=0.0)
    model, whole = learn(tmp_path / "whole", settings)
    assert whole.best.step < 7
    learn(tmp_path / "parts", settings, watch=interrupt_at(9))
    again, history = learn(tmp_path / "parts", settings)
    assert "Going on from the checkpoint of step 7" in capsys.readouterr().out
    assert losses(history) == losses(whole)
    assert same_bits(weights(again), weights(model))


@pytest.mark.parametrize("rename", [1, 2, 3, 4, 6, 9])
def test_an_interrupt_between_two_renames_loses_nothing(broken_off, tmp_path, monkeypatch, rename):
    real, renames = os.replace, []

    def interrupted(*names):
        renames.append(names)
        if len(renames) == rename:
            raise KeyboardInterrupt
        real(*names)

    monkeypatch.setattr(os, "replace", interrupted)
    # The first file of a run is on the disk before there is anything that could be kept.
    with pytest.raises(KeyboardInterrupt) if rename == 1 else contextlib.nullcontext():
        model, history = learn(tmp_path)
        assert history.stopped == "interrupted"
        assert evaluate_loss(model, VALIDATION, COLLATE) == history.best.loss
    monkeypatch.undo()
    checkpoint.TRAINING_PER_WRITING = 0  # undo took that back as well
    assert_the_same_end(tmp_path, broken_off)


def test_the_optimizer_goes_on_where_its_parameters_are(tmp_path):
    # AdamW counts its steps on the GPU when it is fused or capturable; "meta" stands for one here.
    model = tiny_model()
    optimizer = make_optimizer(model, SETTINGS)
    training_step(model, optimizer, [BATCH], SETTINGS)
    _, history = learn(tmp_path / "finished")
    history.steps.pop()
    history.evaluations.sort(key=lambda record: -record.loss)
    run = RunFolder(tmp_path, "a run")
    run.save_best(model, history.best.step)
    run.save_checkpoint(model, optimizer, history)
    elsewhere = [
        {"params": [torch.nn.Parameter(p.detach().to("meta")) for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    theirs = torch.optim.AdamW(elsewhere)
    assert run.resume(tiny_model(), theirs) == history
    kept = [state["step"] for state in optimizer.state.values()]
    assert [float(step) for step in kept] == [1.0] * len(kept)
    states = list(theirs.state.values())
    assert len(states) == len(kept)
    assert {state[key].device.type for state in states for key in state} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_run_on_a_gpu_goes_on_to_the_same_end(tmp_path):
    whole, history = learn(tmp_path / "whole", model=tiny_model().cuda())
    learn(tmp_path / "parts", model=tiny_model().cuda(), watch=interrupt_at(6))
    model, again = learn(tmp_path / "parts", model=tiny_model().cuda())
    assert [loss for _, loss in losses(again)] == pytest.approx(
        [loss for _, loss in losses(history)], rel=1e-5
    )


# Damaged files


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)


def cut_off(path: Path, _: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def without_last_byte(path: Path, _: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def emptied(path: Path, _: Path) -> None:
    os.truncate(path, 0)


def one_bit_of_a_tensor(path: Path, _: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        content = archive.read(max(archive.infolist(), key=lambda member: member.file_size))
    flip(path, 8 * path.read_bytes().index(content) + 4 * len(content))


def text(path: Path, _: Path) -> None:
    path.write_text("Not a model at all.", encoding="utf-8")


def of_another_program(path: Path, _: Path) -> None:
    torch.save(weights(tiny_model()), path)


class Trap:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def with_code_in_it(path: Path, folder: Path) -> None:
    torch.save({"run": Trap(folder / "sprung"), "weights": {}}, path)


DAMAGES = [
    cut_off,
    without_last_byte,
    emptied,
    one_bit_of_a_tensor,
    text,
    of_another_program,
    with_code_in_it,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_of_a_damaged_checkpoint_the_one_before_it_is_used(broken_off, tmp_path, capsys, damage):
    folder = shutil.copytree(broken_off.folder / "run", tmp_path / "run")
    damage(folder / CHECKPOINT, tmp_path)
    assert_the_same_end(folder, broken_off)
    said = capsys.readouterr().out
    assert f"{CHECKPOINT} is damaged" in said
    assert "Going on from the checkpoint of step 5" in said
    assert {path.name for path in folder.iterdir()} >= {"checkpoint.damaged", BEST, HISTORY}
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("damage", [cut_off, one_bit_of_a_tensor], ids=lambda d: d.__name__)
def test_with_both_checkpoints_damaged_the_run_starts_anew(broken_off, tmp_path, capsys, damage):
    folder = shutil.copytree(broken_off.folder / "run", tmp_path / "run")
    for name in (CHECKPOINT, FORMER):
        damage(folder / name, tmp_path)
    assert_the_same_end(folder, broken_off)
    said = capsys.readouterr().out
    assert said.count("is damaged") == 2 and "Going on" not in said


@pytest.mark.parametrize("damage", [cut_off, one_bit_of_a_tensor], ids=lambda d: d.__name__)
def test_with_damaged_best_weights_the_checkpoint_before_is_used(
    broken_off, tmp_path, capsys, damage
):
    folder = shutil.copytree(broken_off.folder / "run", tmp_path / "run")
    damage(folder / BEST, tmp_path)
    assert_the_same_end(folder, broken_off)
    said = capsys.readouterr().out
    assert f"{BEST} is damaged" in said
    assert "its best weights, those of step 7, are lost" in said
    assert "Going on from the checkpoint of step 5" in said


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_best_weights_of_a_finished_run_are_not_loaded(
    broken_off, tmp_path, capsys, damage
):
    folder, model = shutil.copytree(broken_off.folder / "whole", tmp_path / "whole"), tiny_model()
    damage(folder / BEST, tmp_path)
    assert finished(folder, model) is None
    assert untouched(model)
    assert f"{BEST} is damaged" in capsys.readouterr().out
    assert not (tmp_path / "sprung").exists()


def test_no_flipped_bit_of_a_tensor_goes_unseen(broken_off, tmp_path):
    path, whole = tmp_path / CHECKPOINT, broken_off.folder / "run" / CHECKPOINT
    expected, draw = checkpoint._read(whole), random.Random(0)
    for place in draw.sample(range(8 * whole.stat().st_size), 60):
        shutil.copy(whole, path)
        flip(path, place)
        found = checkpoint._read(path)
        # Some bits of a zip archive mean nothing; then all that was saved is still there.
        assert found is None or pickle.dumps(to_lists(found)) == pickle.dumps(to_lists(expected))


def to_lists(content):
    if isinstance(content, torch.Tensor):
        return content.tolist()
    if isinstance(content, dict):
        return {key: to_lists(value) for key, value in content.items()}
    return content


SPOILT = {
    "cut off": lambda content: content[:-100],
    "emptied": lambda content: "",
    "no evaluations": lambda content: json.dumps(
        {**json.loads(content), "history": json.dumps({"total_steps": 10, "steps_per_epoch": 5})}
    ),
    "a list": lambda content: "[1, 2]",
    "not UTF-8": lambda content: content.replace("run", "r\udcffn", 1),
    "of another program": lambda content: '{"run": 1, "history": {}}',
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_damaged_history_is_not_used(broken_off, tmp_path, capsys, spoil):
    folder, model = shutil.copytree(broken_off.folder / "whole", tmp_path / "whole"), tiny_model()
    content = (folder / HISTORY).read_text(encoding="utf-8")
    (folder / HISTORY).write_bytes(spoil(content).encode("utf-8", errors="surrogateescape"))
    assert finished(folder, model) is None
    assert untouched(model)
    assert "history.json is damaged" in capsys.readouterr().out


# Whose run it is


def test_a_finished_run_is_found_with_its_own_settings_weights_and_sets_only(tmp_path):
    assert finished(tmp_path) is None
    learn(tmp_path, watch=interrupt_at(6))
    assert finished(tmp_path) is None
    model, history = learn(tmp_path)

    other_settings = dataclasses.replace(SETTINGS, learning_rate=1e-3)
    assert finished(tmp_path, settings=other_settings) is None
    assert finished(tmp_path, train_set=TRAIN[1:]) is None
    assert finished(tmp_path, validation_set=VALIDATION[1:]) is None
    moved = {"train_set": TRAIN + VALIDATION[:1], "validation_set": VALIDATION[1:]}
    assert finished(tmp_path, **moved) is None
    other = tiny_model(seed=99)
    before = weights(other)
    assert finished(tmp_path, model=other) is None
    assert same_bits(weights(other), before)

    again = tiny_model()
    sets = Dataset.from_list(TRAIN), Dataset.from_list(VALIDATION)
    assert finished(tmp_path, again, *sets) == history
    assert same_bits(weights(again), weights(model))

    # Trained anew and stopped early: its weights must not pass for those of the finished run.
    learn(tmp_path, watch=interrupt_at(2))
    assert finished(tmp_path) is None


@pytest.mark.skipif(os.name != "posix", reason="elsewhere the file could not be replaced")
def test_where_memory_is_short_a_finished_model_stays_in_its_file(tmp_path, monkeypatch):
    trained, _ = learn(tmp_path)
    monkeypatch.setattr(checkpoint, "memory_is_short", lambda: True)
    loaded = tiny_model()
    assert finished(tmp_path, loaded)
    assert same_bits(weights(loaded), weights(trained))
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    maps = Path("/proc/self/maps")
    assert not maps.exists() or BEST in maps.read_text(encoding="utf-8")
    # The model can go on without the file, and what is done to it never reaches the file.
    before = (tmp_path / BEST).read_bytes()
    with torch.no_grad():
        loaded.lm_head.weight.zero_()
    assert (tmp_path / BEST).read_bytes() == before
    (tmp_path / BEST).unlink()
    _, history = learn(tmp_path / "on", model=loaded)
    assert history.stopped == "finished"


def test_a_finished_run_is_moved_aside_for_another_one_and_still_found(tmp_path, capsys):
    model, history = learn(tmp_path)
    other = dataclasses.replace(SETTINGS, learning_rate=1e-3)
    learn(tmp_path, other, watch=interrupt_at(3))
    assert "had a finished run with other settings" in capsys.readouterr().out
    again = tiny_model()
    assert finished(tmp_path, again) == history
    assert same_bits(weights(again), weights(model))
    _, other_history = learn(tmp_path, other)
    assert losses(other_history) == losses(learn(tmp_path / "fresh", other)[1])
    assert finished(tmp_path) == history
    assert finished(tmp_path, settings=other).best == other_history.best


def test_an_unfinished_run_makes_room_for_one_with_other_settings(broken_off, tmp_path, capsys):
    folder = shutil.copytree(broken_off.folder / "run", tmp_path / "run")
    for rate in (1e-3, 2e-3, 3e-3):
        left = []

        def watch(history, left=left):
            left.append((folder / FORMER).exists())
            interrupt_at(8)(history)

        learn(folder, dataclasses.replace(SETTINGS, learning_rate=rate), watch=watch)
        assert not left[0]  # nothing of the other run was there when the first file was written
        said = capsys.readouterr().out
        assert "was deleted: it belongs to a run with other settings" in said
        assert "unfinished at step 7 of 10" in said
        # The best weights and the checkpoint, each with the one before it.
        assert len([path for path in folder.rglob("*") if path.stat().st_size > 10_000]) <= 4


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    started, go_on = tmp_path / "started", tmp_path / "go on"

    def hold():
        def watch(history):
            started.touch()
            wait_for(go_on.exists)

        learn(tmp_path / "run", watch=watch)

    child = another_process(hold)
    try:
        wait_for(started.exists)
        refusal(TrainingError, lambda: learn(tmp_path / "run"), "Another notebook or program")
    finally:
        go_on.touch()
    assert how_it_ended(child) == 0
    assert finished(tmp_path / "run")


# Disks


def test_a_full_disk_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: type("U", (), {"free": 10}))
    model = tiny_model()
    call = lambda: learn(tmp_path, model=model)  # noqa: E731
    refusal(TrainingError, call, "GB free", "COURSE_RUNS", "Nothing was trained")
    assert untouched(model)


def test_a_run_that_goes_on_needs_no_room_for_what_it_has_written(tmp_path, monkeypatch):
    first = checkpoint.RunFolder(tmp_path, "run")
    for path in (first.best, first.checkpoint):
        path.write_bytes(b"x" * 50)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: type("U", (), {"free": 10}))
    with first.opened(110):
        pass
    with pytest.raises(TrainingError, match="GB free"), first.opened(111):
        pass


def test_a_folder_without_permission_is_refused_before_training(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder should be")
    refusal(TrainingError, lambda: learn(blocked / "run"), "cannot be written", "COURSE_RUNS")


@pytest.mark.parametrize("name", ["best.part", "checkpoint.part"])
def test_a_disk_that_fills_up_loses_nothing(broken_off, tmp_path, name):
    # A real one: a file of this process may not become larger than the limit.
    resource = pytest.importorskip("resource")
    real, calls = torch.save, []

    def limited(content, path):
        calls.append(path.name == name)
        full = sum(calls) == 3 and path.name == name
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000 if full else before[1], before[1]))
        try:
            real(content, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", limited)
        call = lambda: learn(tmp_path)  # noqa: E731
        refusal(TrainingError, call, "could not be written", "goes on from its last checkpoint")
    assert not list(tmp_path.glob("*.part"))
    assert zipfile.is_zipfile(tmp_path / CHECKPOINT)
    assert_the_same_end(tmp_path, broken_off)
