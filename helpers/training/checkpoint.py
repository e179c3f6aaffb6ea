"""The files of a run: from them it goes on after an interrupt or a kill, to the very same end.

    best.pt         weights of the best evaluation so far (kept)
    checkpoint.pt   weights, optimizer and history, to go on from (until the run is finished)
    history.json    what happened in the run, once it is finished

A file takes its name only when it is whole and on the disk; the one that had the name before is
kept as the previous one. The best weights are written before the checkpoint that names them, so a
checkpoint always finds them. PyTorch writes zip archives with a checksum over each tensor, and
reads them without running code (weights_only).
"""

import copy
import hashlib
import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from transformers import PreTrainedModel

from helpers.files import flush_to_disk, write_whole
from helpers.machine import memory_is_short
from helpers.training.loss import Rows
from helpers.training.processes import process_index
from helpers.training.settings import History, TrainingError, TrainSettings

# A checkpoint is due when training has gone on for this many times as long as writing one takes.
TRAINING_PER_WRITING = 10
# So much of a file of weights is in memory beside the weights of the model at most (bytes).
AT_ONCE = 100_000_000


def fingerprint(
    model: PreTrainedModel, train_set: Rows, validation_set: Rows, settings: TrainSettings
) -> str:
    """Tells runs apart: SHA-256 over settings, starting weights, training and validation set."""
    digest = hashlib.sha256(json.dumps(asdict(settings), default=float).encode())
    for rows in (train_set, validation_set):
        digest.update(f"{len(rows)} rows".encode())
        for row in rows:
            digest.update(f"{list(row['input_ids'])} {list(row['labels'])}".encode())
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        content = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(content.numpy())
    return digest.hexdigest()


