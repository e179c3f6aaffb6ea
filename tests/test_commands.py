"""The command lines: train on a task file, and let the result answer a new table."""

import csv
import json

import pytest
import torch
from filelock import FileLock

from helpers import machine, predict, train
from helpers.data import load_examples, load_task, write_task
from helpers.data.formats import read_raw
from helpers.data.tokenize import completion_ids
from helpers.errors import CourseError
from helpers.evaluation import interval_ahead
from helpers.inference import generate_answers, score_choices
from helpers.inference.generate import answer_form
from helpers.model import load_model, provenance
from helpers.profiles import ROOT, profile, runs_folder
from helpers.results import load_result
from helpers.training import load_or_train
from tests.made_up import same_bits, weights
from tests.test_inference_generate import scripted
from tests.tiny import tiny_model, tiny_tokenizer

DATA = ROOT / "data"


@pytest.fixture(autouse=True)
def smoke(tmp_path, monkeypatch):
    """The smallest sizes, and a folder for results of their own."""
    monkeypatch.setenv("COURSE_PROFILE", "smoke")
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "runs"))
    return tmp_path


def task_file(folder, name="mine", **changed):
    given = {"prompt": ["review_body"], "answer": "department", "instruction": "Which one?"}
    return write_task(folder / f"{name}.yaml", DATA / "reviews.csv", **given | changed).path


def run(program, *arguments) -> int:
    try:
        return program.main([str(argument) for argument in arguments])
    except SystemExit as error:  # argparse's own
        return error.code


