"""Small files that are there whole or not at all, and damaged ones that are not lost."""

import contextlib
import os
import secrets
from pathlib import Path

from helpers.errors import CourseError


def write_whole(path: Path, text: str) -> None:
    """Write a text (as UTF-8) to a file, so that no interruption ever leaves half of it.

    It goes to a new file in the same folder, which is flushed to the disk and then takes the name.
    Whoever reads meanwhile finds the old text or the new one; of several writers the last one wins.

    Raises CourseError when that fails, for instance on a full disk.
    """
    # A name of its own: two processes must not write to the same file.
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "xb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise CourseError(
            f"{path.name} could not be written to {path.parent}: {error}. What was there before is "
            "unharmed. Free some space, close the file where another program has it open, or "
            "choose a folder that you may write to (COURSE_RUNS names the one for results)."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)  # after an error or an interrupt
    flush_to_disk(path.parent)


def relative_path(path: str | Path, folder: str | Path = ".") -> Path:
    """The path from a folder. On Windows, one on another drive has none: then it is whole."""
    try:
        return Path(os.path.relpath(path, folder))
    except ValueError:
        return Path(path).resolve()


def flush_to_disk(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk now.

    What was written survives a power cut only then. Not every system can do it for a folder
    (Windows cannot), and the file is whole without it.
    """
    with contextlib.suppress(OSError):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def set_aside(path: Path, ending: str = "damaged") -> Path:
    """Rename a file or a folder, so that what it holds survives the next write. Returns where.

    Raises OSError when the folder cannot be written to.
    """
    aside, number = path.with_name(f"{path.name}.{ending}"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.{ending}{number}")
    os.replace(path, aside)
    return aside
