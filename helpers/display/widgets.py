"""Small widgets. What a widget shows can also be had from a plain cell, and its state when the cell
runs is stored with it as a still picture, for readers without a kernel.

Widgets keep to what ipywidgets 7.7 has, the version that Colab brings along. Every text of a model
or a table is escaped before it is shown as HTML. A callback that raises leaves no trace on the
page, so widgets show every error in the place of their result.
"""

import csv
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets
import psutil
import torch
from IPython.display import DisplayHandle, display
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.data.describe import TableFacts, labels_of, suggest, write_task
from helpers.display.charts import BLUE, ORANGE, RED, as_output, two_distributions
from helpers.display.curves import history_summary, training_curve
from helpers.display.tables import table_output
from helpers.display.tokens import Token, tokens_page
from helpers.errors import CourseError
from helpers.inference.few_shot import Budget
from helpers.inference.generate import generate_answers
from helpers.training import History


def _in_words(error: Exception) -> str:
    """An error as a widget shows it: the course's own in their own words."""
    return str(error) if isinstance(error, CourseError) else f"{type(error).__name__}: {error}"


def _lines(page: str) -> str:
    """HTML in lines of normal height: in ipywidgets' own HTML each is as high as a button."""
    return f'<div style="line-height: normal">{page}</div>'


def _as_typed(text: str) -> str:
    return f'<pre style="white-space: pre-wrap">{escape(text)}</pre>'


class _Still(ipywidgets.VBox):
    """Controls, and below them a result. It is stored together with what it shows at that moment,
    for pages that cannot run widgets (GitHub, nbviewer).

    result: as HTML. text: the same as text. picture: the same as a PNG, in base64. in_words: what
    one can do here in a running notebook.
    """

    in_words = text = picture = ""

    def __init__(self, *controls: ipywidgets.DOMWidget, result: str = "") -> None:
        self.result = ipywidgets.HTML(result)
        super().__init__([*controls, self.result])

    def _ipython_display_(self, **_: Any) -> None:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        data = {"application/vnd.jupyter.widget-view+json": view}
        fields, note = self._fields(), f"A still picture. In a running notebook: {self.in_words}."
        data["text/plain"] = "\n".join(part for part in (fields, self.text, note) if part)
        if self.picture:
            data["image/png"] = self.picture
        else:
            page = (_as_typed(fields) if fields else "") + self.result.value
            data["text/html"] = f"{page}<p><i>{escape(note)}</i></p>"
        alternative = {"image/png": {"alt": self.text}} if self.picture else {}
        display(data, metadata=alternative, raw=True)

    def _fields(self) -> str:
        """What stands in the controls, where the result does not say it."""
        return ""

    def _draw(self, _: object = None) -> None:
        try:
            self.text, self.result.value = self._content()
        except Exception as error:
            self.text = _in_words(error)
            self.result.value = _as_typed(self.text)

    def _content(self) -> tuple[str, str]:
        """What is to be shown now: as plain text, and as HTML."""
        raise NotImplementedError


class _Following(_Still):
    """A result that follows its controls."""

    def __init__(self, *controls: ipywidgets.DOMWidget) -> None:
        super().__init__(*controls)
        for control in controls:
            control.observe(self._draw, names="value")
        self._draw()


