"""Each notebook in a real browser: Run All, then its widgets."""

import pytest
from playwright.sync_api import expect

from tests.browser import widgets
from tests.browser.lab import ROOT, Notebook

NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_run_all_and_the_widgets(name, open_notebook):
    notebook = open_notebook(name)
    runs_cleanly(notebook)
    if name != "00_start_here":
        widgets.quiz(notebook)
    for use in widgets.OF_NOTEBOOK.get(name, []):
        use(notebook)
        notebook.screenshot(use.__name__)
    assert notebook.trouble == []


def runs_cleanly(notebook: Notebook) -> None:
    notebook.run_all()
    notebook.screenshots("ran")
    printed = notebook.page.locator(".jp-RenderedText pre").first
    expect(printed).to_have_css("word-break", "normal")  # no line ends within a word
    assert notebook.errors() == []
    assert notebook.trouble == []
