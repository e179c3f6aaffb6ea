"""The loop against references that we did not write, and what it refuses."""

import dataclasses
import math

import pytest
import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    get_cosine_schedule_with_warmup,
)

from helpers.data.tokenize import IGNORE, TokenizeError, length_grouped_batches
from helpers.training import loop
from helpers.training.loop import (
    batch_plan,
    learning_rate_at,
    make_optimizer,
    set_learning_rate,
    should_stop_early,
    train,
    training_step,
)
from helpers.training.loss import evaluate_loss, loss_sum
from helpers.training.low_memory import low_memory_step
from helpers.training.settings import History, TrainingError, TrainSettings
from tests.families import ENCODER_DECODERS, family_model
from tests.made_up import (
    BATCH,
    COLLATE,
    PAD,
    SETTINGS,
    TRAIN,
    VALIDATION,
    losses,
    made_up,
    same_bits,
    untouched,
    weights,
)
from tests.refusals import refusal
from tests.tiny import tiny_model, tiny_tokenizer

LENGTHS = [len(row["input_ids"]) for row in TRAIN]
LOW = pytest.mark.parametrize("low_memory", [False, True])


# The same numbers as others


def plain_loop(model, settings, steps):
    """What notebook 04 shows: the whole training of some batches, in the open."""
    optimizer = make_optimizer(model, settings)
    plan, found = batch_plan(LENGTHS, settings), []
    for step, rows in enumerate(plan[:steps]):
        model.train()
        torch.manual_seed(settings.seed + step)
        set_learning_rate(optimizer, learning_rate_at(step, len(plan), settings))
        summed, count = loss_sum(model, COLLATE([TRAIN[row] for row in rows]))
        (summed / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        found.append(summed.item() / count)
    return found


# GPT-2 has dropout: a train() that did not call model.train() would have other losses.
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_train_is_the_plain_loop(tmp_path, name):
    settings = dataclasses.replace(SETTINGS, micro_batch_size=8, learning_rate=1e-3, seed=2)
    history = train(family_model(name), TRAIN, VALIDATION, settings, COLLATE, tmp_path)
    expected = plain_loop(family_model(name), settings, steps=8)
    assert [record.loss for record in history.steps[:8]] == pytest.approx(expected, rel=1e-5)
    assert expected[-1] < expected[0]


def test_evaluations_drop_nothing_and_steps_do(tmp_path):
    model, modes = family_model("gpt2").train(), []
    model.lm_head.register_forward_hook(lambda *_: modes.append(model.training))
    scored = []
    history = train(
        model,
        TRAIN,
        VALIDATION,
        dataclasses.replace(SETTINGS, epochs=1),
        COLLATE,
        tmp_path,
        score=lambda model: scored.append((model.training, torch.is_grad_enabled())) or 0.5,
    )
    assert scored == [(False, False)] * 3
    # One batch of validation rows; then a step is two micro-batches.
    assert modes == [False] + [True] * 4 + [False] + [True] * 6 + [False]
    first = evaluate_loss(family_model("gpt2"), VALIDATION, COLLATE)
    assert history.evaluations[0].loss == first
    assert not model.training
    assert evaluate_loss(model, VALIDATION, COLLATE) == history.best.loss


class InOrder(Trainer):
    """transformers.Trainer, fed our batches in our order."""

    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)


def without_dropout(name):
    if name == "tiny":
        return tiny_model()
    config = family_model(name).config
    config.dropout_rate = 0.0
    torch.manual_seed(0)
    return AutoModelForSeq2SeqLM.from_config(config)


