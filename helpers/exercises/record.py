"""What is done, kept in a small file next to the results."""

import json
from pathlib import Path

from filelock import FileLock

from helpers.files import set_aside, write_whole
from helpers.profiles import runs_folder

TRIED, DONE = "tried", "done"


def path() -> Path:
    """One file for all profiles: an exercise does not depend on the size of the runs."""
    return runs_folder().parent / "progress.json"


def load() -> dict[str, str]:
    """Key of an exercise or of a quiz question → TRIED or DONE.

    A damaged file counts as none, and is renamed: somebody may still read in it what was done.
    """
    try:
        states = json.loads(path().read_text(encoding="utf-8"))
        if not all(state in (TRIED, DONE) for state in states.values()):
            raise ValueError
        return states
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError):
        try:
            renamed = f", and it is now {set_aside(path()).name}"
        except OSError:
            renamed = ""
        print(
            f"({path().name} cannot be read: what was done before is not counted{renamed}. If a "
            "text editor can repair it, give it its old name back.)"
        )
        return {}


def note(key: str, right: bool) -> None:
    """Keep that something was tried or done; what is done stays done.

    A folder that cannot be written costs the table its memory, and never the learner's check.
    """
    try:
        path().parent.mkdir(parents=True, exist_ok=True)
        # Two notebooks that write at once must not undo each other's.
        with FileLock(f"{path()}.lock", timeout=10):
            states = load()
            state = DONE if right or states.get(key) == DONE else TRIED
            if states.get(key) != state:
                write_whole(path(), json.dumps({**states, key: state}, indent=1))
    except OSError as error:
        print(f"(Progress could not be kept: {error}.)")
