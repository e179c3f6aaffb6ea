"""What a learner does with the widgets of the notebooks, by mouse and by keyboard.

Each function takes a notebook whose cells have run, and asserts on the page alone.
"""

import re

from playwright.sync_api import expect

from tests.browser.lab import Notebook


def press(notebook: Notebook, *keys: str) -> None:
    for key in keys:
        notebook.page.keyboard.press(key)


def quiz(notebook: Notebook) -> None:
    """Buttons of the quiz: each answer gets its reply, and the last one stays."""
    here = notebook.output(notebook.with_source(f'quiz("{notebook.name}")'))
    replies = here.locator(".widget-html-content", has_text=re.compile(r"^\w is (right|wrong): "))
    rows = here.locator(".widget-hbox").filter(has=notebook.page.locator("button"))
    for letter in rows.nth(0).locator("button").all_inner_texts():
        rows.nth(0).get_by_role("button", name=letter, exact=True).click()
        expect(replies).to_have_text(re.compile(f"^{letter} is (right|wrong): ..."))
    # The last button has the focus: Tab goes to the next question.
    press(notebook, "Tab", "Space")
    expect(replies).to_have_count(2)
    expect(replies.nth(1)).to_have_text(re.compile("^a is "))
    press(notebook, "Tab", "Enter")
    expect(replies.nth(1)).to_have_text(re.compile("^b is "))


def slider(notebook: Notebook) -> None:
    """The slider of 01 over numbers of shots, and of 04 over steps: what is below follows it."""
    here = notebook.output(notebook.with_source(SLIDERS[notebook.name]))
    handle, result = here.get_by_role("slider"), here.locator(".widget-html-content").last
    track = here.locator(".noUi-target")

    def click(side: str) -> None:
        box = track.bounding_box()
        # On the track, not on the line around it, which takes no clicks. Playwright waits until
        # nothing moves any more: cells above may still get their heights.
        x = {"left": 3, "right": box["width"] - 3}[side]
        # While the handle glides to the last click, 0.3 seconds, it takes no other.
        expect(track).not_to_have_class(re.compile("noUi-state-tap"))
        track.click(position={"x": x, "y": box["height"] / 2})

    with changes(result):
        click("right")
    last = result.inner_html()
    with changes(result):
        click("left")
    handle.focus()
    for key in ("ArrowRight", "ArrowLeft", "End"):
        with changes(result):
            press(notebook, key)
    assert result.inner_html() == last


SLIDERS = {"01_prompt": "BudgetMeter(", "04_fine_tune": "slider = DistributionSlider("}


def template_playground(notebook: Notebook) -> None:
    """The row, the task and the template of 02: the example follows them."""
    here = notebook.output(notebook.with_source("playground = TemplatePlayground("))
    result = here.locator(".widget-html-content").last
    _list(notebook, here.locator("select"), result)
    task, template = here.locator(".widget-toggle-buttons").all()
    for buttons in (task, template):
        _buttons(notebook, buttons, result)


def loss_microscope(notebook: Notebook) -> None:
    """Time, loss mask and form of 04: the tokens follow them."""
    here = notebook.output(notebook.with_source("microscope = LossMicroscope("))
    result = here.locator(".widget-html-content").last
    time, form = here.locator(".widget-toggle-buttons").all()
    _buttons(notebook, time, result)
    box = here.get_by_role("checkbox")
    with changes(result):
        box.click()
    with changes(result):
        press(notebook, "Space")
    _buttons(notebook, form, result)
    expect(result.locator("table")).to_have_count(1)


class changes:
    """The text of this place is another one at the end."""

    def __init__(self, place) -> None:
        self.place = place

    def __enter__(self) -> None:
        self.before = self.place.inner_html()

    def __exit__(self, failed, *_) -> None:
        if not failed:
            waiting = "([node, before]) => node.innerHTML !== before"
            self.place.page.wait_for_function(
                waiting, arg=[self.place.element_handle(), self.before]
            )


def _buttons(notebook: Notebook, group, result) -> None:
    """A row of buttons of which one is pressed: the last by mouse, the one before by keyboard."""
    buttons = group.locator("button")
    with changes(result):
        buttons.last.click()
    with changes(result):
        press(notebook, "Shift+Tab", "Space")
    with changes(result):
        press(notebook, "Tab", "Enter")


def _list(notebook: Notebook, choice, result) -> None:
    """A list: one entry is picked, then the next by keyboard, which opens the list with Space."""
    with changes(result):
        choice.select_option(index=2)
    choice.focus()
    with changes(result):
        press(notebook, "Space", "ArrowDown", "Enter")


