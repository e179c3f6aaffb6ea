"""Let a tuned model answer the rows of a new table, from the command line.

    python -m helpers.predict --model runs/laptop/my_task/tuned --table new.csv

The model's folder holds the task file that it was tuned with (helpers.train and notebook 07 put it
there). The result is the table with two more columns, predicted and probability. Exit status: 0, or
2 with a sentence that says what to do.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.data import load_task
from helpers.data.formats import read_raw, refused
from helpers.data.table import is_empty
from helpers.errors import CourseError, format_names
from helpers.files import write_whole
from helpers.inference import generate_answers, pick_choices, score_choices
from helpers.model import load_model

# Most tokens of a free answer: the right ones are not known, so this is a bound for all tasks.
MOST_TOKENS = 64


def answer_all(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[dict]
) -> list[tuple[str, float]]:
    """The answer to each prompt with its probability, from 0 to 1.

    questions: as Template.question makes them, each with its own choices or none. Among choices
    the probability is a softmax over these alone; of a free text it is that of the whole text, so
    that longer ones have less.
    """
    alike: dict[tuple[str, ...], list[int]] = {}
    for i, one in enumerate(questions):
        alike.setdefault(tuple(one.get("choices", ())), []).append(i)
    said: dict[int, tuple[str, float]] = {}
    for choices, rows in alike.items():
        prompts = [questions[i]["prompt"] for i in rows]
        if choices:
            scores = score_choices(model, tokenizer, prompts, choices)
            answers = pick_choices(scores, choices)
            sure = scores.softmax(-1).max(-1).values.tolist()
        else:
            answers = generate_answers(model, tokenizer, prompts, MOST_TOKENS)
            sure = [
                score_choices(model, tokenizer, [prompt], [text]).exp().item() if text else 1.0
                for prompt, text in zip(prompts, answers, strict=True)
            ]
        said |= dict(zip(rows, zip(answers, sure, strict=True), strict=True))
    return [said[i] for i in range(len(questions))]


def predict_table(model: str, table: str, output: str | None = None) -> Path:
    """Answer the rows of a table and write it, with answers, as CSV; returns the new file.

    model: a folder with a task.yaml. output: by default, the table's name with "_answered.csv".
    Raises CourseError: no such folder or table, a column that the prompt needs is missing, a row
    that the template refuses, a file that cannot be written. Then nothing is written. A row in
    which nothing stands that the prompt shows gets no answer.
    """
    file = Path(model) / "task.yaml"
    if not file.exists():
        raise CourseError(
            f"{model} has no task.yaml, which says how the model was asked when it was tuned. Name "
            "a folder that helpers.train or notebook 07 made, or put the task file there."
        )
    task, raw = load_task(file.resolve()), read_raw(table)
    if taken := sorted({"predicted", "probability"} & {*raw.frame}):
        raise refused(table, f"has a column {taken[0]} already. Rename it, or delete it.")
    fields = sorted(task.wording.prompt_fields)
    rows = {i: {**row, "row_id": f"{raw.unit} {i}"} for i, row in raw.frame.iterrows()}
    # A column that is missing is no empty one: the template will say so.
    blank = [i for i, row in rows.items() if all(is_empty(row.get(name, name)) for name in fields)]
    asked = {i: row for i, row in rows.items() if i not in blank}
    if not asked:
        raise refused(table, f"has nothing in {format_names(fields)}, which the prompt shows.")
    questions = [task.wording.question(row, task.choices) for row in asked.values()]
    said = dict(zip(asked, answer_all(*load_model(model), questions), strict=True))
    new = {
        "predicted": [said[i][0] if i in said else "" for i in rows],
        "probability": [float(f"{said[i][1]:.3g}") if i in said else None for i in rows],
    }
    target = Path(output) if output else Path(table).with_name(f"{Path(table).stem}_answered.csv")
    try:
        write_whole(target, raw.frame.assign(**new).to_csv(index=False))
    except OSError as error:
        raise CourseError(
            f"The answers could not be written to {target}: {error}. Name another file with "
            "--output."
        ) from error
    print(f"{len(said)} rows answered.", *raw.notes, sep="\n")
    if blank:
        print(f"{len(blank)} rows have nothing that the prompt shows: they got no answer.")
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m helpers.predict", description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a tuned model")
    parser.add_argument("--table", required=True, help="CSV, TSV, JSON, JSON Lines or Parquet")
    parser.add_argument("--output", help="CSV file to write (default: TABLE_answered.csv)")
    try:
        target = predict_table(**vars(parser.parse_args(arguments)))
    except CourseError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"The table with answers is {target}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