@pytest.mark.parametrize(
    # (Trainer itself does not accumulate over micro-batches rightly for T5.)
    ("name", "micro_batch_size", "instruction"),
    [("tiny", 4, 0), ("tiny", 8, 12), ("t5", 8, 0)],
)
def test_losses_equal_those_of_transformers_trainer(tmp_path, name, micro_batch_size, instruction):
    settings = dataclasses.replace(
        SETTINGS,
        epochs=1,
        micro_batch_size=micro_batch_size,
        learning_rate=3e-3,
        warmup_ratio=0.23,
        seed=3,
    )
    apart = name in ENCODER_DECODERS
    rows = Dataset.from_list(made_up(160, seed=5, instruction=instruction, apart=apart))
    few = Dataset.from_list(made_up(8, seed=6, instruction=instruction, apart=apart))
    collate = DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=IGNORE)
    history = train(without_dropout(name), rows, few, settings, collate, tmp_path / "ours")

    plan = batch_plan([len(row["input_ids"]) for row in rows], settings)
    assert len(plan) == 20
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "theirs"),
        num_train_epochs=1,
        per_device_train_batch_size=micro_batch_size,
        gradient_accumulation_steps=8 // micro_batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=5,  # 4.6, rounded up
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = InOrder(
        model=without_dropout(name).train(),
        args=arguments,
        train_dataset=rows.select([row for batch in plan for row in batch]),
        data_collator=collate,
    )
    trainer.train()
    theirs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(theirs) == len(history.steps) == 20
    for our, their in zip(history.steps, theirs, strict=True):
        assert our.loss == pytest.approx(their["loss"], abs=1e-4)
        assert our.gradient_norm == pytest.approx(float(their["grad_norm"]), rel=1e-3)
    # A loop that learns nothing would agree with a Trainer that learns nothing.
    first, *_, last = history.evaluations
    assert last.loss < first.loss - 0.1


def test_accumulation_equals_the_big_batch():
    batch = sorted(TRAIN[:8], key=lambda row: len(row["labels"]))
    assert len({sum(label != IGNORE for label in row["labels"]) for row in batch}) > 1
    settings, results = dataclasses.replace(SETTINGS, max_grad_norm=1e9), []
    for size in (8, 3, 1):
        model = tiny_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        parts = [COLLATE(batch[i : i + size]) for i in range(0, 8, size)]
        results.append((training_step(model, optimizer, parts, settings), weights(model)))
    (loss, norm), reference = results[0]
    for (other_loss, other_norm), other in results[1:]:
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert other_norm == pytest.approx(norm, rel=1e-4)
        for name in reference:
            torch.testing.assert_close(other[name], reference[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("ratio", "total", "warmup"), [(0.25, 20, 5), (0.1, 7, 1), (0.33, 10, 4)])
def test_learning_rate_is_transformers_cosine_with_warmup(ratio, total, warmup):
    settings = TrainSettings(learning_rate=3e-4, warmup_ratio=ratio)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    # Trainer rounds the ratio up to whole steps.
    assert TrainingArguments(use_cpu=True, warmup_steps=ratio).get_warmup_steps(total) == warmup
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, total)
    for step in range(total):
        rate = optimizer.param_groups[0]["lr"]
        assert learning_rate_at(step, total, settings) == pytest.approx(rate)
        optimizer.step()
        schedule.step()


def test_every_weight_moves_and_norms_are_not_decayed():
    model = tiny_model()
    before = weights(model)
    optimizer = make_optimizer(model, dataclasses.replace(SETTINGS, weight_decay=0.5))
    training_step(model, optimizer, [BATCH], SETTINGS)
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())
    for group in optimizer.param_groups:
        matrices = {p.ndim >= 2 for p in group["params"]}
        assert matrices == {group["weight_decay"] > 0}


def test_the_plan_is_the_batches_of_each_epoch():
    plan = batch_plan(LENGTHS, SETTINGS)
    assert plan == length_grouped_batches(LENGTHS, 8, 0) + length_grouped_batches(LENGTHS, 8, 1)
    assert plan != batch_plan(LENGTHS, dataclasses.replace(SETTINGS, seed=1))


def test_a_run_in_16_bits_is_near_that_in_32(tmp_path):
    runs, models = [], []
    for precision in ("float32", "bfloat16"):
        settings = dataclasses.replace(SETTINGS, epochs=1, precision=precision)
        models.append(tiny_model())
        asked = []
        runs.append(
            train(
                models[-1],
                TRAIN,
                VALIDATION,
                settings,
                COLLATE,
                tmp_path / precision,
                score=lambda _, asked=asked: asked.append(torch.is_autocast_enabled("cpu")) or 0,
            )
        )
        assert set(asked) == {precision == "bfloat16"}
        assert all(parameter.dtype == torch.float32 for parameter in models[-1].parameters())
    exact, rounded = runs
    for ours, theirs in zip(rounded.steps, exact.steps, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=0.05)
        assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=0.25)
    # Evaluations multiply as the steps do.
    again = evaluate_loss(models[1], VALIDATION, COLLATE, precision="bfloat16")
    assert again == rounded.best.loss != evaluate_loss(models[1], VALIDATION, COLLATE)