def side_by_side(notebook: Notebook) -> None:
    """The box of 07 and 11: each question gets a row of answers, the newest on top."""
    here = notebook.output(notebook.with_source("SideBySide("))
    box, ask = here.locator("textarea"), here.get_by_role("button", name="Ask them all")
    first = here.locator("table tbody tr").first
    cells = notebook.page.locator(".jp-Cell").count()
    box.fill("The capital of France is")
    ask.click()
    expect(first.locator("td").first).to_have_text("The capital of France is", timeout=60_000)
    expect(ask).to_be_enabled()
    forms = here.locator(".widget-toggle-buttons button")
    box.click()
    press(notebook, "ControlOrMeta+a")
    # Letters that are commands of JupyterLab outside a box: they must do nothing but be typed.
    notebook.page.keyboard.type("Add a bold xylophone")
    for _ in range(forms.count()):
        press(notebook, "Tab")
    if forms.count():
        press(notebook, "Space")
    # Nobody is faster. (JupyterLab may bring the first message of one widget after a later one of
    # another.)
    notebook.page.wait_for_timeout(1000)
    press(notebook, "Tab", "Enter")
    expect(first.locator("td").first).to_have_text("Add a bold xylophone", timeout=60_000)
    if forms.count():
        expect(first.locator("td").nth(1)).to_have_text(forms.last.inner_text())
        expect(ask).to_be_enabled()
        forms.first.click()
        notebook.page.wait_for_timeout(1000)
        ask.click()
        expect(first.locator("td").nth(1)).to_have_text(forms.first.inner_text(), timeout=60_000)
    expect(ask).to_be_enabled()
    assert "" not in first.locator("td").all_inner_texts()
    assert notebook.page.locator(".jp-Cell").count() == cells


def task_form(notebook: Notebook) -> None:
    """The form of 10: the task file below it holds what was chosen and typed."""
    here = notebook.output(notebook.with_source("TaskForm("))
    written, button = here.locator("pre"), here.get_by_role("button", name="Write the task file")

    def write() -> None:
        notebook.page.wait_for_timeout(1000)  # see side_by_side
        button.click()

    button.click()
    expect(written).to_contain_text("Summarize the conversation")
    instruction, path = here.get_by_label("instruction"), here.get_by_label("task file")
    instruction.click(click_count=3)  # selects all that stands there
    notebook.page.keyboard.type("Say it in five words.")
    path.click()
    path.fill(path.input_value().replace("example.yaml", "by_mouse.yaml"))
    write()
    expect(written).to_contain_text("Say it in five words.")
    expect(written).to_contain_text("name: by_mouse")
    instruction.focus()
    press(notebook, "ControlOrMeta+a")
    notebook.page.keyboard.type("Begin with a date.")
    press(notebook, "Tab", "End", *["ArrowLeft"] * len(".yaml"))
    notebook.page.keyboard.type("_and_keys")
    press(notebook, "Tab", "Enter")
    expect(written).to_contain_text("Begin with a date.")
    expect(written).to_contain_text("name: by_mouse_and_keys")

    topic = here.get_by_label("topic", exact=True)
    topic.focus()
    press(notebook, "Space")
    write()
    expect(written).to_contain_text("{{ topic }}")
    topic.click()
    write()
    expect(written).not_to_contain_text("{{ topic }}")

    # A browser draws the entries of a list outside the page, where no mouse of a test can go.
    group = here.get_by_label("belong together")
    group.select_option("topic")
    write()
    expect(written).to_contain_text("group: topic")
    group.focus()
    press(notebook, "Space", "ArrowUp", "Enter")
    write()
    expect(written).to_contain_text("group: summary")
    group.select_option("none")
    write()
    expect(written).not_to_contain_text("group:")

    answer = here.get_by_label("answer", exact=True)
    answer.focus()
    press(notebook, "Space", "ArrowDown", "Enter")
    write()
    expect(written).to_contain_text("{{ topic | string | trim }}")
    # Topics are few, so the form has taken them for labels by itself.
    expect(written).to_contain_text("choices: - family - food")
    labels = here.get_by_label("labels", exact=True)
    labels.click(click_count=3)
    notebook.page.keyboard.type("work, school")
    write()
    expect(written).to_contain_text("choices: - work - school required:")
    labels.focus()
    press(notebook, "ControlOrMeta+a")
    notebook.page.keyboard.type("food, work")
    press(notebook, "Tab")
    write()
    expect(written).to_contain_text("choices: - food - work required:")
    kinds = here.locator(".widget-toggle-buttons button")
    kinds.get_by_text("free text").click()
    expect(labels).to_be_disabled()
    write()
    expect(written).not_to_contain_text("choices:")
    kinds.get_by_text("free text").focus()
    press(notebook, "Shift+Tab", "Space")
    expect(labels).to_be_enabled()
    write()
    expect(written).to_contain_text("choices: - family - food")
    answer.select_option("summary")
    write()
    expect(written).to_contain_text("{{ summary | string | trim }}")
    expect(written).not_to_contain_text("choices:")


OF_NOTEBOOK = {
    "01_prompt": [slider],
    "02_template": [template_playground],
    "04_fine_tune": [slider, loss_microscope],
    "07_instruct_model": [side_by_side],
    "10_your_table": [task_form],
    "11_at_work": [side_by_side],
}
