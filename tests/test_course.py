"""What the notebooks share."""

from helpers.course import Tuned
from helpers.training import History, StepRecord


def test_two_runs_have_two_versions_even_with_the_same_settings():
    def run(seconds: float) -> Tuned:
        step = StepRecord(1, 2.5, 1e-4, 0.3, 400, seconds)
        return Tuned(None, None, History(10, 10, [step]))

    assert run(1.0).version == run(1.0).version
    assert run(1.0).version != run(1.1).version
