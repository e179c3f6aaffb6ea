"""Results that take long to compute, kept on disk for the notebooks that come later."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path

from helpers.errors import CourseError
from helpers.files import set_aside, write_whole
from helpers.profiles import runs_folder


def cached(name: str, key: object, compute: Callable[[], object]) -> object:
    """The result kept under `name` if it was made from the same `key`; else compute and keep it.

    name: a file in runs_folder(), without ".json"; "opinion/prompts" lies in that task's folder.
    key: everything that the result depends on: dictionaries, lists, texts, numbers, dataclasses,
    paths, and datasets (by their rows).
    compute: makes the result, of what JSON can hold. What comes back has been through JSON, so
    tuples are lists, the first time as well.

    Raises CourseError when the file cannot be read or written; TypeError for a key of other things.
    """
    # A short hash of the key's content, the same in every process.
    content = json.dumps(key, sort_keys=True, default=_plain)
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    path = _path(name)
    stored = _read(path)
    if stored is not None and stored["key"] == digest:
        return stored["result"]
    text = json.dumps({"key": digest, "result": compute()}, indent=1)
    write_whole(path, text)
    return json.loads(text)["result"]


def load_result(name: str) -> object | None:
    """What `cached` kept last under that name, or None. Raises CourseError as `cached` does."""
    stored = _read(_path(name))
    return None if stored is None else stored["result"]


def _path(name: str) -> Path:
    return runs_folder() / f"{name}.json"


def _read(path: Path) -> dict | None:
    """The file's key and result. A damaged file is renamed and counts as none."""
    try:
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if {"key", "result"} <= stored.keys():
                return stored
        except (ValueError, AttributeError):  # no JSON, or no dictionary
            pass
        print(f"{path.name} is damaged: it is kept as {set_aside(path).name}, and not used.")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise CourseError(
            f"The kept result {path} cannot be read: {error}. Make the file readable and its "
            "folder writable, or set COURSE_RUNS to another folder; there, all is made anew."
        ) from error
    return None


def _plain(part: object) -> object:
    """A part of a key that JSON does not know, as something that it knows.

    Not its repr: that of a dataset does not show the rows, and that of an object is an address.
    """
    if is_dataclass(part) and not isinstance(part, type):
        return [type(part).__name__, asdict(part)]
    if isinstance(part, Path):
        return str(part)
    if hasattr(part, "to_list"):  # a datasets.Dataset
        return part.to_list()
    raise TypeError(f"a result cannot depend on a {type(part).__name__}: give what is in it")
