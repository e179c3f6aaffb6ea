"""What a learner does to a notebook that runs: stop it, start anew, open it a second time."""

import re

from playwright.sync_api import expect

TRAINING = "history = train(tuned,"


def test_stopped_in_training_then_restarted(open_notebook):
    notebook = open_notebook("04_fine_tune")
    notebook.run_all()
    # At smoke a run is over before one can press the button, so it gets more epochs.
    settings = notebook.with_source("settings = TrainSettings()")
    source = notebook.source(settings)
    notebook.write(settings, source.replace("TrainSettings()", "TrainSettings(epochs=400)"))
    notebook.page.keyboard.press("Shift+Enter")
    training = notebook.with_source(TRAINING)
    notebook.run(training)
    said = notebook.output(training)
    expect(said).to_contain_text(re.compile("s left"), timeout=60_000)
    notebook.screenshot("training")
    notebook.press_toolbar("interrupt")
    expect(said).to_contain_text(
        re.compile(r"Interrupted after step \d+ of \d+\. The history is kept"), timeout=60_000
    )
    expect(said.locator("img")).to_have_count(1)
    notebook.run(notebook.after(training))
    notebook.wait_until_ran()
    notebook.screenshot("stopped")
    assert notebook.errors() == []

    notebook.write(settings, source)
    notebook.press_toolbar("restart-and-run")
    notebook.page.locator(".jp-Dialog button.jp-mod-accept").click()
    notebook.page.wait_for_function("() => course.counts().includes(null)")
    notebook.wait_until_ran()
    assert notebook.counts() == list(range(1, len(notebook.counts()) + 1))
    assert notebook.errors() == []
    assert notebook.trouble == []


def test_one_notebook_in_two_tabs(open_notebook):
    first = open_notebook("03_split")
    second = open_notebook("03_split", beside=first)
    first.start_all()
    second.start_all()
    for tab in (first, second):
        tab.wait_until_ran()
        assert tab.errors() == []
    for tab in (first, second):
        # They share a kernel and what it remembers; each has its own buttons.
        quiz = tab.output(tab.with_source('quiz("03_split")'))
        quiz.get_by_role("button", name="b", exact=True).first.click()
        expect(quiz.get_by_text(re.compile("^b is (right|wrong): "))).to_have_count(1)
    # JupyterLab logs each message about a widget that only the other tab has.
    trouble = [*first.trouble, *second.trouble]
    assert [one for one in trouble if not one.startswith("console: Comm not found")] == []


def test_two_notebooks_want_to_train_the_same_model(open_notebook):
    first = open_notebook("04_fine_tune")
    second = open_notebook("05_validate", beside=first)
    first.start_all()
    second.start_all()
    first.wait_until_ran()
    second.wait_until_ran()
    for tab in (first, second):
        refused = [error for error in tab.errors() if "is training in" in error]
        if refused:  # in words, once; when the other run is over it goes on
            assert tab.errors() == refused[:1]
            tab.run_all()
        assert tab.errors() == []
        assert tab.trouble == []
