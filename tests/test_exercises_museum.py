"""The specimens of notebook 09: broken as they stand there, whole when mended, and really broken.

What a mended function has to give is compared with PyTorch, transformers and the course's own
tokenize, so that no check stands on itself alone.
"""

import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    get_constant_schedule_with_warmup,
)

from helpers.data.tokenize import IGNORE, tokenize
from helpers.exercises import check, commands, record, registry, verdict
from tests.tiny import tiny_model, tiny_tokenizer

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "09_bug_museum.ipynb"
SPECIMENS = {one.name: one for one in registry.collect() if one.specimen}
each_specimen = pytest.mark.parametrize("specimen", SPECIMENS.values(), ids=SPECIMENS)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """No test sees or leaves progress."""
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("COURSE_GRADING", raising=False)


def run(source: str, name: str, namespace: dict) -> Callable:
    exec(source, namespace)
    return namespace[name]


def shipped(name: str) -> Callable:
    """The function as it stands in the notebook, from its own cell alone."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    (source,) = (
        cell.source for cell in cells if cell.metadata.get("nbgrader", {}).get("grade_id") == name
    )
    return run(source, name, {})


def mended(name: str) -> Callable:
    """The function as solution() prints it."""
    specimen = SPECIMENS[name]
    source = commands.solution_of(specimen)
    if specimen.answer:
        return run(source, name, {})
    module = sys.modules[specimen.reference.__module__]
    return run(source, specimen.reference.__name__, dict(vars(module)))


def both(name: str) -> tuple[Callable, Callable]:
    return shipped(name), mended(name)


def test_there_are_at_least_eight_and_each_is_told_apart():
    assert len(SPECIMENS) >= 8
    assert {one.notebook for one in SPECIMENS.values()} == {NOTEBOOK.stem}


@each_specimen
def test_as_shipped_it_is_red_and_the_symptom_is_named(specimen, capsys):
    check(specimen.name, shipped(specimen.name))
    said = capsys.readouterr().out.rstrip("\n")
    assert said.startswith("✗ still broken: ") and said.endswith(
        "\n" + specimen.mistakes[0].message
    )
    assert record.load() == {specimen.name: "tried"}


@each_specimen
def test_mended_it_is_green_and_in_grading_nothing_else_passes(specimen, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_GRADING", "1")
    with pytest.raises(AssertionError, match="✗ still broken: "):
        check(specimen.name, shipped(specimen.name))
    check(specimen.name, mended(specimen.name))
    assert capsys.readouterr().out == "✓ fixed\n"
    assert record.load() == {specimen.name: "done"}


@each_specimen
def test_each_says_where_it_happened(specimen):
    """After each check comes a folded text that links a thread with its number, or a paper."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    (place,) = (
        place
        for place, cell in enumerate(cells)
        if cell.metadata.get("nbgrader", {}).get("grade_id") == f"check-{specimen.name}"
    )
    text = cells[place + 1].source
    assert text.startswith("<details><summary>Where it happened")
    assert "https://github.com/" in text and "#" in text


def test_the_table_says_what_is_mended(monkeypatch):
    tables = []
    monkeypatch.setattr(commands, "show_table", lambda header, rows: tables.append(rows))
    check("step_loss", shipped("step_loss"))
    check("evaluate", mended("evaluate"))
    commands.progress(NOTEBOOK.stem)
    states = {row[0]: row[3] for row in tables[0]}
    assert states[SPECIMENS["step_loss"].title] == "✗ still broken"
    assert states[SPECIMENS["evaluate"].title] == "✓ fixed"
    assert states[SPECIMENS["stop_labels"].title] == "not tried yet"


def test_a_judge_leaves_the_learners_random_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    verdict.assess(SPECIMENS["evaluate"], mended("evaluate"))
    # Building the judge's own model may not draw from them, nor may its seed stay in force.
    assert torch.equal(torch.rand(3), expected)