class SideBySide(_Still):
    """Talk to several models at once and see their answers next to each other.

    Type into the box and press the button; or, from code, set `prompt.value` (and `form.value`)
    and call `button.click()`. `result.value` then holds all answers so far as HTML, the newest
    question on top. Each question stands alone: no model is told of the ones before.

    answer_functions: name of a model → function from a prompt to its answer.
    forms: name of a form → keyword arguments that these functions get with the prompt.
    """

    in_words = "a box for a prompt, and a button that asks all models"

    def __init__(
        self,
        answer_functions: Mapping[str, Callable[..., str]],
        prompt: str = "",
        forms: Mapping[str, dict[str, object]] | None = None,
    ) -> None:
        self._answer_functions, self._forms = answer_functions, forms or {"as typed": {}}
        self.prompt = ipywidgets.Textarea(
            value=prompt,
            placeholder="Type a prompt here.",
            # The text is sent as a whole when the box is left: single letters still on their way
            # to a busy kernel would be overtaken by the button.
            continuous_update=False,
            layout=ipywidgets.Layout(width="98%", height="7em"),
        )
        self.form = ipywidgets.ToggleButtons(options=list(self._forms))
        self.button = ipywidgets.Button(description="Ask them all")
        self._answered: list[list[str]] = []
        self.button.on_click(self._ask)
        choice = [self.form] if len(self._forms) > 1 else []
        super().__init__(self.prompt, *choice, self.button)

    def _ask(self, _: ipywidgets.Button) -> None:
        typed, form, trouble = self.prompt.value, self.form.value, ""
        self.button.disabled = True
        self.result.value = "Answering …" + self._content()[1]
        try:
            if not typed.strip():
                raise CourseError("The box is empty. Type a prompt, then press the button.")
            options = self._forms[form]
            answers = [answer(typed, **options) for answer in self._answer_functions.values()]
            self._answered.insert(0, [typed, form, *(text or "(nothing)" for text in answers)])
        except Exception as error:
            trouble = _in_words(error)
        finally:  # also after an interrupt
            text, page = self._content()
            self.text = "\n".join(filter(None, (trouble, text)))
            self.result.value = escape(trouble) + page
            self.button.disabled = False

    def _content(self) -> tuple[str, str]:
        if not self._answered:
            return "", ""
        table = table_output(["prompt", "form", *self._answer_functions], self._answered)
        return table["text/plain"], _lines(table["text/html"])


class TaskForm(_Still):
    """A form that writes a task file for a table, and shows the file and one example of it.

    Fill it in and press the button; or, from code, set `answer.value`, `prompt["text"].value` and
    so on, and call `button.click()`. `task` is then the task. The same without a form:
    `write_task`. labels: with commas in between; one that holds a comma stands in double quotes.

    facts: what `describe` found in the table. path: of the file to write. instruction: for the
    beginning; columns are filled in as `suggest` guesses.
    """

    in_words = "a form for columns and instruction, and a button that writes the file"

    def __init__(self, facts: TableFacts, path: str | Path, instruction: str = "") -> None:
        names, first = list(facts.columns), suggest(facts)
        wide = {"layout": ipywidgets.Layout(width="40em"), "style": {"description_width": "9em"}}
        typed = wide | {"continuous_update": False}  # see SideBySide
        self._facts, self.task = facts, None
        answer = {"value": first["answer"], "description": "answer"}
        self.answer = ipywidgets.Dropdown(options=names, **answer, **wide)
        kinds = [("one of its values", True), ("free text", False)]
        style = wide["style"]
        self.choices = ipywidgets.ToggleButtons(options=kinds, description="it is", style=style)
        follows = (self.answer, "value"), (self.choices, "value")
        ipywidgets.dlink(*follows, lambda name: facts.columns[name].kind == "label")
        self.labels = ipywidgets.Text(description="labels", **typed)
        for control in (self.answer, self.choices):
            control.observe(self._list_labels, names="value")
        self._list_labels()
        # Boxes to tick, since JupyterLab keeps the arrow keys of a list to itself.
        self.prompt = {
            name: ipywidgets.Checkbox(value=name in first["prompt"], description=name, indent=False)
            for name in names
        }
        read = [ipywidgets.Label("The model reads:"), *self.prompt.values()]
        self.group = ipywidgets.Dropdown(
            # "", since a list shows nothing where its value is None.
            options=[("none", ""), *((name, name) for name in names)],
            value=first["group"] or "",
            description="belong together",
            **wide,
        )
        self.instruction = ipywidgets.Text(value=instruction, description="instruction", **typed)
        self.path = ipywidgets.Text(value=str(path), description="task file", **typed)
        self.button = ipywidgets.Button(description="Write the task file")
        self.button.on_click(self._draw)
        asked = [self.answer, self.choices, self.labels]
        rest = [self.group, self.instruction, self.path]
        nothing = "No task file is written yet."
        super().__init__(*asked, *read, *rest, self.button, result=nothing)

    def _list_labels(self, _: object = None) -> None:
        """All labels of the answer column, where the answer is one of them."""
        column = self._facts.columns[self.answer.value]
        labels = labels_of(column) if self.choices.value else []
        self.labels.value = ", ".join(f'"{one}"' if "," in one else one for one in labels)
        self.labels.disabled = not labels

    def _fields(self) -> str:
        boxes = [f"{'☑' if box.value else '☐'} {name}" for name, box in self.prompt.items()]
        fields = {
            "answer": f"{self.answer.value}, {self.choices.label}",
            "labels": self.labels.value,
            "the model reads": ", ".join(boxes),
            "belong together": self.group.label,
            "instruction": self.instruction.value,
        }
        return "\n".join(f"{name}: {value}" for name, value in fields.items() if value)

    def _content(self) -> tuple[str, str]:
        (labels,) = csv.reader([self.labels.value], skipinitialspace=True)
        self.task = write_task(
            self.path.value,
            self._facts.source,
            prompt=[name for name, box in self.prompt.items() if box.value],
            answer=self.answer.value,
            instruction=self.instruction.value,
            choices=self.choices.value and [one.strip() for one in labels if one.strip()],
            group=self.group.value or None,
        )
        text = self.task.path.read_text(encoding="utf-8").strip()
        return text, _as_typed(text)


