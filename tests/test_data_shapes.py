"""Tables as people have them: each goes from its task file to token ids, or is refused."""

import json

import pytest
from datasets import concatenate_datasets

from helpers.data.split import SplitError
from helpers.data.task import load_task
from helpers.data.templates import TemplateError
from helpers.data.tokenize import IGNORE, tokenize
from helpers.evaluation.metrics import row_scores
from tests.refusals import refusal
from tests.tiny import tiny_model, tiny_tokenizer

TEXTS = [
    f"{thing} {what}."
    for thing in ("My tea", "This lamp", "Our zip", "A pan", "The rug", "Their kettle")
    for what in ("works well", "broke today", "came early", "smells bad")
]
LABELS = ["pos", "neg"] * 12
CODE = 'for i in range(3):\n    if i < 2:\n        print("a  b")'


def lines(*columns, header="text,label", separator=","):
    """A table with a cell of each column in each line; no cell is quoted."""
    rows = [separator.join(map(str, cells)) for cells in zip(*columns, strict=True)]
    return "\n".join([header, *rows, ""] if header else [*rows, ""])


def json_lines(rows):
    return "\n".join(map(json.dumps, rows))


def asks(prompt="{{ text }}\nLabel:", completion="{{ label }}", **keys):
    """The keys of a task file, but for name and table. (JSON, in which it is written, is YAML.)"""
    return {"templates": [{"name": "a", "prompt": prompt, "completion": completion}], **keys}


TALKS = [
    [("system", "You sort."), ("user", text), ("assistant", label)]
    for text, label in zip(TEXTS, LABELS, strict=True)
]
TALKS[1] = TALKS[1][:2]  # without an answer
MESSAGES = [{"messages": [{"role": r, "content": c} for r, c in talk]} for talk in TALKS]
ALPACA = [{"instruction": text, "input": "", "output": CODE + "\n"} for text in TEXTS]
ALPACA[0]["input"] = "Keep it short."
NONE = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
NONE[0]["text"], NONE[1]["label"], NONE[2]["label"] = None, None, ["pos", "neg"]
NONE[3]["label"] = float("nan")
SUMMARIES = [
    {
        "talk": f"A: {text}",
        "s1": " ".join(text.split()[2:]).capitalize(),
        "s2": text,
        "s3": [text.upper(), ""],
    }
    for text in TEXTS
]
ACCENTS = lines([*TEXTS[:-1], "Café “gut” – 5 €"], LABELS)
RUSSIAN = lines(
    [f"Чай номер {n} хороший, чайник течёт." for n in range(24)],
    [f"Чай номер {n}" for n in range(24)],
    header="text;label",
    separator=";",
)

# name: (file, its content, keys of the task; line of a row, its prompt and its completion;
# number of examples, what the report says)
SHAPES = {
    "alpaca": (
        "t.json",
        json.dumps(ALPACA, indent=1),
        {"templates": "alpaca"},
        ("item 1", "My tea works well.\n\nKeep it short.\n\nAnswer:", f" {CODE}"),
        (24, {"empty_cell": 23}),
    ),
    "alpaca without input": (
        "t.json",
        json.dumps(ALPACA, indent=1),
        {"templates": "alpaca"},
        ("item 2", "My tea broke today.\n\nAnswer:", f" {CODE}"),
        (24, {"empty_cell": 23}),
    ),
    "messages": (
        "t.jsonl",
        json_lines(MESSAGES),
        {"templates": "messages"},
        ("line 3", "System: You sort.\nUser: My tea came early.\nAssistant:", " pos"),
        (23, {}),
    ),
    "code": (
        "t.csv",
        lines(TEXTS, ['"' + CODE.replace('"', '""') + '"'] * 24),
        asks(clean=["text"]),
        ("line 5", "My tea broke today.\nLabel:", f" {CODE}"),
        (24, {}),
    ),
    "cp1252": (
        "t.csv",
        ACCENTS.encode("cp1252"),
        asks(choices=["pos", "neg"]),
        ("line 25", "Café “gut” – 5 €\nLabel:", " neg"),
        (24, {}, "line 25, character 4, has the byte 0xe9"),
    ),
    "UTF-16": (
        "t.csv",
        ACCENTS.encode("utf-16"),
        asks(choices=["pos", "neg"]),
        ("line 25", "Café “gut” – 5 €\nLabel:", " neg"),
        (24, {}, "UTF-16"),
    ),
    "semicolons and a byte order mark": (
        "t.csv",
        lines(
            ["2026-01-11"] * 24, TEXTS, [5, 1] * 12, header="WHEN;MY TEXT;RATE", separator=";"
        ).encode("utf-8-sig"),
        asks(
            "{{ WHEN }}: {{ MY_TEXT }}\nHow many?",
            "{{ choices[RATE - 1] }}",
            choices=["one", "two", "three", "four", "five"],
            numbers={"RATE": [1, 5]},
        ),
        ("line 2", "2026-01-11: My tea works well.\nHow many?", " five"),
        (24, {}, "byte order mark", "semicolons", "MY_TEXT"),
    ),
    "tabs without a header": (
        "t.tsv",
        lines(LABELS, [f'"{text}' for text in TEXTS], header="", separator="\t"),
        asks(columns=["label", "text"]),
        ("line 1", '"My tea works well.\nLabel:', " pos"),
        (24, {}, "quotation marks"),
    ),
    "None, NaN and lists": (
        "t.jsonl",
        json_lines(NONE),
        asks(choices=["pos", "neg"]),
        ("line 5", "This lamp works well.\nLabel:", " pos"),
        (20, {"missing_value": 1, "not_text": 1, "empty_cell": 2}),
    ),
    "three references": (
        "t.jsonl",
        json_lines(SUMMARIES),
        asks("{{ talk }}\nIn short:", "{{ s1 }}", references=["s2", "s3"]),
        ("line 1", "A: My tea works well.\nIn short:", " Works well."),
        (24, {}),
    ),
    "labels from -1": (
        "t.csv",
        lines(TEXTS, [-1, 0, 1] * 8),
        asks(choices=["-1", "0", "1"]),
        ("line 2", "My tea works well.\nLabel:", " -1"),
        (24, {}),
    ),
    "True and False": (
        "t.csv",
        lines(TEXTS, [True, False] * 12),
        asks(choices=["True", "False"], stratify=["label"]),
        ("line 3", "My tea broke today.\nLabel:", " False"),
        (24, {}),
    ),
    "the index of pandas": (
        "t.csv",
        lines(range(26), [*TEXTS, *TEXTS[:2]], [*LABELS, *LABELS[:2]], header=",text,label"),
        asks(choices=["pos", "neg"]),
        ("line 2", "My tea works well.\nLabel:", " pos"),
        (24, {"exact_duplicate": 2}, "pandas' row numbers"),
    ),
    "Russian": (
        "t.csv",
        RUSSIAN,
        asks("{{ text }}\nЗаголовок:"),
        ("line 2", "Чай номер 0 хороший, чайник течёт.\nЗаголовок:", " Чай номер 0"),
        (24, {"near_duplicate": 23}, "semicolons"),
    ),
    "stars from zero": (
        "t.csv",
        lines(TEXTS, [4, 0] * 12, header="text,stars"),
        asks(
            completion="{{ choices[stars] }}",
            choices=["zero", "one", "two", "three", "four"],
            numbers={"stars": [0, 4]},
        ),
        ("line 3", "My tea broke today.\nLabel:", " zero"),
        (24, {}),
    ),
    "a class of one row": (
        "t.csv",
        lines(TEXTS, [*LABELS[:23], "rare"]),
        asks(choices=["pos", "neg", "rare"]),
        ("line 25", "Their kettle smells bad.\nLabel:", " rare"),
        (24, {}),
    ),
    "one text in several groups": (
        "t.csv",
        lines(TEXTS[:12] * 2, range(24), LABELS[:12] + LABELS[1:13], header="text,product,label"),
        asks(choices=["pos", "neg"], group="product"),
        ("line 14", "My tea works well.\nLabel:", " neg"),
        (24, {"two_answers": 12, "near_duplicate": 12}),
    ),
}