# ---------------------------------------------------------------------------------------------
# That the symptoms are real
# ---------------------------------------------------------------------------------------------

SHORT = {"input_ids": [20, 30, 40, 1], "labels": [IGNORE, IGNORE, 40, 1]}
LONG = {"input_ids": [21, 31, 41, 51, 61, 71, 44, 1], "labels": [*[IGNORE] * 6, 44, 1]}


def losses_of(batch: dict[str, torch.Tensor]) -> list[float]:
    """The loss of each line of a batch, from transformers' own code."""
    with torch.no_grad():
        return [
            tiny_model()(**{name: rows[i : i + 1] for name, rows in batch.items()}).loss.item()
            for i in range(len(batch["labels"]))
        ]


def test_padding_changes_the_loss_only_as_long_as_it_is_broken():
    broken, whole = both("padded_batch")
    (alone,) = losses_of(whole([SHORT], 1))
    assert losses_of(whole([SHORT, LONG], 1))[0] == pytest.approx(alone, abs=1e-5)
    assert abs(losses_of(broken([SHORT, LONG], 1))[0] - alone) > 0.1
    collator = DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=IGNORE)
    rows = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in (SHORT, LONG)]
    expected, got = collator(rows), whole([SHORT, LONG], 1)
    assert all(torch.equal(got[name], expected[name]) for name in got)


def test_the_end_is_lost_just_as_in_transformers_own_collator():
    broken, whole = both("stop_labels")
    tokenizer = tiny_tokenizer()
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    batch = collator([{"input_ids": row["input_ids"]} for row in (SHORT, LONG)])
    arguments = batch["input_ids"], batch["attention_mask"], tokenizer.pad_token_id
    assert torch.equal(broken(*arguments), batch["labels"])
    assert (broken(*arguments) == 1).sum() == 0 and (whole(*arguments) == 1).sum() == 2
    assert (whole(*arguments) == IGNORE).sum() == 4


def test_shifted_once_is_what_transformers_does():
    broken, whole = both("next_token_loss")
    ids = torch.tensor([LONG["input_ids"]])
    labels = torch.tensor([[IGNORE, *LONG["input_ids"][1:]]])
    with torch.no_grad():
        out = tiny_model()(input_ids=ids, labels=labels)
    assert whole(out.logits, labels).item() == pytest.approx(out.loss.item(), rel=1e-5)
    assert abs(broken(out.logits, labels).item() - out.loss.item()) > 0.1


def tokenized(prompt: str, answer: str) -> dict:
    """One example as the course tokenizes it."""
    examples = Dataset.from_list([{"prompt": prompt, "completion": answer}])
    return tokenize(examples, tiny_tokenizer(), tiny_model().config)[0]


def labels_by(mask: list[int], ids: list[int]) -> list[int]:
    return [IGNORE, *(i if labelled else IGNORE for i, labelled in zip(ids[1:], mask, strict=True))]


@pytest.mark.parametrize(("prompt", "answer"), [("Overall:", " good"), ("Too", " small for me")])
def test_the_mask_is_that_of_tokenize_and_loses_a_token_while_broken(prompt, answer):
    broken, whole = both("labelled_predictions")
    ids, labels = tokenized(prompt, answer).values()
    lengths = labels.count(IGNORE), len(labels)
    assert labels_by(whole(*lengths), ids) == labels
    labelled = [label for label in labels if label != IGNORE]
    left = [label for label in labels_by(broken(*lengths), ids) if label != IGNORE]
    assert left == labelled[1:]


