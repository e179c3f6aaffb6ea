"""The whole course in 2 GB and on one core, the Jupyter server included: an hour of the processor.

Only collected when it is named: pytest -s tests/binder
"""

from tools import small_machine


def test_each_notebook_runs_in_two_gigabytes_and_all_in_an_hour(tmp_path, monkeypatch):
    # A folder of results for all of them: a notebook uses what those before it have trained.
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path))
    assert small_machine.main([]) == 0