# The history


def test_history_tells_the_whole_run(tmp_path):
    seen = []
    history = train(
        tiny_model(),
        TRAIN,
        VALIDATION,
        SETTINGS,
        COLLATE,
        tmp_path,
        score=lambda model: 0.5,
        watch=lambda h: seen.append((len(h.steps), len(h.evaluations))),
    )
    assert history.stopped == "finished"
    assert [record.step for record in history.steps] == list(range(1, 11))
    assert [record.step for record in history.evaluations] == [0, 2, 5, 7, 10]
    assert {record.accuracy for record in history.evaluations} == {0.5}
    assert sum(record.tokens for record in history.steps) == 2 * sum(LENGTHS)
    assert history.tokens_per_second > 0
    assert history.seconds_left == 0
    assert seen[0] == (0, 1) and seen[-1] == (10, 5)
    assert History.from_json(history.to_json()) == history


def test_the_model_ends_with_the_best_weights_and_patience_stops(tmp_path):
    model = tiny_model()
    settings = dataclasses.replace(SETTINGS, epochs=30, learning_rate=0.05, patience=3)
    history = train(model, TRAIN, VALIDATION, settings, COLLATE, tmp_path)
    assert history.stopped == "patience"
    assert history.evaluations.index(history.best) == len(history.evaluations) - 1 - 3
    assert history.best.loss < history.evaluations[-1].loss
    assert evaluate_loss(model, VALIDATION, COLLATE) == history.best.loss


@pytest.mark.parametrize(
    ("losses", "patience", "stop"),
    [
        ([3, 2, 2, 2], 2, True),
        ([3, 2, 2, 2], 3, False),
        ([3, 2, 2, 1], 1, False),
        ([1, 2, 3], None, False),
    ],
)
def test_patience_counts_evaluations_since_the_best(losses, patience, stop):
    assert should_stop_early(losses, patience) == stop


def test_a_second_thread_changes_late_decimals_only(tmp_path):
    runs = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            folder = tmp_path / str(number)
            runs.append(train(tiny_model(), TRAIN, VALIDATION, SETTINGS, COLLATE, folder))
    finally:
        torch.set_num_threads(threads)
    for (step, ours), (_, theirs) in zip(*map(losses, runs), strict=True):
        # Sums in another order differ in the seventh digit, and each step makes that larger.
        assert ours == pytest.approx(theirs, rel=1e-3), step


# Numbers that go wrong


@LOW
def test_a_loss_that_goes_wrong_names_the_step_and_its_examples(tmp_path, low_memory):
    model, after = tiny_model(), {}

    def spoil(history):
        if len(history.steps) == 8:
            with torch.no_grad():
                model.model.norm.weight[0] = math.inf
            after.update(weights(model))

    settings = dataclasses.replace(SETTINGS, low_memory=low_memory)
    rows = ", ".join(map(str, length_grouped_batches(LENGTHS, 8, seed=1)[3]))
    message = f"Step 9, with the training examples at index {rows}: The loss of this step is "
    with pytest.raises(TrainingError, match=message + ".*weights were left as they are"):
        train(model, TRAIN, VALIDATION, settings, COLLATE, tmp_path, watch=spoil)
    assert same_bits(weights(model), after)


def one_step(model, low_memory, batch):
    optimizer = make_optimizer(model, dataclasses.replace(SETTINGS, low_memory=low_memory))
    if low_memory:
        return low_memory_step(model, optimizer, batch)
    return training_step(model, optimizer, [batch], SETTINGS)


@LOW
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_without_a_finite_loss_leaves_all_as_it_was(low_memory, bad):
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight[0] = bad
    before = weights(model)
    with pytest.raises(TrainingError, match="weights were left as they are"):
        one_step(model, low_memory, BATCH)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name], rtol=0, atol=0, equal_nan=True)
        assert parameter.grad is None


