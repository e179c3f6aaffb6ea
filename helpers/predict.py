"""Let a tuned model answer the rows of a new table, from the command line.

    python -m helpers.predict --model runs/laptop/my_task/tuned --table new.csv

The model's folder holds the task file that it was tuned with (helpers.train and notebook 07 put it
there), and answers.json, which helpers.train adds, says how long a free answer may become. The
result is the table with two more columns, predicted and probability. Exit status: 0, or 2 with a
sentence that says what to do.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.data import load_task
from helpers.data.formats import read_raw, refused
from helpers.data.table import clean_column, is_empty, whole_number
from helpers.errors import CourseError, format_names
from helpers.files import write_whole
from helpers.inference import generate_answers, score_choices
from helpers.inference.score import pick_own_choices, score_rows
from helpers.model import load_model

# Of a free answer, where the model's folder does not say how long the right ones are.
FORM = {"max_new_tokens": 64}


def answer_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[dict],
    form: dict[str, int] = FORM,
) -> tuple[list[str], list[float]]:
    """The answer to each prompt, and its probability, from 0 to 1.

    questions: as Template.question makes them: all with choices of their own, or none. Among
    choices the probability is a softmax over these alone; of a free text it is that of the whole
    text, so that longer ones have less. form: of generate.answer_form.
    """
    prompts = [one["prompt"] for one in questions]
    if "choices" in questions[0]:
        choices = [one["choices"] for one in questions]
        scores = score_rows(model, tokenizer, prompts, choices)
        sure = scores.softmax(-1).max(-1).values.tolist()
        return pick_own_choices(scores, choices), sure
    answers = generate_answers(model, tokenizer, prompts, **form)
    sure = [
        score_choices(model, tokenizer, [prompt], [text]).exp().item() if text else 1.0
        for prompt, text in zip(prompts, answers, strict=True)
    ]
    return answers, sure


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
    clean = raw.frame.copy()  # as for training; the new table keeps its cells
    for name in {*task.clean} & {*clean}:
        list(clean_column(clean, name))
    for name in {*task.numbers} & {*clean}:
        numbers = [(whole_number(cell), cell) for cell in clean[name]]
        whole = [cell if number is None else number for number, cell in numbers]
        clean[name] = pd.Series(whole, index=clean.index, dtype=object)
    rows = {i: {**row, "row_id": f"{raw.unit} {i}"} for i, row in clean.iterrows()}
    # A column that is missing is no empty one: the template will say so.
    asked = {
        i: row
        for i, row in rows.items()
        if not all(is_empty(row.get(name, name)) for name in fields)
    }
    if not asked:
        raise refused(table, f"has nothing in {format_names(fields)}, which the prompt shows.")
    questions = [task.wording.question(row, task.choices) for row in asked.values()]
    try:
        noted = json.loads(file.with_name("answers.json").read_text(encoding="utf-8"))
        form = {name: noted[name] for name in ("max_new_tokens", "first_line")}
    except FileNotFoundError:
        form = FORM
    except (ValueError, KeyError, TypeError) as error:
        raise CourseError(
            f"{model}/answers.json is damaged. Delete it: free answers then end after "
            f"{FORM['max_new_tokens']} tokens."
        ) from error
    answers, sure = answer_all(*load_model(model), questions, form)
    # A row that was not asked is missing here, and gets empty cells.
    new = {
        "predicted": pd.Series(answers, index=list(asked)),
        "probability": pd.Series([float(f"{one:.3g}") for one in sure], index=list(asked)),
    }
    target = Path(output) if output else Path(table).with_name(f"{Path(table).stem}_answered.csv")
    try:
        write_whole(target, raw.frame.assign(**new).to_csv(index=False))
    except CourseError as error:
        raise CourseError(f"{error} Or name another file with --output.") from error
    print(f"{len(asked)} rows answered.", *raw.notes, sep="\n")
    if blank := len(rows) - len(asked):
        print(f"{blank} rows have nothing that the prompt shows: they got no answer.")
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m helpers.predict", description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a tuned model")
    parser.add_argument("--table", required=True, help="CSV, TSV, .xlsx, JSON, JSONL or Parquet")
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
