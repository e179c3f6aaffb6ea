"""What is done, kept in a small file next to the results."""

import json
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from helpers.errors import CourseError
from helpers.files import set_aside, write_whole
from helpers.profiles import runs_folder

TRIED, DONE = "tried", "done"


def path() -> Path:
    """One file for all profiles: an exercise does not depend on the size of the runs."""
    return runs_folder().parent / "progress.json"


def load() -> dict[str, str]:
    """Key of an exercise or of a quiz question → TRIED or DONE."""
    return read(path(), _are_states)


def note(key: str, right: bool) -> None:
    """Keep that something was tried or done; what is done stays done."""

    def change(states: dict[str, str]) -> None:
        states[key] = DONE if right or states.get(key) == DONE else TRIED

    update(path(), _are_states, change)


def _are_states(content: dict) -> bool:
    return all(state in (TRIED, DONE) for state in content.values())


def read(file: Path, valid: Callable[[dict], bool]) -> dict:
    """The JSON dictionary in a file of records; without the file, an empty one.

    valid: says whether its content is what belongs there. A damaged file counts as none, and is
    renamed: somebody may still read in it what was done.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not valid(content):
            raise ValueError
        return content
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError):
        try:
            renamed = f", and it is now {set_aside(file).name}"
        except OSError:
            renamed = ""
        print(
            f"({file.name} cannot be read: what was done before is not counted{renamed}. If you "
            "can repair it in a text editor, give it its old name back.)"
        )
        return {}


def update(file: Path, valid: Callable[[dict], bool], change: Callable[[dict], None]) -> None:
    """Read a file of records, let `change` alter the content, and write it whole.

    A folder that cannot be written costs the course its memory, and never the learner's cell.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Two notebooks that write at once must not undo each other's.
        with FileLock(f"{file}.lock", timeout=10):
            content = read(file, valid)
            before = json.dumps(content)
            change(content)
            if json.dumps(content) != before:
                write_whole(file, json.dumps(content, indent=1))
    except (OSError, CourseError) as error:
        print(f"(Progress could not be kept: {error})")
