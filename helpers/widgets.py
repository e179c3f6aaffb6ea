"""Small widgets. What a widget shows can also be had from a plain cell.

Widgets keep to what ipywidgets 7.7 has, the version that Colab brings along. Every text of a model
or a table is escaped before it is shown as HTML.
"""

import math
import time
from collections.abc import Callable
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

import ipywidgets
import psutil
import torch
from IPython.display import DisplayHandle, display

from helpers.answering import generate_answers
from helpers.errors import CourseError
from helpers.figures import (
    BLUE,
    ORANGE,
    RED,
    Token,
    as_output,
    loss_of_tokens,
    mask_of_tokens,
    state_of,
    token_cells,
    token_table,
    training_curve,
    two_distributions,
    window_bar,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from helpers.prompting import Budget
    from helpers.templates import Example
    from helpers.training import History


class SideBySide(ipywidgets.VBox):
    """Talk to several models at once and see their answers next to each other.

    Type into the box and press the button; or, from code, set `prompt.value` (and `form.value`)
    and call `button.click()`. `result.value` then holds all answers so far as HTML, the newest
    question on top. Each question stands alone: no model is told of the ones before.

    answer_functions: name of a model → function from a prompt to its answer.
    forms: name of a form → function from what was typed to the prompt that the models get.
    """

    def __init__(
        self,
        answer_functions: dict[str, Callable[[str], str]],
        prompt: str = "",
        forms: dict[str, Callable[[str], str]] | None = None,
    ) -> None:
        self._answer_functions, self._forms = answer_functions, forms or {"as typed": str}
        self.prompt = ipywidgets.Textarea(
            value=prompt,
            placeholder="Type a prompt here.",
            layout=ipywidgets.Layout(width="98%", height="7em"),
        )
        self.form = ipywidgets.ToggleButtons(options=list(self._forms))
        self.button = ipywidgets.Button(description="Ask them all")
        self.result = ipywidgets.HTML()
        self._said: list[list[str]] = []
        self.button.on_click(self._ask)
        choice = [self.form] if len(self._forms) > 1 else []
        super().__init__([self.prompt, *choice, self.button, self.result])

    def __repr__(self) -> str:
        """What stands in place of the widget where no kernel runs."""
        return "A box for a prompt and a button. They need a running notebook."

    def _ask(self, _: ipywidgets.Button) -> None:
        typed, form = self.prompt.value, self.form.value
        self.button.disabled = True
        self.result.value = "Answering …" + self._table()
        try:
            prompt = self._forms[form](typed)
            answers = [ask(prompt) for ask in self._answer_functions.values()]
        except CourseError as error:
            self.result.value = escape(str(error)) + self._table()
        else:
            self._said.insert(0, [typed, form, *answers])
            self.result.value = self._table()
        finally:
            self.button.disabled = False

    def _table(self) -> str:
        header = ["prompt", "form", *self._answer_functions]
        return answers_table(header, self._said) if self._said else ""


def answers_table(header: list[str], rows: list[list[str]]) -> str:
    """HTML table of prompts and answers, one row a question; whatever stands in it is text."""
    style = (
        "text-align: left; vertical-align: top; padding: 3px 1em 3px 0; line-height: 1.35; "
        "white-space: pre-wrap; max-width: 24em"
    )
    lines = "".join(
        "<tr>"
        + "".join(f'<{tag} style="{style}">{escape(c) or "<i>(nothing)</i>"}</{tag}>' for c in row)
        + "</tr>"
        for tag, row in zip(["th"] + ["td"] * len(rows), [header, *rows], strict=True)
    )
    return f"<table>{lines}</table>"


class LossMicroscope(ipywidgets.VBox):
    """Each token of an example with its loss: as cells or table, with or without the prompt mask.

    Use the mouse or the keyboard; or, from code, set `when.value` (a key of the tokens' losses),
    `masked.value` (True, False) and `form.value` ("cells", "table"). `result.value` is the HTML.
    """

    def __init__(self, tokens: list[Token]) -> None:
        times = list(dict.fromkeys(when for token in tokens for when in token.losses))
        self.when = ipywidgets.ToggleButtons(options=times, description="losses")
        self.masked = ipywidgets.Checkbox(value=True, description="prompt mask on")
        self.form = ipywidgets.ToggleButtons(options=["cells", "table"], description="shown as")
        self.result = ipywidgets.HTML()
        self._tokens = tokens
        for control in (self.when, self.masked, self.form):
            control.observe(self._draw, names="value")
        self._draw()
        super().__init__([self.when, self.masked, self.form, self.result])

    def __repr__(self) -> str:
        """What stands in place of the widget where no kernel runs."""
        return "Buttons for time, prompt mask and form. They need a running notebook."

    def _draw(self, _: dict | None = None) -> None:
        state = self._tokens, self.when.value, self.masked.value
        cells = self.form.value == "cells"
        shown = token_cells(*state) if cells else token_table(*state)["text/html"]
        self.result.value = f"{shown}<p>{escape(loss_of_tokens(*state))}</p>"


class DistributionSlider(ipywidgets.VBox):
    """What the model expects next beside the label, at the step that a slider picks.

    From code, set `step.value` to one of the steps. `result.value` is the picture as HTML.

    words, model, label: as in helpers.figures.distribution_strip.
    """

    def __init__(self, words: list[str], model: dict[int, list[float]], label: int) -> None:
        self.step = ipywidgets.SelectionSlider(options=list(model), description="step")
        self.result = ipywidgets.HTML()
        self._words, self._model, self._label = words, model, label
        self.step.observe(self._draw, names="value")
        self._draw()
        super().__init__([self.step, self.result])

    def __repr__(self) -> str:
        """What stands in place of the widget where no kernel runs."""
        return "A slider for the step of the run. It needs a running notebook."

    def _draw(self, _: dict | None = None) -> None:
        p = self._model[self.step.value]
        q = [float(place == self._label) for place in range(len(p))]
        loss = -math.log(p[self._label])
        word = self._words[self._label]
        says = f"Step {self.step.value}: the right token {word} has {p[self._label]:.4f}, "
        says += f"so the loss here is {loss:.3f} nats."
        picture = as_output(two_distributions(self._words, p, q), says)[0]["image/png"]
        source = f"data:image/png;base64,{picture}"
        self.result.value = f'<img src="{source}" alt="{escape(says)}"><p>{escape(says)}</p>'


class BudgetMeter(ipywidgets.VBox):
    """How a number of shots fills the context window, and beside it what was measured with it.

    Drag the slider or use the arrow keys; or, from code, set `shots.value` to one of the numbers.
    `text` is what is shown, `result.value` the same as HTML, and `table()` all of it at once.

    budgets: number of shots → how the window is shared out. measured: number of shots → {what was
    measured: its value, in words}; a number that was not tried is missing here.
    """

    def __init__(self, budgets: dict[int, "Budget"], measured: dict[int, dict[str, str]]) -> None:
        self._budgets, self._measured = budgets, measured
        self.shots = ipywidgets.SelectionSlider(
            options=list(budgets), description="shots", layout=ipywidgets.Layout(width="32em")
        )
        self.result = ipywidgets.HTML()
        self.shots.observe(self._draw, names="value")
        self._draw()
        super().__init__([self.shots, self.result])

    def __repr__(self) -> str:
        """What stands in place of the widget where no kernel runs."""
        return "A slider for the number of shots. It needs a running notebook."

    @property
    def text(self) -> str:
        """The window as a line of signs, and what is known of this number of shots."""
        return "\n".join([window_bar(self._budgets[self.shots.value]), *self._lines()])

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows for `show_table`: each number of shots, its tokens, what was measured."""
        names = list(dict.fromkeys(name for one in self._measured.values() for name in one))
        rows = []
        for shots, budget in self._budgets.items():
            known = self._measured.get(shots, {})
            used = f"{budget.window - budget.free:,}"
            rows.append([str(shots), used, _room(budget), *(known.get(n, "–") for n in names)])
        return ["shots", "tokens", "room", *names], rows

    def _lines(self) -> list[str]:
        shots = self.shots.value
        budget = self._budgets[shots]
        parts = [f"shots {budget.shots:,}", f"question {budget.question:,}"]
        parts += [f"answer {budget.answer:,}", _room(budget)]
        known = [f"{name}: {value}" for name, value in self._measured.get(shots, {}).items()]
        return [
            "s shots, q question, a answer, · free, ! too many",
            f"{shots} shot{'' if shots == 1 else 's'} in a window of {budget.window:,} tokens: "
            + ", ".join(parts),
            *(known or ["Not asked with this number of shots: no accuracy, no seconds."]),
        ]

    def _draw(self, _: dict | None = None) -> None:
        colours = {"s": BLUE, "q": ORANGE, "a": RED, "·": "#eeeeee", "!": "black"}
        runs = ["".join(run) for _, run in groupby(window_bar(self._budgets[self.shots.value]))]
        bar = "".join(
            f'<span style="background: {colours[run[0]]}; '
            f'color: {"white" if run[0] in "sa!" else "black"}">{run}</span>'
            for run in runs
        )
        self.result.value = f'<div style="font-family: monospace; white-space: pre">{bar}</div>'
        self.result.value += "".join(f"<div>{escape(line)}</div>" for line in self._lines())


def _room(budget: "Budget") -> str:
    return f"{budget.free:,} free" if budget.fits else f"{-budget.free:,} too many"


class TemplatePlayground(ipywidgets.VBox):
    """One row of the table as prompt, completion, tokens and loss mask, in any task and wording.

    Use the list and the buttons; or, from code, set `row.value`, `task.value` and `wording.value`.
    `text` is what is shown, `result.value` the same as HTML.

    rows: name → row. wordings: task → names of its wordings. example: function from task, wording
    and row to prompt, completion and tokens (without losses).
    """

    def __init__(
        self,
        rows: dict[str, dict],
        wordings: dict[str, list[str]],
        example: Callable[[str, str, dict], tuple[str, str, list[Token]]],
    ) -> None:
        self._rows, self._wordings, self._example = rows, wordings, example
        wide, task = ipywidgets.Layout(width="40em"), next(iter(wordings))
        self.row = ipywidgets.Dropdown(options=list(rows), description="row", layout=wide)
        # Buttons, since JupyterLab takes the arrow keys of a closed list for itself.
        self.task = ipywidgets.ToggleButtons(options=list(wordings), description="task")
        self.wording = ipywidgets.ToggleButtons(options=wordings[task], description="wording")
        self.result, self.text = ipywidgets.HTML(), ""
        self.task.observe(self._of_task, names="value")
        for control in (self.row, self.wording):
            control.observe(self._draw, names="value")
        self._draw()
        super().__init__([self.row, self.task, self.wording, self.result])

    def __repr__(self) -> str:
        """What stands in place of the widget where no kernel runs."""
        return "A list of rows, and buttons for task and wording. They need a running notebook."

    def _of_task(self, _: dict) -> None:
        # The first wording of both tasks may have one name: then no change of wording is noticed.
        self.wording.options = self._wordings[self.task.value]
        self._draw()

    def _draw(self, _: dict | None = None) -> None:
        row = self._rows[self.row.value]
        try:
            prompt, completion, tokens = self._example(self.task.value, self.wording.value, row)
        except CourseError as error:
            self.text = str(error)
            self.result.value = escape(self.text)
            return
        count = mask_of_tokens(tokens)
        self.text = f"{prompt} [{completion}]\n{count}\n{token_table(tokens)['text/plain']}"
        style = "white-space: pre-wrap; line-height: 1.4; padding: 0.5em 0"
        self.result.value = (
            f'<div style="{style}">{escape(prompt)} <b>[{escape(completion)}]</b></div>'
            f"{token_cells(tokens)}<p>{escape(count)}</p>"
        )


class LiveCurve:
    """A picture of a run that grows with it; give it to `train` as `watch`.

    Below the picture a line says how far the run is, how fast, and what is left; the line changes
    with each step, the picture with each validation and otherwise every `seconds`. Both are plain
    outputs of the cell, so the last state stays when the run is over, and in any front end.

    validation_rows: how many rows each validation accuracy is counted on.
    question: put to the model at each validation; the answers are listed below the line.
    """

    def __init__(
        self,
        validation_rows: int,
        question: "FixedQuestion | None" = None,
        seconds: float = 4.0,
    ) -> None:
        self.validation_rows, self.question, self.seconds = validation_rows, question, seconds
        self.answers: dict[int, str] = {}
        self._picture = self._line = self._said = None
        self._looks, self._drawn, self._peak = 0, 0.0, 0.0

    def __call__(self, history: "History") -> None:
        """Draw the run as it is now."""
        text = self._text(history)
        # The picture costs as much as a part of a step, so it waits for something to be seen.
        running = history.stopped == "running"
        new_look = len(history.validations) != self._looks
        if new_look or not running or time.monotonic() - self._drawn > self.seconds:
            data, metadata = as_output(training_curve(history, self.validation_rows), text)
            self._picture = _put(self._picture, data, metadata)
            self._drawn = time.monotonic()
        self._line = _put(self._line, {"text/plain": text}, {})
        if new_look and self.question:
            self.answers[len(history.steps)] = self.question.ask()
            lines = [f"step {step}: {answer!r}" for step, answer in self.answers.items()]
            said = f"One prompt, asked at each validation: {self.question}\n" + "\n".join(lines)
            self._said = _put(self._said, {"text/plain": said}, {})
        self._looks = len(history.validations)

    def _text(self, history: "History") -> str:
        text = state_of(history, self.validation_rows)
        if history.stopped == "running" and history.steps:
            text += f"; about {history.seconds_left:.0f} s left"
        now = psutil.Process().memory_info().rss / 1e9
        self._peak = max(self._peak, now)
        text += f"; memory {now:.1f} GB (at most {self._peak:.1f})"
        if torch.cuda.is_initialized():
            used, most = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
            text += f", on the GPU {used / 1e9:.1f} GB (at most {most / 1e9:.1f})"
        return text


class FixedQuestion:
    """One fixed question to a model in training: the prompt of an example, asked again and again.

    Asking leaves the model as it was (training or evaluation mode) and draws no random number, so
    a run that is watched goes the same way as one that is not.
    """

    def __init__(
        self, example: "Example", model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
    ) -> None:
        self.example, self.model, self.tokenizer = example, model, tokenizer

    def __str__(self) -> str:
        """The end of the prompt, and the right answer."""
        end = self.example.prompt
        if len(end) > 120:
            end = "… " + end[-120:].split(maxsplit=1)[-1]
        return f"{end!r}, right answer {self.example.completion!r}"

    def ask(self) -> str:
        """What the model answers now, when nobody constrains it."""
        training = self.model.training
        try:
            return generate_answers(self.model, self.tokenizer, [self.example.prompt], 12)[0]
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
