"""The scoreboard of a run: all candidates on the same rows, with intervals and paired verdicts."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pandas
from datasets import Dataset

from helpers.data.task import Task
from helpers.evaluation.metrics import main_metric, row_scores
from helpers.evaluation.uncertainty import groups_of, mean_interval, paired_change, verdict_of

TUNED = "tuned"
_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>TITLE</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto }
th, td { text-align: left; padding: .3rem .8rem } tr { border-bottom: 1px solid #ccc }
</style>
<h1>TITLE</h1>
<p>In brackets: 95 % intervals.</p>"""


@dataclass(frozen=True)
class Line:
    """One candidate. score: (mean, low, high) of row_scores, with its 95 % interval. change: the
    same of tuned minus this candidate, row by row; None for the tuned model. verdict: what that
    says of the tuned model (see verdict_of)."""

    candidate: str
    score: tuple[float, float, float]
    change: tuple[float, float, float] | None = None
    verdict: str = ""

    @property
    def cells(self) -> list[str]:
        """What a table shows of it."""
        change = "{:+.3f} ({:+.3f} to {:+.3f})".format(*self.change) if self.change else ""
        score = "{:.2f} ({:.2f} to {:.2f})".format(*self.score)
        return [self.candidate, score, change, self.verdict]


@dataclass(frozen=True)
class Scoreboard:
    """The lines for some rows. part: "validation" or "test"; rows: how many of it were scored."""

    part: str
    metric: str
    rows: int
    lines: tuple[Line, ...]

    @property
    def tuned(self) -> tuple[float, float, float]:
        """The tuned model's score, with its interval."""
        return next(line.score for line in self.lines if line.candidate == TUNED)

    @property
    def header(self) -> list[str]:
        """The names of a line's cells."""
        what = f"{self.metric}, {self.rows} {self.part} rows"
        return [what, "score", "tuned minus this one", "tuned is"]

    def conclusion(self) -> str:
        """What follows: is the model clearly better than all that is simpler, or not?"""
        verdicts = {line.candidate: line.verdict for line in self.lines if line.change}
        worse = [name for name, verdict in verdicts.items() if verdict == "clearly worse"]
        rest = [name for name, verdict in verdicts.items() if verdict != "clearly better"]
        if not rest:
            return "The tuned model is clearly better than everything simpler on this board."
        if worse:
            return (
                f"The tuned model is clearly worse than {' and '.join(worse)}: what is simpler is "
                "the better choice here."
            )
        said = f"The tuned model is not clearly better than {' and '.join(rest)}"
        if {*rest} <= {"nearest neighbour", "TF-IDF + regression"}:
            return (
                f"{said}, which learned from the same rows in seconds: a simple model may be "
                "enough here."
            )
        return (
            f"{said}: tuning has not been shown to be worth it. More rows, for training or for "
            "scoring, may show more."
        )


def scoreboard(
    task: Task, part: str, examples: Dataset, answers: Mapping[str, Sequence[str | None]]
) -> Scoreboard:
    """Score what each candidate answered to the same rows, as notebook 06 does it.

    examples: rows of task.render. answers: candidate → its answers; "tuned" must be among them.
    Raises ScoringError as row_scores does.
    """
    groups = groups_of(task, examples)
    scores = {name: row_scores(task, said, examples) for name, said in answers.items()}
    lines = []
    for name, values in scores.items():
        change = None if name == TUNED else paired_change(values, scores[TUNED], groups)
        verdict = verdict_of(change) if change else ""
        lines.append(Line(name, mean_interval(values, groups), change, verdict))
    return Scoreboard(part, main_metric(task), len(examples), tuple(lines))


def boards_json(boards: Sequence[Scoreboard]) -> str:
    """The boards as JSON text."""
    return json.dumps([asdict(board) for board in boards], indent=1) + "\n"


def boards_page(title: str, boards: Sequence[Scoreboard]) -> str:
    """The boards as a page of HTML that needs nothing else."""
    title, parts = html.escape(title), []
    for board in boards:
        table = pandas.DataFrame([line.cells for line in board.lines], columns=board.header)
        parts.append(table.to_html(index=False, border=0, justify="left"))
        parts.append(f"<p>{html.escape(board.conclusion())}</p>")
    return "\n".join([_HEAD.replace("TITLE", title), *parts, "</html>\n"])
