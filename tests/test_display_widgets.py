"""Widgets, used from code as well as from the mouse."""

from functools import partial

import pytest
import torch
from datasets import Dataset

from helpers.data import describe, load_task
from helpers.data.tokenize import collate, tokenize
from helpers.display import (
    BudgetMeter,
    DistributionSlider,
    FixedQuestion,
    LiveCurve,
    LossMicroscope,
    SideBySide,
    TaskForm,
    TemplatePlayground,
    Token,
    widgets,
)
from helpers.display.widgets import _as_typed
from helpers.errors import CourseError
from helpers.inference import generate_answers
from helpers.inference.few_shot import Budget
from helpers.profiles import ROOT
from helpers.training import EvaluationRecord, History, StepRecord, TrainSettings, train
from tests.tiny import tiny_model, tiny_tokenizer


def side_by_side(**answer_functions) -> SideBySide:
    return SideBySide(answer_functions, "Is it good?")


def test_every_model_answers_the_prompt_in_the_box():
    both = side_by_side(loud=str.upper, short=lambda prompt: prompt[:2])
    assert both.result.value == ""  # nothing is asked before the button is pressed
    both.button.click()
    assert "IS IT GOOD?" in both.result.value and "<td" in both.result.value
    assert "IS IT GOOD?" in both.text and "<td" not in both.text
    both.prompt.value = "Where?"  # from code as well as from the keyboard
    both.button.click()
    assert "WHERE?" in both.result.value and ">Wh<" in both.result.value
    # The newest question is on top, and the older one stays.
    assert both.result.value.index("WHERE?") < both.result.value.index("GOOD")


def test_the_answers_of_one_question_stand_in_one_row_beside_its_prompt():
    both = side_by_side(loud=str.upper, short=lambda prompt: prompt[:2])
    both.button.click()
    header, row = both.result.value.split("<tr")[1:]
    assert header.count("<th ") == 4 and "loud" in header and "short" in header
    assert row.index("Is it good?") < row.index("IS IT GOOD?") < row.index(">Is<")


def test_a_prompt_can_be_put_in_several_forms():
    def echo(prompt: str, user: str = "") -> str:
        return user + prompt

    both = SideBySide({"echo": echo}, "Hello", {"plain": {}, "chat": {"user": "<user>"}})
    assert both.form in both.children
    for form in ("plain", "chat"):
        both.form.value = form
        both.button.click()
    newest, oldest = both.result.value.split("<tr")[2:]
    assert "&lt;user&gt;Hello" in newest and ">chat<" in newest
    assert "user" not in oldest and ">plain<" in oldest
    assert side_by_side(echo=str).form not in side_by_side(echo=str).children


def test_answers_are_shown_as_text_and_an_empty_one_is_said_to_be_empty():
    both = side_by_side(evil=lambda _: "<script>alert('x')</script>", silent=lambda _: "")
    both.button.click()
    assert "<script>" not in both.result.value
    assert "&lt;script&gt;" in both.result.value and "(nothing)" in both.result.value


def test_a_question_that_cannot_be_put_shows_why_and_the_next_one_works():
    def strict(prompt: str) -> str:
        if len(prompt) > 20:
            raise CourseError("The prompt is <too> long.")
        return "fine"

    both = side_by_side(strict=strict)
    both.prompt.value = "x" * 21
    both.button.click()
    assert both.result.value == "The prompt is &lt;too&gt; long."
    assert both.text == "The prompt is <too> long."
    both.prompt.value = "x"
    both.button.click()
    assert "fine" in both.result.value and not both.button.disabled
    both.prompt.value = "x" * 21
    both.button.click()
    assert "too&gt; long." in both.result.value and "fine" in both.result.value


def test_any_error_is_shown_in_the_box():
    def broken(_: str) -> str:
        raise RuntimeError("Expected <Long>, got Float")

    both = side_by_side(broken=broken)
    both.button.click()
    assert both.result.value == "RuntimeError: Expected &lt;Long&gt;, got Float"
    assert not both.button.disabled
    both = SideBySide({"echo": str}, "Hello", {"plain": {}, "chat": {"unknown": True}})
    both.form.value = "chat"
    both.button.click()
    assert both.result.value.startswith("TypeError: ")


