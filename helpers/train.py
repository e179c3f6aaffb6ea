"""Fine-tune a model on a task, from the command line, as the notebooks do it.

    python -m helpers.train --task my_task.yaml --epochs 2

With several processes: torchrun --nproc-per-node 2 -m helpers.train --task my_task.yaml

Every field of TrainSettings is an option. The result is a folder: the model, its card, its history,
the scoreboard as JSON and as a page, and how long answers may become. What was in that folder is
kept as NAME.older. Exit status: 0, or 2 with a sentence that says what to do.
"""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from datasets import Dataset
from transformers import HfArgumentParser, PreTrainedModel, PreTrainedTokenizerBase
from transformers.hf_argparser import HfArg

from helpers.data import (
    load_examples,
    load_task,
    lock_test_set,
    scored_rows,
    test_examples,
    tokenize,
    too_little,
)
from helpers.data.task import Task
from helpers.errors import CourseError
from helpers.evaluation import (
    Scoreboard,
    best_prompt,
    boards_json,
    boards_page,
    interval_ahead,
    predict_with,
    rival_answers,
    scoreboard,
)
from helpers.evaluation.scoreboard import TUNED
from helpers.files import set_aside, write_whole
from helpers.inference import answer_form, answer_length, predict_answers
from helpers.machine import peak_memory
from helpers.model import (
    card_metadata,
    load_model,
    model_card,
    provenance,
    provenance_files,
    save_model,
)
from helpers.profiles import ROOT, repeat_dropped_interrupts, runs_folder
from helpers.training import History, TrainSettings, load_finished, predicted_cost, train_task
from helpers.training.processes import join_processes, process_index

INTERRUPTED = 130  # what a shell says of a program that Ctrl-C ended


@dataclass
class RunArguments:
    """What to train on what."""

    task: str | None = HfArg(default=None, help="name or path of a task (default: COURSE_TASK)")
    model: str | None = HfArg(default=None, help="folder or hub id (default: the profile's model)")
    rows: int | None = HfArg(default=None, help="most training rows (default: the profile's)")
    output: str | None = HfArg(default=None, help="folder for the result (default: tuned, in runs)")
    test: bool = HfArg(default=False, help="also open the locked test set, which is counted")

    def __post_init__(self) -> None:
        if self.rows is not None and self.rows < 1:
            raise CourseError(f"--rows is {self.rows}; it must be a whole number from 1.")


def untuned_answers(
    task: Task,
    training: Dataset,
    rows: Dataset,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, list[str]]:
    """What everything simpler answers: the rivals, and the model before tuning, asked zero-shot and
    with the best prompt. The best prompt is looked for on validation rows."""
    answers = rival_answers(task, training, rows)
    most = answer_length(training, tokenizer)  # the same for all, and not from the scored rows
    answers["zero-shot"] = predict_answers(model, tokenizer, rows, most)
    best = best_prompt(model, tokenizer, task, training)
    answers["best prompt"] = predict_with(best, model, tokenizer, task, training, rows)
    return answers