def test_an_interrupted_step_leaves_no_gradient_to_the_next(monkeypatch):
    model, calls = tiny_model().train(), []

    def stopped(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return loss_sum(*given)

    monkeypatch.setattr(loop, "loss_sum", stopped)
    with pytest.raises(KeyboardInterrupt):
        training_step(model, make_optimizer(model, SETTINGS), [BATCH, BATCH], SETTINGS)
    assert all(parameter.grad is None for parameter in model.parameters())


@LOW
def test_a_step_with_all_labels_masked_is_refused(low_memory):
    model = tiny_model()
    masked = {**BATCH, "labels": torch.full_like(BATCH["labels"], IGNORE)}
    with pytest.raises(TrainingError, match="No token of this batch is labelled"):
        one_step(model, low_memory, masked)
    assert untouched(model)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_gradient_that_is_not_finite_leaves_the_weights_alone():
    model = tiny_model()
    model.model.norm.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match="weights were left as they are"):
        one_step(model, False, BATCH)
    assert untouched(model)


# Bad settings and examples


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be a number above 0"),
        ({"learning_rate": "5e-5"}, "learning_rate is '5e-5'; it must be a number"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"learning_rate": math.inf}, "learning_rate is inf"),
        ({"epochs": 0}, "epochs is 0; it must be a whole number from 1"),
        ({"epochs": 1.5}, "epochs is 1.5; it must be a whole number"),
        ({"epochs": True}, "epochs is True"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"micro_batch_size": None}, "micro_batch_size is None"),
        ({"evaluations": 0}, "evaluations is 0"),
        ({"patience": 0}, "patience is 0; it must be a whole number from 1, or None"),
        ({"seed": -1}, "seed is -1"),
        ({"warmup_ratio": 100}, "warmup_ratio is 100; it must be a share of the steps"),
        ({"warmup_ratio": 1}, "warmup_ratio is 1"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"max_grad_norm": 0}, "max_grad_norm is 0"),
        ({"precision": "float16"}, "precision is 'float16'"),
        ({"low_memory": "small"}, "low_memory is 'small'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, words):
    refusal(TrainingError, lambda: TrainSettings(**setting), words)


def test_settings_are_read_from_a_command_line():
    (settings,) = HfArgumentParser(TrainSettings).parse_args_into_dataclasses(
        ["--learning_rate", "5e-5", "--patience", "2", "--low_memory", "False"]
    )
    assert settings == TrainSettings(learning_rate=5e-5, patience=2, low_memory=False)


LAST = len(tiny_model().get_input_embeddings().weight) - 1
BAD = {
    "all labels masked": ([5, 6, 7], [IGNORE] * 3, "no labelled token"),
    "only the first label": ([5, 6, 7], [5, IGNORE, IGNORE], "no labelled token"),
    "id too large": ([5, LAST + 1], [IGNORE, 6], f"the token id {LAST + 1}"),
    "fewer labels": ([5, 6, 7], [IGNORE, 6], "3 tokens and 2 labels"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("which", [0, 1])
def test_bad_examples_are_refused_before_anything_changes(tmp_path, which, bad):
    ids, labels, words = bad
    model, sets, folder = tiny_model(), [list(TRAIN), list(VALIDATION)], tmp_path / "run"
    sets[which][3] = {"input_ids": ids, "labels": labels}
    call = lambda: train(model, *sets, SETTINGS, COLLATE, folder)  # noqa: E731
    refusal(TokenizeError, call, "example at index 3", words)
    assert untouched(model)
    assert not folder.exists()


def test_empty_sets_are_refused(tmp_path):
    for sets, words in (([[], VALIDATION], "training"), ([TRAIN, []], "validation")):
        call = lambda sets=sets: train(tiny_model(), *sets, SETTINGS, COLLATE, tmp_path)  # noqa: E731
        refusal(TrainingError, call, f"The {words} set is empty")


def test_padding_is_the_pad_token_of_the_collator():
    assert BATCH["input_ids"].max() < 600 and (BATCH["input_ids"] == PAD).any()