def test_after_an_interrupt_the_box_waits_for_nothing():
    def interrupted(_: str) -> str:
        raise KeyboardInterrupt

    both = side_by_side(slow=interrupted)
    with pytest.raises(KeyboardInterrupt):
        both.button.click()
    assert both.result.value == "" and not both.button.disabled


@pytest.mark.parametrize("typed", ["", " \n"])
def test_an_empty_box_asks_nobody(typed):
    both = side_by_side(never=lambda prompt: pytest.fail("was asked"))
    both.prompt.value = typed
    both.button.click()
    assert "The box is empty" in both.result.value and not both.button.disabled


def test_models_answer_in_the_box_and_an_empty_form_is_refused():
    model, tokenizer = tiny_model(), tiny_tokenizer()

    def speak(prompt: str, rest: str = "") -> str:
        return generate_answers(model, tokenizer, [prompt if not rest else ""], 3)[0]

    both = SideBySide({"tiny": speak}, "Is it?", {"plain": {}, "nothing": {"rest": "no"}})
    both.button.click()
    assert "<table" in both.result.value
    both.form.value = "nothing"
    both.button.click()
    assert "empty" in both.result.value.split("<table")[0]


class Screen:
    """In place of IPython's display: remembers what was shown, and what took its place."""

    def __init__(self) -> None:
        self.shown, self.updates, self.metadata = [], [], []

    def display(self, data, metadata=None, **_):
        self.shown.append(data)
        self.metadata.append(metadata)
        return self

    def update(self, data, **_):
        self.updates.append(data)