def make_task(folder, file, content, keys):
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    path = folder / "mine.yaml"
    path.write_text(json.dumps({"name": "mine", "table": file, **keys}), encoding="utf-8")
    return load_task(path)


@pytest.mark.parametrize("name", SHAPES)
def test_a_table_goes_from_its_task_file_to_token_ids(name, tmp_path):
    file, content, keys, (place, prompt, completion), (number, counts, *notes) = SHAPES[name]
    task = make_task(tmp_path, file, content, keys)
    splits = task.split(task.load_table())
    examples = task.render(task.drop_empty(concatenate_datasets([*splits.values()])))
    ids = tokenize(examples, tiny_tokenizer(), tiny_model(window=1024).config)
    assert len(ids) == number
    at = examples["row_id"][:].index(f"{file} {place}")
    assert (examples[at]["prompt"], examples[at]["completion"]) == (prompt, completion)
    labelled = [label for label in ids[at]["labels"] if label != IGNORE]
    decode = tiny_tokenizer().decode
    assert decode(ids[at]["input_ids"]) == f"{prompt}{completion}<|end|>"
    assert decode(labelled) == f"{completion}<|end|>"
    report = task.report()
    assert report.counts() == counts and len(report.notes) == len(notes)
    assert all(word in note for word, note in zip(notes, report.notes, strict=True))


def test_the_best_of_three_references_counts(tmp_path):
    task = make_task(tmp_path, *SHAPES["three references"][:3])
    (row,) = task.render(task.load_table().select([0]))
    for answer in ("Works well.", "My tea works well.", "MY TEA WORKS WELL."):
        assert row_scores(task, [answer], [row]) == [1]
    assert row_scores(task, ["My tea broke."], [row]) == [4 / 7]


# name: (name of a shape, how its task is changed, the error, what it says)
REFUSED = {
    "stars counted from one": (
        "stars from zero",
        asks(completion="{{ choices[stars - 1] }}"),
        TemplateError,
        "row t.csv line 3, its completion fails: it computes -1 as a position in a list",
    ),
    "labels as YAML has them": (
        "True and False",
        {"choices": ["true", "false"]},
        TemplateError,
        "row t.csv line 2, gives the completion 'True', which is none of its choices: true, false",
    ),
    "a class of one row in each part": (
        "a class of one row",
        {"stratify": ["label"]},
        SplitError,
        "label = 'rare' has 1 row, too few to be in each of train, validation, test",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_task_that_does_not_fit_its_table_is_refused(name, tmp_path):
    shape, changed, error, words = REFUSED[name]
    file, content, keys, *_ = SHAPES[shape]
    task = make_task(tmp_path, file, content, keys | changed)
    refusal(error, lambda: task.split(task.render(task.load_table())), words)