class LossMicroscope(_Following):
    """Each token of an example with its loss: as cells or table, with or without the loss mask.

    Use the mouse or the keyboard; or, from code, set `when.value` (a key of the tokens' losses, or
    "all": one below the other, on one scale), `masked.value` (True, False) and `form.value`
    ("cells", "table").
    """

    in_words = "buttons for time, loss mask and form"

    def __init__(self, tokens: list[Token]) -> None:
        self._times = list(dict.fromkeys(when for token in tokens for when in token.losses))
        self._tokens = tokens
        self.when = ipywidgets.ToggleButtons(options=["all", *self._times], description="losses")
        self.masked = ipywidgets.Checkbox(value=True, description="loss mask on")
        self.form = ipywidgets.ToggleButtons(options=["cells", "table"], description="shown as")
        super().__init__(self.when, self.masked, self.form)

    def _content(self) -> tuple[str, str]:
        times = self._times if self.when.value == "all" else [self.when.value]
        as_table = self.form.value == "table"
        page, text, words = tokens_page(self._tokens, times, self.masked.value, as_table)
        page += f"<p>{escape(words).replace(chr(10), '<br>')}</p>"
        return f"{text}\n{words}", _lines(page)


class DistributionSlider(_Following):
    """What the model expects next beside the label, at the step that a slider picks.

    From code, set `step.value` to one of the steps.

    words, model, label: as in `distribution_strip`.
    """

    in_words = "a slider for the step of the run"

    def __init__(
        self, words: Sequence[str], model: Mapping[int, Sequence[float]], label: int
    ) -> None:
        self.step = ipywidgets.SelectionSlider(options=list(model), description="step")
        self._words, self._model, self._label = words, model, label
        super().__init__(self.step)

    def _content(self) -> tuple[str, str]:
        p = self._model[self.step.value]
        q = [float(i == self._label) for i in range(len(p))]
        word, right = self._words[self._label], p[self._label]
        text = f"Step {self.step.value}: the right token {word} has {right:.4f}, so the loss here "
        text += f"is {-math.log(right):.3f} nats."
        self.picture = as_output(two_distributions(self._words, p, q), text)[0]["image/png"]
        source = f"data:image/png;base64,{self.picture}"
        return text, _lines(f'<img src="{source}" alt="{escape(text)}"><p>{escape(text)}</p>')


