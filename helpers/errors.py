"""The one kind of error that the course raises for bad input."""

from collections.abc import Iterable


class CourseError(Exception):
    """A mistake that a learner can mend: one paragraph on what happened, where, and what to do.

    In a notebook only that paragraph is shown. A traceback of library code would bury it.
    """

    def _render_traceback_(self) -> list[str]:
        """Lines that IPython prints in place of a traceback (IPython's own hook for this)."""
        return [f"{type(self).__name__}: {self}"]


def format_names(names: Iterable[object]) -> str:
    """Names from somebody's file, fit for a message: one line, the first twenty of them, each cut
    to 60 characters."""
    names = list(names)
    shown = [" ".join(str(name).split())[:60] for name in names[:20]]
    shown = ["".join(char if char.isprintable() else "\ufffd" for char in name) for name in shown]
    more = f" and {len(names) - 20:,} more" if len(names) > 20 else ""
    return ", ".join(shown) + more
