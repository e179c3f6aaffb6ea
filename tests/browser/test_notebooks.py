"""Each notebook in a real browser."""

import pytest

from tests.browser.lab import ROOT

NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_run_all(name, open_notebook):
    notebook = open_notebook(name)
    notebook.run_all()
    notebook.screenshots("ran")
    assert notebook.errors() == []
    assert notebook.trouble == []
