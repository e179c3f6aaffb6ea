"""Each notebook in a real browser: Run All, then its widgets."""

import pytest
from playwright.sync_api import expect

from tests.browser import widgets
from tests.browser.lab import ROOT, Notebook, finished_run

NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
NOTEBOOKS.sort(key=lambda name: name != "12_scale_up")  # the longest begins first
# With the real model: those that take a minute or two; 07 does where 04 has been run.
REAL = ["00_start_here", "02_template"] + ["07_instruct_model"] * bool(finished_run("quick"))

# A cell of 09 shows what transformers says to a chat template without a mark.
WARNING = "09-n08: stderr: [transformers] return_assistant_tokens_mask==True"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_run_all_and_the_widgets(name, open_notebook):
    notebook = open_notebook(name, "quick" if name in REAL else "smoke")
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
    assert [error for error in notebook.errors() if not error.startswith(WARNING)] == []
    assert notebook.trouble == []
