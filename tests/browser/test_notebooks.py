"""Each notebook in a real browser: Run All, then its widgets."""

import pytest
from playwright.sync_api import expect

from tests.browser import widgets
from tests.browser.lab import ROOT, Notebook, finished_run

NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
NOTEBOOKS.sort(key=lambda name: name != "12_scale_up")  # the longest begins first
# With the real model: those that take a minute or two; 07 does where 04 has been run.
TRAINED = bool(finished_run("quick"))
REAL = ["00_start_here", "02_template"] + ["07_instruct_model"] * TRAINED
RUNS = [(name, "quick" if name in REAL else "smoke") for name in NOTEBOOKS]
if not TRAINED:
    told = "07 has the tiny model only: `make test`, run before, trains the real one for it"
    RUNS.append(pytest.param("07_instruct_model", "quick", marks=pytest.mark.skip(reason=told)))

# A cell of 09 shows what transformers says to a chat template without a mark.
WARNING = "09-n08: stderr: [transformers] return_assistant_tokens_mask==True"


@pytest.mark.parametrize(("name", "profile"), RUNS)
def test_run_all_and_the_widgets(name, profile, open_notebook):
    notebook = open_notebook(name, profile)
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