def test_a_space_at_the_end_of_the_prompt_swallows_the_answer_while_broken():
    broken, whole = both("ids_and_labels")
    tokenizer = tiny_tokenizer()

    def ids_of(text):
        return tokenizer(text, add_special_tokens=False).input_ids

    assert ids_of(" the") == [tokenizer.convert_tokens_to_ids("Ġthe")]
    for prompt, completion in (("Overall:", " the"), ("Overall: ", "the")):
        ids, labels = whole(prompt, completion, ids_of, tokenizer.eos_token_id)
        assert {"input_ids": ids, "labels": labels} == tokenized(prompt, completion)
        assert ids[: len(ids_of(prompt))] == ids_of(prompt)
    _, labels = broken("Overall: ", "the", ids_of, tokenizer.eos_token_id)
    assert [label for label in labels if label != IGNORE] == [tokenizer.eos_token_id]
    _, labels = broken("Overall:", " the", ids_of, tokenizer.eos_token_id)
    assert tokenizer.decode([label for label in labels if label != IGNORE]) == " the<|end|>"


def test_a_step_has_the_gradient_of_the_big_batch_only_when_mended():
    broken, whole = both("step_loss")
    torch.manual_seed(0)
    weights = torch.randn(9, requires_grad=True)
    cuts = (2, 1, 6)

    def gradient(loss_of):
        losses = (weights - torch.arange(9.0)) ** 2
        (gradient,) = torch.autograd.grad(loss_of(list(losses.split(cuts))), weights)
        return gradient

    big = gradient(lambda parts: torch.cat(parts).mean())
    torch.testing.assert_close(gradient(whole), big)
    assert (gradient(broken) - big).norm() > 0.1 * big.norm()


def test_processes_together_have_the_gradient_of_the_big_batch_only_when_mended():
    broken, whole = both("local_loss")
    torch.manual_seed(0)
    weights = torch.randn(7, requires_grad=True)

    def gradient(loss_of):
        losses = (weights - torch.arange(7.0)) ** 2
        # What DistributedDataParallel does: the mean of the processes' gradients.
        mean = sum(loss_of(share, 7, 2) for share in losses.split([2, 5])) / 2
        (gradient,) = torch.autograd.grad(mean, weights)
        return gradient

    big = gradient(lambda share, everywhere, processes: share.sum() * processes / everywhere)
    (expected,) = torch.autograd.grad(((weights - torch.arange(7.0)) ** 2).mean(), weights)
    torch.testing.assert_close(big, expected)
    torch.testing.assert_close(gradient(whole), expected)
    assert (gradient(broken) - expected).norm() > 0.1 * expected.norm()


def test_labels_of_a_conversation_are_the_assistant_mask_of_a_marked_template():
    broken, whole = both("conversation_labels")
    tokenizer = tiny_tokenizer()
    end = tokenizer.eos_token_id

    def ids_of(text):
        return tokenizer(text, add_special_tokens=False).input_ids

    turns = [("user", "Is it good?"), ("assistant", " Yes"), ("user", " Why?"), ("assistant", " A")]
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content + eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
        "{% endfor %}"
    )
    chat = tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in turns],
        chat_template=template,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids, labels = whole(turns, ids_of, end)
    assert ids == chat["input_ids"] == broken(turns, ids_of, end)[0]
    assert [int(label != IGNORE) for label in labels] == chat["assistant_masks"]
    assert labels.count(end) == 2 and broken(turns, ids_of, end)[1].count(end) == 0
    assert mended("assistant_labels")(ids, chat["assistant_masks"]) == labels


def test_a_mask_of_zeros_is_refused_only_when_mended():
    broken, whole = both("assistant_labels")
    assert broken([5, 6], [0, 0]) == [IGNORE, IGNORE]
    with pytest.raises(ValueError, match="chat template"):
        whole([5, 6], [0, 0])


def test_a_batch_without_labels_ruins_every_weight_while_broken():
    for loss_of, ruined in zip(both("batch_loss"), (True, False), strict=True):
        torch.manual_seed(0)
        head = torch.nn.Linear(4, 5)
        before = head.weight.detach().clone()
        optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
        losses = cross_entropy(head(torch.ones(3, 4)), torch.tensor([0, 1, 2]), reduction="none")
        loss_of(losses, torch.zeros(3)).backward()
        optimizer.step()
        assert bool(head.weight.isnan().all()) is ruined
        assert torch.equal(head.weight, before) is not ruined


