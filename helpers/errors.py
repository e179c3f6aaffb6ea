"""The one kind of error that the course raises for bad input."""


class CourseError(Exception):
    """A mistake that a learner can mend: one paragraph on what happened, where, and what to do.

    In a notebook only that paragraph is shown. A traceback of library code would bury it.
    """

    def _render_traceback_(self) -> list[str]:
        """Lines that IPython prints in place of a traceback (IPython's own hook for this)."""
        return [f"{type(self).__name__}: {self}"]