KINDS = {
    "classification": {},
    "summary": {"answer": "review_headline", "choices": False},
    "generation": {"prompt": ["product_title"], "answer": "review_body", "choices": False},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_a_table_becomes_a_model_that_answers_another_table(kind, smoke, capsys):
    path = task_file(smoke, **KINDS[kind])
    assert run(train, "--task", path, "--epochs", 1, "--evaluations", 1, "--test") == 0
    said = capsys.readouterr().out
    assert "Training will take about" in said and "opened 1 time" in said
    folder = runs_folder("mine") / "tuned"
    validation, test = json.loads((folder / "scoreboard.json").read_text(encoding="utf-8"))
    assert (validation["part"], test["part"]) == ("validation", "test")
    assert [line["candidate"] for line in test["lines"]][-3:] == [
        "zero-shot",
        "best prompt",
        "tuned",
    ]
    history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
    assert history["stopped"] == "finished" and len(history["steps"]) == 3
    card, page = ((folder / name).read_text("utf-8") for name in ("README.md", "scoreboard.html"))
    assert "- epochs: 1" in card and f"- tuned: {test['lines'][-1]['score'][0]:.3f}" in card
    assert "<td>zero-shot" in page and load_task(folder / "task.yaml").name == "mine"

    with open(DATA / "reviews.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:5]
    columns = KINDS[kind].get("prompt", ["review_body"])
    with open(smoke / "new.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        file.write(",".join('""' for _ in columns) + "\n")
    assert run(predict, "--model", folder, "--table", smoke / "new.csv") == 0
    answered = read_raw(smoke / "new_answered.csv").frame
    assert list(answered) == [*columns, "predicted", "probability"] and len(answered) == 6
    *asked, blank = zip(answered["predicted"], answered["probability"], strict=True)
    assert blank == ("", "") and "1 rows have nothing" in capsys.readouterr().out
    assert all(0 <= float(probability) <= 1 for _, probability in asked)
    if kind == "classification":
        assert {answer for answer, _ in asked} <= {*load_task(path).choices}


@pytest.mark.slow
def test_the_command_line_trains_as_the_notebooks_do(smoke, monkeypatch):
    path = task_file(smoke)
    seen = []
    monkeypatch.setattr(train, "save_model", lambda model, *_: seen.append(weights(model)))
    monkeypatch.setattr(train, "untuned_answers", lambda *_: {})
    assert run(train, "--task", path) == 0
    assert same_bits(seen[0], weights(load_or_train(load_task(path)).model))


@pytest.mark.slow
def test_the_best_prompt_of_the_board_is_the_one_that_notebook_01_found(smoke):
    task = load_task(task_file(smoke))
    assert run(train, "--task", task.path, "--epochs", 1, "--evaluations", 1) == 0
    assert load_result("mine/prompts")
    board = json.loads((runs_folder("mine") / "tuned" / "scoreboard.json").read_text("utf-8"))[0]
    best = max(load_result("mine/prompts"), key=lambda one: sum(one["scores"]))
    shown = next(one for one in board["lines"] if one["candidate"] == "best prompt")
    assert shown["score"][0] == pytest.approx(sum(best["scores"]) / len(best["scores"]))


def openings() -> list[str]:
    return json.loads((runs_folder("mine") / "test.sealed.json").read_text("utf-8"))["openings"]


def test_an_interrupt_ends_with_a_sentence_and_the_next_run_goes_on(smoke, monkeypatch, capsys):
    path, real = task_file(smoke), train._say
    once = "--task", path, "--epochs", 1, "--test"

    def stop(history):
        real(history)
        if len(history.steps) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(train, "_say", stop)
    assert run(train, *once) == train.INTERRUPTED
    assert "continues from the last checkpoint" in capsys.readouterr().err
    assert not (runs_folder("mine") / "tuned").exists() and not openings()
    monkeypatch.setattr(train, "_say", real)
    assert run(train, *once) == 0
    assert len(openings()) == 1


def test_a_run_that_is_refused_has_not_opened_the_test_set(smoke, monkeypatch, capsys):
    monkeypatch.setattr(train, "untuned_answers", lambda *_: {})
    path, folder = task_file(smoke), runs_folder("mine")
    (folder / "command_line").mkdir(parents=True)
    with FileLock(folder / "command_line" / "run.lock"):
        assert run(train, "--task", path, "--test") == 2
    assert "training in" in capsys.readouterr().err and not openings()
    (smoke / "file").touch()
    assert run(train, "--task", path, "--test", "--output", smoke / "file" / "model") == 2
    assert "could not be saved" in capsys.readouterr().err and not openings()
    locked = json.loads((folder / "test.sealed.json").read_text("utf-8"))
    (folder / "test.sealed.json").write_text(json.dumps(locked | {"sha256": "other"}))
    monkeypatch.setattr(train, "load_model", lambda _: pytest.fail("it goes on"))
    assert run(train, "--task", path, "--test") == 2
    assert "Another test set is locked" in capsys.readouterr().err


def test_the_width_of_the_interval_is_said_before_the_training(smoke, monkeypatch, capsys):
    monkeypatch.setattr(train, "load_model", lambda _: pytest.fail("it goes on"))
    with pytest.raises(pytest.fail.Exception):
        run(train, "--task", task_file(smoke))
    assert interval_ahead(profile().validation_rows) in capsys.readouterr().out


def test_the_next_run_keeps_the_model_of_the_last_one(smoke, monkeypatch, capsys):
    monkeypatch.setattr(train, "untuned_answers", lambda *_: {})
    path, folder = task_file(smoke, answer="review_headline", choices=False), smoke / "model"
    once = "--task", path, "--epochs", 1, "--evaluations", 1, "--output", folder
    assert run(train, *once) == 0
    assert "before" not in capsys.readouterr().out
    first = (folder / "model.safetensors").read_bytes()
    _, tokenizer = load_model(folder)
    examples = load_examples(load_task(path))["train"]
    assert json.loads((folder / "answers.json").read_text()) == answer_form(examples, tokenizer)
    assert provenance(folder) == provenance() and (folder / "LICENSE").exists()
    for number in ("", "2"):
        assert run(train, *once, "--learning_rate", f"{number or 1}e-3") == 0
        older = smoke / f"model.older{number}"
        assert f"is now in {older.name}, beside it" in capsys.readouterr().out
        assert ((older / "model.safetensors").read_bytes() == first) == (not number)
    assert (folder / "model.safetensors").read_bytes() != first

    # The run on disk is finished: the same command only saves it again.
    with monkeypatch.context() as patch:
        patch.setattr(train, "train_task", lambda *_: pytest.fail("trained again"))
        assert run(train, *once, "--learning_rate", "2e-3") == 0

    def full(*_):
        raise CourseError("The disk is full.")

    last = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr(train, "save_model", full)
    assert run(train, *once, "--learning_rate", "3e-3") == 2
    assert "The disk is full." in capsys.readouterr().err
    assert (folder / "model.safetensors").read_bytes() == last


def test_bad_input_ends_with_one_sentence_and_status_2(smoke, capsys):
    path = task_file(smoke)

    def refused(program, *arguments, words):
        assert run(program, *arguments) == 2
        message = capsys.readouterr().err
        assert words in message and "Traceback" not in message

    refused(train, "--task", smoke / "none.yaml", words="There is no task")
    refused(train, "--task", path, "--epochs", 0, words="epochs is 0")
    refused(train, "--task", path, "--rows", 0, words="--rows is 0")
    refused(train, "--task", path, "--epoch_s", 1, words="unrecognized arguments")
    refused(train, "--task", path, "--model", smoke / "none", words="No model could be loaded")
    refused(train, "--task", path, "--output", "..", words="the folder in which you are")
    results = runs_folder("mine")
    refused(train, "--task", path, "--output", results, words="your results")
    refused(train, "--task", path, "--output", results.parent, words="your results")
    refused(train, "--task", path, "--output", DATA, words="or its table")
    refused(predict, "--model", smoke, "--table", "x.csv", words="has no task.yaml")
    refused(predict, "--table", "x.csv", words="--model")
    assert not (runs_folder("mine") / "tuned").exists()


def test_a_table_that_does_not_fit_is_refused_and_nothing_is_written(smoke, capsys):
    folder = smoke / "model"
    folder.mkdir()
    (folder / "task.yaml").write_text(task_file(smoke).read_text("utf-8"), encoding="utf-8")
    for text, words in {
        "body\nhello\n": "uses the field review_body",
        "review_body,predicted\nhello,x\n": "has a column predicted already",
        "review_body,n\n,1\n,2\n": "has nothing in review_body",
    }.items():
        (smoke / "new.csv").write_text(text, encoding="utf-8")
        assert run(predict, "--model", folder, "--table", smoke / "new.csv") == 2
        assert words in capsys.readouterr().err
    assert not (smoke / "new_answered.csv").exists()


def test_answers_that_cannot_be_written_can_go_to_another_file(smoke, monkeypatch, capsys):
    (smoke / "task.yaml").write_text(task_file(smoke).read_text("utf-8"), encoding="utf-8")
    (smoke / "new.csv").write_text("review_body\nhello\n", encoding="utf-8")
    monkeypatch.setattr(predict, "load_model", lambda _: (None, None))
    monkeypatch.setattr(predict, "answer_all", lambda *_: (["Books"], [0.5]))
    asked = "--model", smoke, "--table", smoke / "new.csv", "--output"
    assert run(predict, *asked, smoke / "new.csv" / "answers.csv") == 2
    assert "another file with --output" in capsys.readouterr().err
    assert run(predict, *asked, smoke / "answers.csv") == 0


def test_a_new_table_is_cleaned_as_the_training_rows_were(smoke, monkeypatch):
    text = task_file(smoke, prompt=["review_body", "star_rating"]).read_text("utf-8")
    text += "clean: [review_body]\nnumbers: {star_rating: [1, 5]}\n"
    (smoke / "task.yaml").write_text(text, encoding="utf-8")
    table = "review_body,star_rating\n It&#39;s good ,4.0\nbad,none\n"
    (smoke / "new.csv").write_text(table, encoding="utf-8")
    monkeypatch.setattr(predict, "load_model", lambda _: (None, None))
    asked, said = [], ("ab", [0.5, 0.5])
    monkeypatch.setattr(predict, "answer_all", lambda *given: asked.append(given) or said)
    assert run(predict, "--model", smoke, "--table", smoke / "new.csv") == 0
    first, second = (one["prompt"] for one in asked[0][2])
    assert ": It's good\n" in first and ": 4\n" in first
    assert ": none\n" in second
    frame = read_raw(smoke / "new_answered.csv").frame
    assert frame["review_body"][2] == " It&#39;s good " and frame["star_rating"][2] == "4.0"


def test_an_answer_of_several_lines_comes_whole(smoke, monkeypatch):
    path = task_file(smoke, answer="review_headline", choices=False)
    (smoke / "task.yaml").write_text(path.read_text("utf-8"), encoding="utf-8")
    tokenizer, answer = tiny_tokenizer(), "\n".join(f"line {n} of the answer" for n in range(12))
    form = answer_form([{"answer": answer, "completion": f" {answer}"}], tokenizer)
    (smoke / "answers.json").write_text(json.dumps(form))
    (smoke / "new.csv").write_text("review_body\nhello\n", encoding="utf-8")
    prompt = load_task(path).wording.question({"review_body": "hello"})["prompt"]
    model = tiny_model()
    scripted(model, tokenizer, prompt, completion_ids(f" {answer}", tokenizer))
    monkeypatch.setattr(predict, "load_model", lambda _: (model, tokenizer))
    monkeypatch.setattr(predict, "score_choices", lambda *_: torch.zeros(1, 1))
    assert form["max_new_tokens"] > 64
    assert run(predict, "--model", smoke, "--table", smoke / "new.csv") == 0
    assert read_raw(smoke / "new_answered.csv").frame["predicted"].tolist() == [answer]
    (smoke / "answers.json").write_text("{}", encoding="utf-8")
    assert run(predict, "--model", smoke, "--table", smoke / "new.csv") == 2


def test_each_row_has_its_own_choices():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    questions = [
        {"prompt": "Is it red?", "choices": ["yes", "no"]},
        {"prompt": "Which fruit?", "choices": ["apple", "pear", "plum"]},
        {"prompt": "Is it blue?", "choices": ["yes", "no"]},
    ]
    for answer, sure, question in zip(
        *predict.answer_all(model, tokenizer, questions), questions, strict=True
    ):
        choices = question["choices"]
        scores = score_choices(model, tokenizer, [question["prompt"]], choices)[0]
        assert answer == choices[int(scores.argmax())]
        assert sure == pytest.approx(scores.softmax(-1).max().item(), abs=1e-5)


def test_a_free_answer_is_as_likely_as_its_whole_text():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    asked = ["Say something", "Say more"]
    answers, sure = predict.answer_all(model, tokenizer, [{"prompt": one} for one in asked])
    assert answers == generate_answers(model, tokenizer, asked, 64)
    for prompt, answer, share in zip(asked, answers, sure, strict=True):
        assert share == score_choices(model, tokenizer, [prompt], [answer]).exp().item() < 1


@pytest.mark.parametrize(("given", "low"), [([], True), (["--low_memory", "False"], False)])
def test_little_memory_is_seen_on_the_command_line_too(smoke, monkeypatch, given, low):
    monkeypatch.setattr(machine, "usable_memory", lambda: 2**31)
    seen = []
    monkeypatch.setattr(train, "fine_tune", lambda _, settings: seen.append(settings))
    assert run(train, "--task", task_file(smoke), *given) == 0
    assert seen[0].low_memory is low


def test_what_cannot_be_scored_is_refused_before_the_training(smoke, monkeypatch, capsys):
    monkeypatch.setattr(train, "untuned_answers", lambda *_: {"zero-shot": ["a"]})
    monkeypatch.setattr(train, "train_task", lambda *_: pytest.fail("it trains"))
    rows = "".join(f"text {n},label {n % 2}\n" for n in range(5))
    (smoke / "five.csv").write_text("text,label\n" + rows, encoding="utf-8")
    given = {"prompt": ["text"], "answer": "label", "instruction": "Which?", "choices": False}
    task = write_task(smoke / "five.yaml", smoke / "five.csv", **given)
    assert run(train, "--task", task.path) == 2
    assert "at least two" in capsys.readouterr().err