@pytest.fixture
def screen(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(widgets, "display", screen.display)
    return screen


def test_live_curve_shows_one_picture_and_one_line_and_then_only_updates_them(screen):
    watch, history = LiveCurve(validation_rows=48), History(4, 4)
    watch.seconds = 1000
    history.evaluations.append(EvaluationRecord(0, 3.0, 0.25, 1.0))
    watch(history)
    assert ["image/png" in data for data in screen.shown] == [True, False]
    for step in range(1, 4):
        history.steps.append(StepRecord(step, 2.0 / step, 1e-4, 1.0, 400, 2.0))
        watch(history)
    # Steps alone change the line, not the picture, which takes longer to draw.
    assert ["image/png" in data for data in screen.updates] == [False] * 3
    line = screen.updates[-1]["text/plain"]
    assert "step 3 of 4" in line and "200 tokens/s" in line and "2 s left" in line
    history.evaluations.append(EvaluationRecord(3, 0.5, 0.75, 1.0))
    history.stopped = "interrupted"
    watch(history)
    assert "image/png" in screen.updates[-2]
    line = screen.updates[-1]["text/plain"]
    assert "interrupted" in line and "accuracy 0.75 (0.61 to 0.85)" in line and "left" not in line
    assert len(screen.shown) == 2


def test_live_curve_draws_in_between_when_the_last_picture_is_old(screen):
    watch, history = LiveCurve(validation_rows=48), History(4, 4)
    watch.seconds = 0
    history.evaluations.append(EvaluationRecord(0, 3.0, None, 1.0))  # a task without accuracy
    watch(history)
    history.steps.append(StepRecord(1, 2.0, 1e-4, 1.0, 400, 2.0))
    watch(history)
    assert "image/png" in screen.updates[0]
    assert "accuracy" not in screen.updates[-1]["text/plain"]


class Told:
    """In place of a question to a model: gives the next of its answers."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    def __str__(self) -> str:
        return "How is it?"

    def ask(self) -> str:
        return self.answers.pop(0)


def test_live_curve_lists_the_answer_at_each_evaluation_and_the_memory_in_use(screen):
    watch, history = LiveCurve(48, Told("<b>", "good")), History(2, 2)
    watch.seconds = 1000
    history.evaluations.append(EvaluationRecord(0, 3.0, 0.25, 1.0))
    watch(history)
    said = screen.shown[-1]
    # Plain text, so that markup of a model is never taken for markup of the page.
    assert list(said) == ["text/plain"] and said["text/plain"].splitlines()[1:] == ["step 0: '<b>'"]
    history.steps.append(StepRecord(1, 2.0, 1e-4, 1.0, 400, 2.0))
    watch(history)
    assert "asked" not in str(screen.updates), "no evaluation, no question"
    history.evaluations.append(EvaluationRecord(1, 1.0, 0.5, 1.0))
    watch(history)
    lines = screen.updates[-1]["text/plain"].splitlines()
    assert "How is it?" in lines[0] and lines[1:] == ["step 0: '<b>'", "step 1: 'good'"]
    history.stopped = "interrupted"
    watch(history)
    assert watch.answers == {0: "<b>", 1: "good"}
    assert "memory" in screen.updates[-1]["text/plain"] and "at most" in str(screen.updates[-1])


def example(prompt: str, answer: str) -> dict:
    return {"prompt": prompt, "completion": f" {answer}", "answer": answer, "row_id": "1"}


def test_a_question_to_a_model_leaves_it_as_it_was_and_never_ends_a_run():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    question = FixedQuestion(example("How is it?", "good"), model.train(), tokenizer)
    state = torch.get_rng_state()
    assert question.ask() == question.ask()
    assert model.training and torch.equal(torch.get_rng_state(), state)
    model.eval()
    assert isinstance(question.ask(), str) and not model.training
    assert str(question) == "'How is it?', right answer 'good'"
    question = FixedQuestion(example("good " * 300, "good"), model, tokenizer)
    assert "window" in question.ask()
    assert str(question).startswith("'… good good") and len(str(question)) < 150


def test_a_run_that_is_watched_goes_as_one_that_is_not(tmp_path, screen):
    model_rows = Dataset.from_list(
        [example(f"It is {i}. Good?", "yes" if i % 2 else "no") for i in range(12)]
    )
    tokenizer = tiny_tokenizer()
    settings, losses = TrainSettings(batch_size=4, micro_batch_size=4, low_memory=False), []
    for name in ("alone", "watched"):
        model = tiny_model()
        rows = tokenize(model_rows, tokenizer, model.config)
        question = FixedQuestion(model_rows[0], model, tokenizer)
        watch = LiveCurve(4, question) if name == "watched" else None
        history = train(
            model,
            rows,
            rows.select(range(4)),
            settings,
            partial(collate, pad_token_id=tokenizer.pad_token_id),
            tmp_path / name,
            lambda _: 0.5,
            watch,
        )
        losses.append([one.loss for one in history.steps + history.evaluations])
    assert losses[0] == losses[1]
    assert list(watch.answers) == [one.step for one in history.evaluations]


def microscope() -> LossMicroscope:
    tokens = [
        Token("<i>", 5, False, {}),
        Token(" it", 6, False, {"before": 3.0, "after": 2.0}),
        Token(" good", 7, True, {"before": 4.0, "after": 0.25}),
    ]
    return LossMicroscope(tokens)


def test_the_microscope_follows_its_controls_set_from_code():
    lens = microscope()
    assert lens.text.count("mean loss") == 2  # before and after, one below the other
    lens.when.value = "before"
    assert set(lens.children) >= {lens.when, lens.masked, lens.form}
    shown = lens.result
    assert "<i>" not in shown.value and "&lt;i&gt;" in shown.value
    assert "4.00" in shown.value and "3.00" not in shown.value
    lens.masked.value = False
    assert "3.00" in shown.value and "mean loss of 2 tokens" in shown.value
    lens.when.value = "after"
    assert "0.25" in shown.value and "2.00" in shown.value and ", loss 4.00" not in shown.value
    assert "<table" not in shown.value
    lens.form.value = "table"
    assert "<table" in shown.value and "0.25" in shown.value and "<i>" not in shown.value
    assert "✓ labelled      0.25" in lens.text and "mean loss" in lens.text


def slider() -> DistributionSlider:
    return DistributionSlider(["<b>", "<i>"], {0: [0.75, 0.25], 8: [0.1, 0.9]}, label=1)


def test_the_slider_shows_the_step_it_is_set_to():
    shown = slider()
    first = shown.result.value
    assert 'src="data:image/png;base64,' in first and "Step 0" in first and "1.386 nats" in first
    assert "<i>" not in first and 'alt="Step 0: the right token &lt;i&gt; has 0.2500' in first
    shown.step.value = 8
    assert "Step 8" in shown.result.value and "0.9000" in shown.result.value
    assert shown.result.value.split("</p>")[0] != first.split("</p>")[0]


def test_live_curve_says_what_is_in_use_on_a_gpu_that_is_used(screen, monkeypatch):
    history = History(2, 2, evaluations=[EvaluationRecord(0, 3.0, None, 1.0)])
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 1.5e9)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2.5e9)
    LiveCurve(48)(history)
    assert "on the GPU 1.5 GB (at most 2.5)" in screen.shown[-1]["text/plain"]


def meter() -> BudgetMeter:
    budgets = {0: Budget(0, 30, 2, 68, 100), 4: Budget(50, 30, 2, 18, 100)}
    budgets |= {9: Budget(110, 30, 2, -42, 100)}
    return BudgetMeter(budgets, {0: {"accuracy": "0.20"}, 4: {"accuracy": "<0.35>", "one": "2 s"}})


def test_a_budget_meter_shows_window_room_and_what_was_measured():
    shown = meter()
    assert "accuracy: 0.20" in shown.text and "68 free" in shown.result.value
    shown.shots.value = 4  # from code as well as from the mouse
    assert "4 shots in a window of 100 tokens: shots 50, question 30" in shown.text
    assert "one: 2 s" in shown.text and "0.20" not in shown.result.value
    assert "&lt;0.35&gt;" in shown.result.value and "<0.35>" not in shown.result.value
    # A name stands in the bar only where there is room; a square in its colour is below anyway.
    assert ">shots</span>" in shown.result.value and ">answer</span>" not in shown.result.value
    assert shown.result.value.count("■") == 3 and "■" not in shown.text
    shown.shots.value = 9
    assert "42 too many" in shown.text and "width: max(3px, 110.0%)" in shown.result.value
    assert "Not measured with this number of shots" in shown.text


def playground() -> TemplatePlayground:
    def render(task: str, template: str, row: dict) -> tuple[str, str, list[Token]]:
        if not row["body"]:
            raise CourseError("Row <R2> is empty.")
        prompt = f"{task}, {template}: {row['body']}"
        return prompt, "good", [Token(prompt, 5, False, {}), Token(" good", 7, True, {})]

    rows = {"R1": {"body": "<script>alert('x')</script>"}, "R2": {"body": ""}}
    return TemplatePlayground(rows, {"opinion": ["plain", "bare"], "headline": ["plain"]}, render)


def test_the_playground_shows_prompt_tokens_and_mask_of_what_is_picked():
    shown = playground()
    assert "opinion, plain" in shown.text and "2 tokens, 1 of them labelled" in shown.text
    shown.template.value = "bare"
    assert "opinion, bare" in shown.text and "opinion, bare" in shown.result.value
    shown.task.value = "headline"
    assert "headline, plain" in shown.text and tuple(shown.template.options) == ("plain",)
    shown.template.value, shown.task.value = "plain", "opinion"  # a template of the same name
    assert "opinion, plain" in shown.result.value


def test_the_playground_shows_markup_of_the_table_as_text_and_says_what_is_wrong():
    shown = playground()
    assert "<script>" not in shown.result.value
    assert "&lt;script&gt;" in shown.result.value and "<script>" in shown.text
    shown.row.value = "R2"
    assert shown.result.value == _as_typed("Row <R2> is empty.")
    assert shown.text == "Row <R2> is empty."
    shown.row.value = "R1"
    assert "labelled" in shown.text


def test_a_control_whose_result_fails_shows_the_error_and_not_the_last_result():
    shown = playground()
    shown._example = lambda *_: 1 / 0
    shown.template.value = "bare"
    assert shown.text == "ZeroDivisionError: division by zero"
    assert shown.result.value == _as_typed(shown.text)


def test_each_widget_is_stored_with_a_still_picture_of_what_it_shows(screen):
    both = side_by_side(echo=str)
    both.button.click()
    for widget in (both, meter(), playground(), microscope()):
        widget._ipython_display_()
        stored = screen.shown[-1]
        view = stored["application/vnd.jupyter.widget-view+json"]
        assert view["model_id"] == widget.model_id
        assert widget.result.value in stored["text/html"] and "<script>" not in stored["text/html"]
        assert stored["text/plain"].startswith(widget.text)
        assert "In a running notebook" in stored["text/plain"]
    slider()._ipython_display_()
    assert "text/html" not in screen.shown[-1] and screen.shown[-1]["image/png"]
    described = screen.metadata[-1]["image/png"]["alt"]
    assert described.startswith("Step 0: the right token <i> has 0.2500")
    assert screen.shown[-1]["text/plain"].startswith(described)


def test_a_form_writes_the_task_file_that_its_fields_say(tmp_path, screen):
    facts, path = describe(ROOT / "data" / "dialogues.csv"), tmp_path / "mine.yaml"
    form = TaskForm(facts, path, "Name the topic.")
    assert form.task is None and not path.exists()
    form._ipython_display_()
    stored = screen.shown[-1]["text/plain"]
    topics = form.labels.value
    assert topics.startswith("family, food, health") and topics.count(", ") == 9
    assert stored.startswith(f"answer: topic, one of its values\nlabels: {topics}\n")
    assert "\nthe model reads: ☐ id, ☑ dialogue" in stored
    assert "instruction: Name the topic." in stored
    assert (form.answer.value, form.choices.value) == ("topic", True)
    assert [name for name, box in form.prompt.items() if box.value] == ["dialogue"]
    assert form.group.label == "none"  # a list shows nothing for a value that is None
    form.button.click()
    assert form.task == load_task(path) and form.task.kind == "classification"
    assert form.task.group is None
    assert "name: mine" in form.result.value
    assert form.task.choices == (*topics.split(", "),)
    form.labels.value = "work,school ,"
    form.button.click()
    assert form.task.choices == ("work", "school")
    form.answer.value = "summary"
    assert form.choices.value is False  # follows the column
    assert form.labels.value == "" and form.labels.disabled
    form.instruction.value, form.prompt["topic"].value = "Sum <it> up.", True
    form.button.click()
    assert form.task.wording.prompt_fields == {"dialogue", "topic"}
    assert form.task.kind == "text" and "Sum &lt;it&gt; up." in form.result.value


def test_a_form_says_what_is_wrong_and_keeps_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    form = TaskForm(describe(ROOT / "data" / "dialogues.csv"), path)
    form.button.click()
    assert "an instruction" in form.result.value and not path.exists() and form.task is None


def test_a_form_takes_labels_with_commas_and_refuses_unknown_ones(tmp_path):
    rows = "".join(f'text {i},"{("home, garden", "toys")[i % 2]}"\n' for i in range(12))
    (tmp_path / "my.csv").write_text("text,kind\n" + rows, encoding="utf-8")
    form = TaskForm(describe(tmp_path / "my.csv"), tmp_path / "mine.yaml", "Which?")
    assert form.labels.value == '"home, garden", toys'
    form.button.click()
    assert form.task.choices == ("home, garden", "toys")
    for labels in ("", "toys", "toys, tyos"):
        form.labels.value = labels
        form.button.click()
        assert "at least two of its values: home, garden, toys" in form.result.value
    form.choices.value = False
    form.choices.value = True  # fills in all of them again
    assert form.labels.value == '"home, garden", toys'