class RunFolder:
    """The folder of one run. run: its fingerprint, which stands in each of its files."""

    def __init__(self, folder: Path, run: str) -> None:
        self.folder, self.run = Path(folder), run
        self.best, self.checkpoint = self.folder / "best.pt", self.folder / "checkpoint.pt"
        self.finished = self.folder / "history.json"
        # When the last checkpoint was written, and how long that took.
        self.written, self.writing = time.perf_counter(), 0.0

    @contextmanager
    def opened(self, needed: int) -> Iterator[None]:
        """Hold the folder for this process alone; a finished run of another kind is moved aside.

        needed: bytes that must be free. Raises TrainingError when they are not, or when the folder
        cannot be written to or is in use.
        """
        if process_index():  # the first process holds it for all
            yield
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held = FileLock(self.folder / "run.lock", timeout=0).acquire()
        except Timeout as error:
            raise TrainingError(
                f"Another notebook or program is training in {self.folder} right now. Wait until "
                "it is done, stop it, or give this run another folder. Nothing was trained."
            ) from error
        except OSError as error:
            raise TrainingError(
                f"The folder {self.folder} cannot be written to: {error}. Choose another folder "
                "for the run, or set COURSE_RUNS to one that you may write to. Nothing was trained."
            ) from error
        with held:
            self._move_aside()
            # A run that goes on needs no room for the files that it has.
            own = [f for path in (self.best, self.checkpoint) for f in (path, _previous(path))]
            needed -= sum(path.stat().st_size for path in own if path.exists())
            free = shutil.disk_usage(self.folder).free
            if free < needed:
                raise TrainingError(
                    f"The disk of {self.folder} has {free / 1e9:.1f} GB free, and this run needs "
                    f"up to {needed / 1e9:.1f} GB for its checkpoints. Free some space, or set "
                    "COURSE_RUNS to a folder on another disk. Nothing was trained."
                )
            yield

    def _move_aside(self) -> None:
        """Nobody's finished model is overwritten: that of another run gets a folder of its own."""
        run, _ = self.read_history()
        if run in (None, self.run):
            return
        aside = self.folder / f"finished-{run[:8]}"
        aside.mkdir(exist_ok=True)
        for path in (self.best, self.finished):  # in this order, a kill in between does no harm
            if path.exists():
                os.replace(path, aside / path.name)
        print(
            f"{self.folder} had a finished run with other settings, data or starting weights. It "
            f"is now in {aside.name}, a folder there; delete that if you do not need it any more."
        )

    def resume(self, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> History | None:
        """Restore the last checkpoint of this run that can be used; None if there is none.

        What another run left unfinished is deleted, which is printed.
        """
        for path in (self.checkpoint, _previous(self.checkpoint)):
            if (content := _read(path)) is None:
                continue
            history = History.from_json(content["history"])
            if content["run"] != self.run:
                path.unlink()
                print(
                    f"{path} was deleted: it belongs to a run with other settings, data or "
                    f"starting weights, unfinished at step {len(history.steps)} of "
                    f"{history.total_steps}."
                )
            elif not self._find_best(history):
                best = history.best.step
                print(f"{path} is not used: its best weights, those of step {best}, are lost.")
            else:
                # A copy, for the file stays open while a tensor of it is in use.
                optimizer.load_state_dict(copy.deepcopy(content["optimizer"]))
                weights = path if content["weights"] else self.best
                del content
                _give_weights(weights, model)
                done = len(history.steps)
                print(f"Going on from the checkpoint of step {done} in {self.folder}.")
                return history
        return None

    def save_best(self, model: PreTrainedModel, step: int) -> None:
        """Keep these weights as the best so far, after `step` steps."""
        if process_index():
            return
        # They are no longer those of a run that was finished here before.
        self.finished.unlink(missing_ok=True)
        _save(self.best, {"run": self.run, "step": step, "weights": _weights(model)})

    def save_checkpoint(
        self, model: PreTrainedModel, optimizer: torch.optim.Optimizer, history: History
    ) -> None:
        """Write a checkpoint if one is due: with each new best and now and then, but neither before
        the first step nor after the last."""
        if process_index():
            return
        begin = time.perf_counter()
        new_best = history.best is history.evaluations[-1]
        due = new_best or begin - self.written >= TRAINING_PER_WRITING * self.writing
        if due and 0 < len(history.steps) < history.total_steps:
            content = {
                "run": self.run,
                "history": history.to_json(),
                # The weights of a new best stand in its own file.
                "weights": {} if new_best else _weights(model),
                "optimizer": optimizer.state_dict(),
            }
            _save(self.checkpoint, content)
            self.written = time.perf_counter()
            self.writing = self.written - begin

    def load_best(self, model: PreTrainedModel, history: History) -> None:
        """Give the model the best weights of the run. Raises TrainingError when they are lost."""
        if not self._find_best(history):
            raise TrainingError(
                f"The best weights of this run, those of step {history.best.step}, are not in "
                f"{self.best} any more. Load the starting model again, and train it again."
            )
        # Not where there is enough memory: the file then takes space until the model is gone, also
        # when it was deleted or has a successor.
        _give_weights(self.best, model, stay=memory_is_short() and os.name == "posix")

    def finish(self, history: History) -> None:
        """Note that the run is finished; what was only kept to go on from is then not needed."""
        if process_index():
            return
        write_whole(self.finished, json.dumps({"run": self.run, "history": history.to_json()}))
        # A kill may have left parts of files. The best weights before the last ones go last: a
        # checkpoint may still need them.
        parts = self.folder.glob("*.part")
        for path in (*parts, _previous(self.checkpoint), self.checkpoint, _previous(self.best)):
            path.unlink(missing_ok=True)

    def read_history(self) -> tuple[str, History] | tuple[None, None]:
        """What `finish` wrote: the fingerprint of this run or another one, and its history."""
        try:
            content = json.loads(self.finished.read_text(encoding="utf-8"))
            history = History.from_json(content["history"])
            if not history.evaluations:
                raise ValueError("it holds no evaluation")
            return content["run"], history
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as error:
            print(f"{self.finished} is damaged ({error}) and is not used.")
        return None, None

    def _find_best(self, history: History) -> bool:
        """Whether the best weights of this history are there; the file then has its name.

        A kill or an interrupt may have put newer ones on top of them.
        """
        for path in (self.best, _previous(self.best)):
            content = _read(path)
            if content and (content["run"], content.get("step")) == (self.run, history.best.step):
                if path != self.best:
                    os.replace(path, self.best)
                return True
        return False


def load_finished(
    model: PreTrainedModel,
    train_set: Rows,
    validation_set: Rows,
    settings: TrainSettings,
    folder: Path,
) -> History | None:
    """Give `model`, which has its starting weights, the best ones of a finished run of `folder`.

    Returns the run's history, or None (and the model unchanged) if `folder` has no finished run
    with these weights, sets and settings; one that was moved aside for another run counts, too.
    """
    run = fingerprint(model, train_set, validation_set, settings)
    for place in (Path(folder), Path(folder) / f"finished-{run[:8]}"):
        found = RunFolder(place, run)
        other, history = found.read_history()
        if other == run:
            with suppress(TrainingError):  # the best weights are lost
                found.load_best(model, history)
                return history
    return None


def _previous(path: Path) -> Path:
    """Where the file that was written before this one is kept."""
    return path.with_suffix(".previous.pt")


def _weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@torch.no_grad()
def _give_weights(path: Path, model: PreTrainedModel, stay: bool = False) -> None:
    """Give the model the weights of a file.

    stay: those on the processor stay in the file, and take memory only when they are changed.
    """
    weights, copied = None, 0
    for name, parameter in model.named_parameters():
        if weights is None:
            weights, copied = _map(path)["weights"], 0
        if stay and parameter.device.type == "cpu":
            parameter.data = weights[name]
            continue
        parameter.copy_(weights[name])
        copied += parameter.nbytes
        if copied > AT_ONCE:
            weights = None  # mapped anew, the file is never in memory as a whole


def _map(path: Path) -> dict:
    """The content of a file; its tensors stay on the disk (Windows could not replace it then)."""
    return torch.load(path, "cpu", weights_only=True, mmap=os.name == "posix")


def _save(path: Path, content: dict) -> None:
    part = path.with_suffix(".part")
    try:
        torch.save(content, part)
        flush_to_disk(part)
        if path.exists():
            os.replace(path, _previous(path))
        os.replace(part, path)
        flush_to_disk(path.parent)
    except (OSError, RuntimeError) as error:  # PyTorch reports a full disk as a RuntimeError
        part.unlink(missing_ok=True)
        raise TrainingError(
            f"{path.name} could not be written to {path.parent}: {error}. What was written there "
            "before is unharmed. Free some space, load the starting model again and train with the "
            "same settings: the run goes on from its last checkpoint."
        ) from error


def _read(path: Path) -> dict | None:
    """What `_save` wrote, see `_map`; None if there is none.

    A file that is damaged, or of something else, takes the ending .damaged, which is printed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if member := archive.testzip():
                raise ValueError(f"{member} does not have the checksum that was recorded")
        content = _map(path)
        if not content.keys() >= {"run", "weights"}:
            raise ValueError("it was not written by this course")
        return content
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever the bytes of a damaged file make the readers raise
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        os.replace(path, path.with_suffix(".damaged"))
        print(f"{path} is damaged ({why}) and is not used; it is now {path.stem}.damaged.")
        return None
