"""Which prompt gets most out of a model that nobody has tuned? Tried on validation rows."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from statistics import fmean
from typing import Any

from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.data.task import Task, load_examples, scored_rows
from helpers.data.tokenize import beyond_window, completion_ids, prompt_ids
from helpers.errors import CourseError
from helpers.evaluation.metrics import main_metric, right_answers, row_scores
from helpers.inference.few_shot import draw_shots, few_shot_prompt
from helpers.inference.generate import answer_length
from helpers.inference.score import pick_choices, predict_answers, score_choices
from helpers.profiles import profile
from helpers.results import cached, load_result


def label_bias(scores: Tensor) -> Tensor:
    """How much a model likes each choice whatever the prompt: its mean score over the prompts.

    scores: log-probabilities of shape (prompts, choices). Returns shape (choices,).
    """
    return scores.mean(0)


def calibrate(scores: Tensor) -> Tensor:
    """The scores (prompts, choices) without the label bias. No right answer is needed for that.

    That a row is in its own mean changes no answer, since leaving it out would only multiply all
    differences by n / (n - 1).
    Source: the idea is Zhao et al., "Calibrate Before Use", 2021.
    """
    return scores - label_bias(scores)


@dataclass(frozen=True)
class PromptChoice:
    """One way to put a task to a model, and how it did on validation rows.

    template: name of the wording. chat: whether the whole prompt is a message in the chat template.
    shots, seed: how many shots, and which draw of them. offsets: for each choice, what is taken off
    its log-probability before the largest is picked; empty when it is not calibrated.
    scores: metrics.row_scores on the validation rows. rows: tells these rows and the tokenizer
    apart from others.
    """

    template: str
    chat: bool = False
    shots: int = 0
    seed: int = 0
    offsets: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    rows: str = ""

    @property
    def score(self) -> float:
        """Mean over the validation rows: constrained accuracy, or ROUGE-1 (metrics.main_metric)."""
        return fmean(self.scores)

    @property
    def calibrated(self) -> bool:
        """Whether anything is taken off the log-probabilities."""
        return any(self.offsets)

    def __str__(self) -> str:
        chat = ", as chat" if self.chat else ""
        shots = f"{self.shots} shot{'' if self.shots == 1 else 's'}"
        draw = f" (draw {self.seed})" if self.shots else ""
        return f"{self.template}{chat}, {shots}{draw}{', calibrated' if self.calibrated else ''}"


def build_prompts(
    choice: PromptChoice,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    train_examples: Dataset,
    examples: Dataset,
) -> Dataset:
    """The examples in the wording of the choice, with its shots, drawn from the training examples.

    The chat template is not in these prompts: predict_with adds it.
    A shot with the prompt of a row is not shown to that row; a row that is too long for all of them
    has the last ones, as many as the model's window has room for. Raises CourseError when a row is
    among its own shots, or there are too few to draw.
    """
    train, rows = (task.render(part, choice.template) for part in (train_examples, examples))
    choices = {one for row in rows for one in row.get("choices", ())}
    lengths = [len(completion_ids(f" {one}", tokenizer)) for one in choices]
    room = max([answer_length(train, tokenizer), *lengths])

    def fits(prompt: str) -> bool:
        tokens = len(prompt_ids(prompt, tokenizer, model.config, chat=choice.chat))
        return not beyond_window(tokens, room, model.config)

    return Dataset.from_list(_with_shots(choice, train, rows, fits))


def _with_shots(
    choice: PromptChoice,
    train: Iterable[dict],
    examples: Iterable[dict],
    fits: Callable[[str], bool] = lambda prompt: True,
) -> list[dict[str, Any]]:
    shots, asked = draw_shots(train, choice.shots, choice.seed), []
    for example in examples:
        # A shot with the text of the question would tell its answer: that row goes without it.
        own = [one for one in shots if not _repeats(one, example)]
        while own and not fits(few_shot_prompt(own, example)["prompt"]):
            del own[0]
        asked.append(few_shot_prompt(own, example))
    return asked


def _repeats(shot: dict, example: dict) -> bool:
    return shot["prompt"] == example["prompt"] and shot["row_id"] != example["row_id"]


def predict_with(
    choice: PromptChoice,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    train_examples: Dataset,
    examples: Dataset,
) -> list[str]:
    """The answer to each example, asked and calibrated as chosen (see build_prompts).

    A free answer may have as many tokens as the longest training answer.
    """
    prompts = build_prompts(choice, model, tokenizer, task, train_examples, examples)
    most = answer_length(train_examples, tokenizer)
    return predict_answers(model, tokenizer, prompts, most, choice.offsets or None, choice.chat)


def search_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    train_examples: Dataset | None = None,
) -> list[PromptChoice]:
    """All the ways to ask that the course tries, scored on validation rows; kept on disk.

    First every wording without shots, as it is and, where the tokenizer has a chat template, as a
    message; then the two best of these with shots, in every number and draw of the profile. Where
    all rows have the same choices, each counts twice, as it is and calibrated. Texts take long to
    write, so they are scored on no more rows than the profile's eval_rows.

    To be fair, wordings that show or ask for other columns than the tuned one are left out. So is,
    with a line that says why, what has other words as answers, cannot be made of all the rows, or
    does not fit into the window.

    train_examples: from which shots are drawn; by default all training rows of the profile.
    """
    examples = load_examples(task)
    train, validation = train_examples or examples["train"], examples["validation"]
    validation = scored_rows(task, validation)
    rendered, scored = _render_all(task, train, validation), _rows_key(task, validation, tokenizer)

    def try_all() -> list[dict]:
        most = answer_length(train, tokenizer)
        attempt = partial(_scored, model, tokenizer, task, rendered, most)
        trials: list[PromptChoice] = []
        for name in rendered:
            for chat in (False, True) if tokenizer.chat_template else (False,):
                trials += attempt(PromptChoice(name, chat))
        if not trials:
            raise CourseError(
                f"No prompt of the task {task.name!r} could be tried: the lines above say why."
            )
        ranked = sorted(trials, key=lambda trial: -trial.score)
        for name, chat in list(dict.fromkeys((one.template, one.chat) for one in ranked))[:2]:
            for shots in profile().shots:
                for seed in range(profile().draws):
                    trials += attempt(PromptChoice(name, chat, shots, seed))
        return [asdict(trial) | {"rows": scored} for trial in trials]

    key = {
        "scored": scored,
        "rows": {
            name: [[(r["row_id"], r["prompt"], r["completion"]) for r in rows] for rows in parts]
            for name, parts in rendered.items()
        },
        "sizes": [profile().shots, profile().draws],
        "model": [model.name_or_path, _fingerprint(model), tokenizer.chat_template],
        "fields": [field.name for field in fields(PromptChoice)],
    }
    return _choices(cached(f"{task.name}/prompts", key, try_all))


def kept_prompts(
    task: Task, validation: Dataset, tokenizer: PreTrainedTokenizerBase
) -> list[PromptChoice]:
    """What search_prompts has kept for this task: nothing where it scored other validation rows, or
    asked a model with another tokenizer."""
    kept = load_result(f"{task.name}/prompts")
    rows = _rows_key(task, scored_rows(task, validation), tokenizer)
    return [choice for choice in _choices(kept or []) if choice.rows == rows]


def _choices(kept: list[dict]) -> list[PromptChoice]:
    # JSON has lists in place of tuples.
    return [
        PromptChoice(**{k: tuple(v) if isinstance(v, list) else v for k, v in trial.items()})
        for trial in kept
    ]


def _rows_key(task: Task, rows: Iterable[dict], tokenizer: PreTrainedTokenizerBase) -> str:
    known = [(row["row_id"], right_answers(task, row), row.get("choices")) for row in rows]
    return hashlib.sha256(repr([str(tokenizer.name_or_path), known]).encode()).hexdigest()[:16]


def best_prompt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    train_examples: Dataset | None = None,
) -> PromptChoice:
    """The best of search_prompts: of equals the first tried one, which has fewer shots."""
    tried = search_prompts(model, tokenizer, task, train_examples)
    return max(tried, key=lambda trial: trial.score)


def _render_all(task: Task, *parts: Dataset) -> dict[str, list[list[dict]]]:
    """Template → each of the parts in that wording; of the wordings that can be compared."""
    own, rendered = task.wording, {}
    shown = own.prompt_fields, own.completion_fields
    wanted = [_answers(task.render(part, own)) for part in parts]
    for name, template in task.templates.items():
        if (template.prompt_fields, template.completion_fields) != shown:
            continue
        try:
            asked = [list(task.render(part, template)) for part in parts]
        except CourseError as error:
            print(f"{name}: left out. {error}")
            continue
        if [_answers(part) for part in asked] == wanted:
            rendered[name] = asked
        else:
            print(f"{name}: left out. Its answers are other words than those of {own.name}.")
    return rendered


def _answers(rows: Iterable[dict]) -> list[tuple[str, list[str] | None]]:
    return [(row["answer"], row.get("choices")) for row in rows]


def _scored(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    rendered: dict[str, list[list[dict]]],
    most: int,
    choice: PromptChoice,
) -> list[PromptChoice]:
    """The choice with its scores, and again calibrated where that can be done; nothing where it
    cannot be tried."""
    try:
        rows = _with_shots(choice, *rendered[choice.template])
        choices = rows[0].get("choices")
        if choices and all(row["choices"] == choices for row in rows):
            prompts = [row["prompt"] for row in rows]
            scores = score_choices(model, tokenizer, prompts, choices, choice.chat)
            answers = {(): pick_choices(scores, choices)}
            answers[tuple(label_bias(scores).tolist())] = pick_choices(calibrate(scores), choices)
        else:
            answers = {(): predict_answers(model, tokenizer, rows, most, chat=choice.chat)}
    except CourseError as error:
        print(f"{choice}: left out. {error}")
        return []
    trials = [
        replace(choice, offsets=offsets, scores=tuple(row_scores(task, of_way, rows)))
        for offsets, of_way in answers.items()
    ]
    found = ", calibrated: ".join(f"{trial.score:.2f}" for trial in trials)
    print(f"{choice}: {main_metric(task)} {found}", flush=True)
    return trials


def _fingerprint(model: PreTrainedModel) -> str:
    """A short hash of some of the weights: training moves all, and leaves the model's name."""
    some = (p.detach().flatten()[:8].float().cpu().numpy().tobytes() for p in model.parameters())
    return hashlib.sha256(b"".join(some)).hexdigest()[:16]