class BudgetMeter(_Following):
    """How a number of shots fills the context window, and beside it what was measured with it.

    Drag the slider or use the arrow keys; or, from code, set `shots.value` to one of the numbers.

    budgets: number of shots → how the window is shared out. measured: number of shots → {what was
    measured: its value, in words}; a number that was not tried is missing here.
    """

    in_words = "a slider for the number of shots"

    def __init__(
        self, budgets: Mapping[int, Budget], measured: Mapping[int, Mapping[str, str]]
    ) -> None:
        self._budgets, self._measured = budgets, measured
        self.shots = ipywidgets.SelectionSlider(
            options=list(budgets), description="shots", layout=ipywidgets.Layout(width="32em")
        )
        super().__init__(self.shots)

    def _content(self) -> tuple[str, str]:
        shots = self.shots.value
        budget, known = self._budgets[shots], self._measured.get(shots, {})
        room = f"{budget.free:,} free" if budget.fits else f"{-budget.free:,} too many"
        parts = {"shots": (BLUE, "white"), "question": (ORANGE, "black"), "answer": (RED, "black")}
        line = f"{shots} shot{'' if shots == 1 else 's'} in a window of {budget.window:,} tokens: "
        below = [f"{name}: {value}" for name, value in known.items()]
        if not known:
            below.append("Not measured with this number of shots: no accuracy, no seconds.")
        cells, counts, marked = "", [], []
        for part, (back, front) in parts.items():
            # As long as its share of the window; what is too much goes beyond the grey frame.
            share = 100 * getattr(budget, part) / budget.window
            cells += f'<span style="flex: none; background: {back}; color: {front}; '
            # A narrow one has no room for its name.
            cells += f'width: max(3px, {share:.1f}%)">{part if share >= 12 else ""}</span>'
            counts.append(f"{part} {getattr(budget, part):,}")
            marked.append(f'<span style="color: {back}">■</span> {counts[-1]}')
        bar = '<div style="display: flex; width: 32em; min-height: 1.5em; background: #dddddd">'
        written = "".join(f"<div>{escape(line)}</div>" for line in below)
        page = f"{bar}{cells}</div><div>{line}{', '.join(marked)}, {room}</div>{written}"
        return "\n".join([f"{line}{', '.join(counts)}, {room}", *below]), _lines(page)


class TemplatePlayground(_Following):
    """One row of the table as prompt, completion, tokens and loss mask, in any task and template.

    Use the list and the buttons; or, from code, set `row.value`, `task.value`, `template.value`.

    rows: name → row. templates: task → names of its templates. example: function from task,
    template and row to prompt, completion and tokens (without losses).
    """

    in_words = "a list of rows, and buttons for task and template"

    def __init__(
        self,
        rows: dict[str, dict],
        templates: dict[str, list[str]],
        example: Callable[[str, str, dict], tuple[str, str, list[Token]]],
    ) -> None:
        self._rows, self._example = rows, example
        wide = ipywidgets.Layout(width="40em")
        self.row = ipywidgets.Dropdown(options=list(rows), description="row", layout=wide)
        # Buttons, since JupyterLab takes the arrow keys of a closed list for itself.
        self.task = ipywidgets.ToggleButtons(options=list(templates), description="task")
        first = next(iter(templates.values()))
        self.template = ipywidgets.ToggleButtons(options=first, description="template")
        # Linked before `_draw`: no task is ever drawn with a template that it does not have.
        ipywidgets.dlink((self.task, "value"), (self.template, "options"), templates.__getitem__)
        super().__init__(self.row, self.task, self.template)

    def _content(self) -> tuple[str, str]:
        row = self._rows[self.row.value]
        prompt, completion, tokens = self._example(self.task.value, self.template.value, row)
        page, text, count = tokens_page(tokens, [""])
        example = f"{escape(prompt)} <b>[{escape(completion)}]</b>"
        example = f'<div style="white-space: pre-wrap; padding: 0.5em 0">{example}</div>'
        text = f"{prompt} [{completion}]\n{count}\n{text}"
        return text, _lines(f"{example}{page}<p>{escape(count)}</p>")