def fine_tune(run: RunArguments, settings: TrainSettings) -> None:
    """The whole road for a task. The folder with the result appears when all of it is there but
    the test scores, and what was there before is kept. A run that was interrupted goes on from its
    checkpoint. The test set is opened last, when nothing else can be refused any more.

    Raises CourseError where something is wrong with table, task, settings, model or disk;
    KeyboardInterrupt when the training was interrupted.
    """
    first = process_index() == 0  # of several, it alone answers, scores and writes
    task = load_task(run.task)
    examples = load_examples(task, run.rows)
    training, validation = examples["train"], examples["validation"]
    folder = Path(run.output) if run.output else runs_folder(task.name) / "tuned"
    kept = [Path.cwd(), runs_folder(task.name), task.path, Path(task.source), ROOT / "data"]
    if any(one.resolve().is_relative_to(folder.resolve()) for one in kept):
        raise CourseError(
            f"--output {folder} has other things in it: the folder in which you are, your results, "
            "the task or its table. Name a new one."
        )
    print(task.report())
    rows = scored_rows(task, validation)
    for sentence in [*too_little(task, training), interval_ahead(len(rows))]:
        print(sentence)
    if run.test and first:  # other rows than those locked before are refused here
        test = task.split(task.load_table())["test"]
        lock_test_set(test, runs_folder(task.name) / "test.sealed.json")
    model, tokenizer = load_model(run.model)
    sets = tokenize(examples, tokenizer, model.config)
    lengths = [[len(row["input_ids"]) for row in sets[part]] for part in ("train", "validation")]
    print(f"{len(training)} training rows. Training will take", end=" ")
    print(f"{predicted_cost(model, *lengths, settings, bool(task.choices))}.", flush=True)
    if first:
        answers = untuned_answers(task, training, rows, model, tokenizer)
        # What cannot be scored is refused now and not after training.
        scoreboard(task, "validation", rows, {**answers, TUNED: [None] * len(rows)})
    run_folder = runs_folder(task.name) / "command_line"
    history = load_finished(model, sets["train"], sets["validation"], settings, run_folder)
    if history:
        print("This run was finished before: it is loaded from disk, and nothing is trained.")
    else:
        history = train_task(model, tokenizer, validation, sets, settings, run_folder, _say)
    if history.stopped == "interrupted":
        raise KeyboardInterrupt
    if not first:
        return
    most = answer_length(training, tokenizer)
    answers[TUNED] = predict_answers(model, tokenizer, rows, most)
    boards = [scoreboard(task, "validation", rows, answers)]
    about = task, run, settings, training, history, boards, model.config.is_encoder_decoder
    extras = _extras(*about) | task.files | provenance_files(run.model)
    extras["answers.json"] = json.dumps(answer_form(training, tokenizer))
    older = None
    with suppress(OSError):  # nothing was there; or save_model will say what is wrong
        older = set_aside(folder.absolute(), "older")
    try:
        save_model(model, tokenizer, folder, extras)
    except BaseException:
        if older:
            os.replace(older, folder)
        raise
    if older:
        print(f"What was in {folder} is now in {older.name}, beside it. Delete it if you like.")
    print(f"Model, card, history and scoreboard are in {folder}.", flush=True)
    if run.test:
        rows = scored_rows(task, test_examples(task))
        tuned = predict_answers(model, tokenizer, rows, most)
        model = None  # it is on disk; the starting model takes its place in memory
        answers = untuned_answers(task, training, rows, *load_model(run.model))
        boards.append(scoreboard(task, "test", rows, {**answers, TUNED: tuned}))
        for name, text in _extras(*about).items():
            write_whole(folder / name, text)
    for board in boards:
        print()
        for cells in (board.header, *(line.cells for line in board.lines)):
            print("  ".join(cell.ljust(22) for cell in cells).rstrip())
        print(board.conclusion())
    used = sum(one.seconds for one in [*history.steps, *history.evaluations])
    print(f"\nTraining took {used / 60:.1f} minutes; the process, {peak_memory() / 1e9:.1f} GB.")


def _say(history: History) -> None:
    """One line for each evaluation."""
    if history.evaluations and history.evaluations[-1].step == len(history.steps):
        last = history.evaluations[-1]
        right = "" if last.accuracy is None else f", accuracy {last.accuracy:.2f}"
        left = f", about {history.seconds_left / 60:.1f} minutes left" if history.steps else ""
        print(f"step {last.step} of {history.total_steps}: ", end="")
        print(f"validation loss {last.loss:.3f}{right}{left}", flush=True)


def _extras(
    task: Task,
    run: RunArguments,
    settings: TrainSettings,
    training: Dataset,
    history: History,
    boards: Sequence[Scoreboard],
    encoder_decoder: bool,
) -> dict[str, str]:
    """What stands beside the weights: file → text."""
    facts = {
        "Data": {"table": task.source, "rows trained on": len(training)},
        "Settings": asdict(settings),
        "Run": {
            "weights kept": f"those of step {history.best.step} of {history.total_steps}",
            "validation loss": f"{history.best.loss:.3f} nats per labelled token",
        },
    }
    tuned = {}
    for board in boards:
        heading = f"{board.metric} on {board.rows} {board.part} rows (95 % intervals)"
        facts[heading] = {
            line.candidate: "{:.3f} ({:.3f} to {:.3f})".format(*line.score) for line in board.lines
        }
        tuned[f"{board.rows} {board.part} rows"] = board.metric, board.tuned
    limits = [
        "Trained on one task with one template, on the rows of one table. Expect lower scores on "
        "texts of another kind.",
        "How much it forgot of other tasks was not measured.",
    ]
    title = f"A model tuned on the task {task.name}"
    metadata = card_metadata(task, title, tuned)
    asked = training[0]["prompt"], limits, metadata, encoder_decoder
    card = model_card(title, provenance(run.model), facts, *asked)
    return {
        "README.md": card,
        "history.json": history.to_json(),
        "scoreboard.json": boards_json(boards),
        "scoreboard.html": boards_page(title, boards),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = HfArgumentParser(
        (RunArguments, TrainSettings), prog="python -m helpers.train", description=__doc__
    )
    repeat_dropped_interrupts()
    try:
        join_processes()
        # The parser knows no default that depends on the machine for what is True or False.
        parser.set_defaults(low_memory=TrainSettings().low_memory)
        run, settings, unknown = parser.parse_args_into_dataclasses(
            arguments, return_remaining_strings=True
        )
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        with nullcontext() if process_index() == 0 else redirect_stdout(None):
            fine_tune(run, settings)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. The same command continues from the last checkpoint.", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