def test_with_labels_the_loss_of_a_batch_is_pytorchs():
    logits, labels = torch.randn(6, 4), torch.tensor([1, 2, IGNORE, 3, IGNORE, 0])
    losses = cross_entropy(logits, labels.clamp(min=0), reduction="none")
    for loss_of in both("batch_loss"):
        got = loss_of(losses, (labels != IGNORE).float())
        torch.testing.assert_close(got, cross_entropy(logits, labels))


def test_warm_up_in_steps_is_that_of_transformers_and_lacking_while_broken():
    broken, whole = both("learning_rates")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = get_constant_schedule_with_warmup(optimizer, num_warmup_steps=4)
    expected = []
    for _ in range(10):  # theirs begins at zero, and this one with the step after
        optimizer.step()
        schedule.step()
        expected.append(schedule.get_last_lr()[0])
    assert whole(10, 0.5, warmup_steps=4) == pytest.approx(expected)
    assert broken(10, 0.5, warmup_steps=4) == [0.5] * 10
    share = whole(10, 0.5, warmup_ratio=0.4)
    assert share == pytest.approx(expected) == broken(10, 0.5, warmup_ratio=0.4)


def test_dropout_makes_the_loss_jump_only_while_broken():
    broken, whole = both("evaluate")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Dropout(0.5), torch.nn.Linear(6, 3))
    inputs, targets = torch.randn(20, 6), torch.randint(0, 3, (20,))
    with torch.no_grad():
        expected = cross_entropy(model[2](model[0](inputs)), targets).item()
    assert model.training
    assert len({broken(model, inputs, targets) for _ in range(4)}) == 4
    assert [whole(model, inputs, targets) for _ in range(2)] == pytest.approx([expected] * 2)
    assert model.training
    model.eval()
    whole(model, inputs, targets)
    assert not model.training


def test_shots_hold_their_own_question_only_while_broken():
    broken, whole = both("pick_shots")
    train, test = [f"train {i}" for i in range(30)], [f"test {i}" for i in range(12)]

    def own(pick):
        return sum(row in pick(train, test, 4, seed) for seed, row in enumerate(test * 20))

    assert own(whole) == 0
    assert own(broken) > 40  # a third of 240 is to be expected


def test_rows_are_drawn_evenly_from_a_sorted_table_only_when_mended():
    broken, whole = both("rows_to_score")
    rows = sorted((label, number) for label in "abcd" for number in range(10))
    assert {label for label, _ in broken(rows, 10, 0)} == {"a"}
    drawn = Counter(row for seed in range(400) for row in whole(rows, 10, seed))
    # Each row is expected 100 times, with a standard deviation of 8.7.
    assert len(drawn) == 40 and all(60 < times < 140 for times in drawn.values())
    random.seed(1)
    assert whole(rows, 10, 0) == whole(rows, 10, 0)


def own_zero(losses, mask):
    if mask.sum() == 0:
        return torch.tensor(0.0, requires_grad=True)
    return (losses * mask).sum() / mask.sum()


def block_of(rows, n, seed):
    return rows[seed : seed + n]


def no_rows(rows, n, seed):
    random.Random(seed).sample(rows, min(n, len(rows)))


def without_dropout(model, inputs, targets):
    model[0].p = 0.0
    with torch.no_grad():
        return cross_entropy(model(inputs), targets).item()


@pytest.mark.parametrize(
    ("name", "attempt", "words"),
    [
        ("batch_loss", own_zero, "fixed"),
        ("rows_to_score", block_of, "eight seeds draw no good one"),
        ("rows_to_score", no_rows, "returns nothing"),
        ("evaluate", without_dropout, "was left at 0.0"),
    ],
)
def test_an_attempt_is_judged_by_what_it_does(name, attempt, words, capsys):
    check(name, attempt)
    assert words in capsys.readouterr().out