class LiveCurve:
    """A picture of a run that grows with it; give it to `train` as `watch`.

    Below the picture a line says how far the run is, how fast, and what is left; the line changes
    with each step, the picture with each evaluation and otherwise every `seconds`. Both are plain
    outputs of the cell, so the last state stays when the run is over, and in any front end.

    validation_rows, lines: as in `training_curve`. question: put to the model at each evaluation;
    the answers are listed below the line.
    """

    seconds = 10.0

    def __init__(
        self,
        validation_rows: int,
        question: "FixedQuestion | None" = None,
        lines: Mapping[str, float] | None = None,
    ) -> None:
        self.validation_rows, self.question, self.lines = validation_rows, question, lines
        self.answers: dict[int, str] = {}
        self._picture = self._line = self._answers = None
        self._evaluations, self._drawn, self._peak = 0, 0.0, 0.0

    def __call__(self, history: History) -> None:
        """Draw the run as it is now."""
        text = self._text(history)
        # The picture costs as much as a part of a step, so it waits for something to be seen.
        running = history.stopped == "running"
        evaluated = len(history.evaluations) != self._evaluations
        if evaluated or not running or time.monotonic() - self._drawn > self.seconds:
            chart = training_curve(history, self.validation_rows, self.lines)
            data, metadata = as_output(chart, text)
            self._picture = _put(self._picture, data, metadata)
            self._drawn = time.monotonic()
        self._line = _put(self._line, {"text/plain": text}, {})
        if evaluated and self.question:
            self.answers[len(history.steps)] = self.question.ask()
            lines = [f"step {step}: {answer!r}" for step, answer in self.answers.items()]
            listed = [f"One prompt, asked at each evaluation: {self.question}", *lines]
            self._answers = _put(self._answers, {"text/plain": "\n".join(listed)}, {})
        self._evaluations = len(history.evaluations)

    def _text(self, history: History) -> str:
        text = history_summary(history, self.validation_rows)
        if history.stopped == "running" and history.steps:
            text += f"; about {history.seconds_left:.0f} s left"
        now = psutil.Process().memory_info().rss / 1e9
        self._peak = max(self._peak, now)
        text += f"; memory {now:.1f} GB (at most {self._peak:.1f})"
        if torch.cuda.is_initialized():
            used, most = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
            text += f", on the GPU {used / 1e9:.1f} GB (at most {most / 1e9:.1f})"
        return text


@dataclass(eq=False, repr=False)
class FixedQuestion:
    """One fixed question to a model in training: the prompt of an example, asked again and again.

    Asking leaves the model as it was (training or evaluation mode) and draws no random number, so
    a run that is watched goes the same way as one that is not.

    example: a row with `prompt` and `answer`.
    """

    example: dict
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def __str__(self) -> str:
        """The end of the prompt, and the right answer."""
        end = self.example["prompt"]
        if len(end) > 120:
            end = "… " + end[-120:].split(maxsplit=1)[-1]
        return f"{end!r}, right answer {self.example['answer']!r}"

    def ask(self) -> str:
        """What the model answers now, when nobody constrains it."""
        training = self.model.training
        try:
            return generate_answers(self.model, self.tokenizer, [self.example["prompt"]], 12)[0]
        except CourseError as error:
            # A question that cannot be put is no reason to end a run.
            return str(error)
        finally:
            self.model.train(training)


def _put(handle: DisplayHandle | None, data: dict, metadata: dict) -> DisplayHandle | None:
    """Show something, or in its place the newer state of it."""
    if handle is None:
        return display(data, metadata=metadata, raw=True, display_id=True)
    handle.update(data, metadata=metadata, raw=True)
    return handle
