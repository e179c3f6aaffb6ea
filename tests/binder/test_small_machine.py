"""The whole course in 2 GB and on one core, the Jupyter server included: an hour of the processor.

Only collected when it is named: pytest -s tests/binder
"""

import pytest

from tools import small_machine

NAMES = small_machine.names_of([])
minutes: dict[str, float] = {}


@pytest.fixture(scope="module", autouse=True)
def results(tmp_path_factory):
    """A folder of results for all of them: a notebook uses what those before it have trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_in_two_gigabytes(name):
    use = small_machine.run(name)
    print(f"\n{use}")
    minutes[name] = use.cpu / 60
    assert not use.error


def test_all_together_take_no_more_than_an_hour_of_the_processor():
    if minutes.keys() != set(NAMES):
        pytest.skip("only some of the notebooks were run")
    print(f"\nAll together: {sum(minutes.values()):.1f} CPU minutes.")
    assert sum(minutes.values()) <= small_machine.ALL_MINUTES
