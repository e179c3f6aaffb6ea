"""The loop against references that we did not write, and what happens when it is interrupted."""

import copy
import dataclasses
import math

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments, get_cosine_schedule_with_warmup

from helpers import training
from helpers.encoding import IGNORE, Encoded, batches_by_length, pad_batch
from helpers.training import (
    History,
    TrainingError,
    TrainSettings,
    learning_rate_at,
    load_finished,
    loss_sum,
    make_optimizer,
    mean_loss,
    train,
    training_step,
)
from tests.tiny import tiny_model

PAD = 1


def made_up(count: int, seed: int = 0, instruction: int = 0) -> list[Encoded]:
    """Examples of random ids, of varying length, with 1 to 4 supervised tokens.

    instruction: number of tokens that all of them begin with.
    """
    draw = torch.Generator().manual_seed(seed)
    encoded = []
    for _ in range(count):
        prompt = torch.randint(2, 600, (int(torch.randint(3, 20, (1,), generator=draw)),))
        completion = torch.randint(2, 600, (int(torch.randint(1, 5, (1,), generator=draw)),))
        prompt = torch.cat([torch.arange(2, 2 + instruction), prompt])
        ids = prompt.tolist() + completion.tolist()
        encoded.append(Encoded(ids, [IGNORE] * len(prompt) + completion.tolist()))
    return encoded


TRAIN, VALIDATION = made_up(40), made_up(12, seed=1)
# The same arithmetic on every machine.
FIXED = {"precision": "float32", "memory": "normal"}
SETTINGS = TrainSettings(
    epochs=2, batch_size=8, micro_batch=8, learning_rate=1e-2, validations=2, **FIXED
)


@pytest.fixture(autouse=True)
def checkpoint_at_each_validation(monkeypatch):
    """Else it would depend on the machine's speed which validations write one."""
    monkeypatch.setattr(training, "TRAINING_PER_WRITING", 0)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def losses(history):
    return [record.loss for record in history.steps]


def test_logits_on_selected_positions_equal_full_logits():
    model = tiny_model()
    batch = pad_batch(TRAIN[:8], PAD)
    summed, count = loss_sum(model, batch)
    reference = model(**batch).loss  # transformers' own loss: the mean over supervised tokens
    torch.testing.assert_close(summed / count, reference)
    (summed / count).backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    reference.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-6, rtol=1e-4)


def test_accumulation_equals_the_big_batch():
    batch = sorted(TRAIN[:8], key=lambda one: len(one.labels))
    assert len({sum(label != IGNORE for label in one.labels) for one in batch}) > 1
    results = []
    for size in (8, 3, 1):
        model = tiny_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        parts = [pad_batch(batch[i : i + size], PAD) for i in range(0, 8, size)]
        results.append((training_step(model, optimizer, parts, clip=1e9), weights(model)))
    (loss, norm), reference = results[0]
    for (other_loss, other_norm), other in results[1:]:
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert other_norm == pytest.approx(norm, rel=1e-4)
        for name in reference:
            torch.testing.assert_close(other[name], reference[name], atol=1e-5, rtol=1e-4)


class InOrder(Trainer):
    """transformers.Trainer, fed our batches in our order."""

    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)


@pytest.mark.parametrize(("micro_batch", "instruction"), [(8, 0), (4, 0), (8, 12), (4, 12)])
def test_losses_equal_those_of_transformers_trainer(tmp_path, micro_batch, instruction):
    settings = TrainSettings(
        epochs=1,
        batch_size=8,
        micro_batch=micro_batch,
        learning_rate=1e-3,
        warmup=0.2,
        seed=3,
        **FIXED,
    )
    examples = made_up(160, seed=5, instruction=instruction)
    order = batches_by_length(
        [len(one.input_ids) for one in examples], 8, seed=1_000_003 * settings.seed
    )
    assert len(order) == 20

    history = train(tiny_model(), examples, VALIDATION, settings, PAD, tmp_path / "ours")

    in_our_order = [
        {"input_ids": examples[i].input_ids, "labels": examples[i].labels}
        for batch in order
        for i in batch
    ]
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "theirs"),
        num_train_epochs=1,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=8 // micro_batch,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(settings.warmup * 20),
        max_grad_norm=settings.clip,
        optim="adamw_torch",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )

    def collate(rows):
        return pad_batch([Encoded(row["input_ids"], row["labels"]) for row in rows], PAD)

    trainer = InOrder(
        model=tiny_model().train(),
        args=arguments,
        train_dataset=in_our_order,
        data_collator=collate,
    )
    trainer.train()
    theirs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(theirs) == len(history.steps) == 20
    for our, their in zip(history.steps, theirs, strict=True):
        assert our.loss == pytest.approx(their["loss"], abs=1e-4)
        assert our.gradient_norm == pytest.approx(float(their["grad_norm"]), rel=1e-3)
    # A loop that learns nothing would agree with a Trainer that learns nothing.
    assert history.steps[-1].loss < history.steps[0].loss - 0.1


def test_learning_rate_is_transformers_cosine_with_warmup():
    settings = TrainSettings(learning_rate=3e-4, warmup=0.25)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    schedule = get_cosine_schedule_with_warmup(optimizer, 5, 20)
    for step in range(20):
        assert learning_rate_at(step, 20, settings) == pytest.approx(
            optimizer.param_groups[0]["lr"]
        )
        optimizer.step()
        schedule.step()


def test_every_weight_moves_and_norms_are_not_decayed():
    model = tiny_model()
    before = weights(model)
    optimizer = make_optimizer(model, TrainSettings(weight_decay=0.5))
    training_step(model, optimizer, [pad_batch(TRAIN[:8], PAD)], clip=1.0)
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())
    for group in optimizer.param_groups:
        matrices = {p.ndim >= 2 for p in group["params"]}
        assert matrices == {group["weight_decay"] > 0}


def test_mean_loss_counts_tokens_and_not_batches():
    model = tiny_model()
    whole, _ = loss_sum(model, pad_batch(VALIDATION, PAD))
    count = sum(label != IGNORE for one in VALIDATION for label in one.labels[1:])
    expected = whole.item() / count
    for batch_size in (1, 5, 100):
        assert mean_loss(model, VALIDATION, PAD, batch_size) == pytest.approx(expected, rel=1e-5)


def test_history_tells_the_whole_run(tmp_path):
    seen = []
    history = train(
        tiny_model(),
        TRAIN,
        VALIDATION,
        SETTINGS,
        PAD,
        tmp_path,
        score=lambda model: 0.5,
        watch=lambda h: seen.append((len(h.steps), len(h.validations))),
    )
    assert history.stopped == "finished"
    assert [record.step for record in history.steps] == list(range(1, 11))
    assert [record.step for record in history.validations] == [0, 2, 5, 7, 10]
    assert {record.accuracy for record in history.validations} == {0.5}
    per_epoch = sum(len(one.input_ids) for one in TRAIN)
    assert sum(record.tokens for record in history.steps) == 2 * per_epoch
    assert history.tokens_per_second > 0
    assert history.seconds_left == 0
    assert seen[0] == (0, 1) and seen[-1] == (10, 5)
    assert History.from_json(history.to_json()) == history
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_the_model_ends_with_the_best_weights_and_patience_stops(tmp_path):
    model = tiny_model()
    settings = dataclasses.replace(SETTINGS, epochs=30, learning_rate=0.05, patience=3)
    history = train(model, TRAIN, VALIDATION, settings, PAD, tmp_path)
    assert history.stopped == "patience"
    position = history.validations.index(history.best)
    assert position == len(history.validations) - 1 - 3
    assert history.best.loss < history.validations[-1].loss
    assert mean_loss(model, VALIDATION, PAD) == pytest.approx(history.best.loss, rel=1e-6)
    kept = load_file(tmp_path / "best.safetensors")
    assert all(torch.equal(kept[name], p) for name, p in model.named_parameters())


def interrupt_at(step):
    def watch(history):
        if len(history.steps) == step and history.stopped == "running":
            raise KeyboardInterrupt

    return watch


@pytest.mark.parametrize("step", [1, 3, 5, 9])
def test_an_interrupted_run_keeps_what_it_has_and_goes_on_to_the_same_end(tmp_path, capsys, step):
    whole_model = tiny_model()
    whole = train(whole_model, TRAIN, VALIDATION, SETTINGS, PAD, tmp_path / "whole")

    model = tiny_model()
    folder = tmp_path / "parts"
    partial = train(model, TRAIN, VALIDATION, SETTINGS, PAD, folder, watch=interrupt_at(step))
    assert partial.stopped == "interrupted"
    assert losses(partial) == losses(whole)[:step]
    assert mean_loss(model, VALIDATION, PAD) == pytest.approx(partial.best.loss, rel=1e-6)
    assert f"Interrupted after step {step} of 10" in capsys.readouterr().out

    # Another process would start from a fresh model.
    model = tiny_model()
    resumed = train(model, TRAIN, VALIDATION, SETTINGS, PAD, folder)
    assert "Going on from the checkpoint of step" in capsys.readouterr().out
    assert losses(resumed) == losses(whole)
    assert [r.loss for r in resumed.validations] == [r.loss for r in whole.validations]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(whole_model.named_parameters())[name])


def test_a_finished_run_is_found_again_and_only_with_its_own_settings(tmp_path):
    model = tiny_model()
    assert load_finished(model, TRAIN, SETTINGS, tmp_path) is None
    train(model, TRAIN, VALIDATION, SETTINGS, PAD, tmp_path, watch=interrupt_at(6))
    assert load_finished(tiny_model(), TRAIN, SETTINGS, tmp_path) is None
    history = train(model, TRAIN, VALIDATION, SETTINGS, PAD, tmp_path)

    again = tiny_model()
    other = dataclasses.replace(SETTINGS, seed=1)
    assert load_finished(again, TRAIN, other, tmp_path) is None
    assert load_finished(again, TRAIN[1:], SETTINGS, tmp_path) is None
    assert all(torch.equal(weights(tiny_model())[name], p) for name, p in weights(again).items())
    assert load_finished(again, TRAIN, SETTINGS, tmp_path) == history
    assert all(torch.equal(weights(model)[name], p) for name, p in weights(again).items())

    # Trained anew and stopped early: its weights must not pass for those of the finished run.
    train(tiny_model(), TRAIN, VALIDATION, SETTINGS, PAD, tmp_path, watch=interrupt_at(2))
    assert load_finished(tiny_model(), TRAIN, SETTINGS, tmp_path) is None
    train(tiny_model(), TRAIN, VALIDATION, SETTINGS, PAD, tmp_path)
    assert load_finished(again, TRAIN, SETTINGS, tmp_path).validations

    damaged = tmp_path / "best.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    assert load_finished(tiny_model(), TRAIN, SETTINGS, tmp_path) is None


def test_a_checkpoint_of_another_run_is_not_used(tmp_path, capsys):
    train(tiny_model(), TRAIN, VALIDATION, SETTINGS, PAD, tmp_path, watch=interrupt_at(6))
    other = dataclasses.replace(SETTINGS, learning_rate=1e-3)
    history = train(tiny_model(), TRAIN, VALIDATION, other, PAD, tmp_path)
    assert "belongs to a run with other settings" in capsys.readouterr().out
    fresh = train(tiny_model(), TRAIN, VALIDATION, other, PAD, tmp_path / "fresh")
    assert losses(history) == losses(fresh)


def test_a_damaged_checkpoint_is_kept_aside(tmp_path, capsys):
    train(tiny_model(), TRAIN, VALIDATION, SETTINGS, PAD, tmp_path, watch=interrupt_at(6))
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    history = train(tiny_model(), TRAIN, VALIDATION, SETTINGS, PAD, tmp_path)
    assert history.stopped == "finished"
    assert "is damaged" in capsys.readouterr().out
    assert (tmp_path / "checkpoint.safetensors.damaged").exists()


def test_a_full_disk_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(training.shutil, "disk_usage", lambda _: type("U", (), {"free": 10}))
    model = tiny_model()
    before = weights(model)
    with pytest.raises(TrainingError, match=r"GB free.*COURSE_RUNS.*Nothing was trained"):
        train(model, TRAIN, VALIDATION, SETTINGS, PAD, tmp_path)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_a_folder_without_permission_is_refused_before_training(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder should be")
    with pytest.raises(TrainingError, match=r"cannot be written.*COURSE_RUNS"):
        train(tiny_model(), TRAIN, VALIDATION, SETTINGS, PAD, blocked / "run")


def test_a_write_that_fails_keeps_the_checkpoint_before_it(tmp_path, monkeypatch):
    real, checkpoints = training.save_file, []

    def fails_late(tensors, path, metadata):
        # Counted by checkpoints: how often the best weights are written depends on the losses.
        if path.stem == "checkpoint":
            checkpoints.append(path)
        if len(checkpoints) == 3:
            raise OSError("No space left on device")
        real(tensors, path, metadata=metadata)

    monkeypatch.setattr(training, "save_file", fails_late)
    with pytest.raises(TrainingError, match=r"No space left.*goes on from its last checkpoint"):
        train(tiny_model(), TRAIN, VALIDATION, SETTINGS, PAD, tmp_path)
    monkeypatch.setattr(training, "save_file", real)
    resumed = train(tiny_model(), TRAIN, VALIDATION, SETTINGS, PAD, tmp_path)
    whole = train(tiny_model(), TRAIN, VALIDATION, SETTINGS, PAD, tmp_path / "whole")
    assert losses(resumed) == losses(whole)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_leaves_the_weights_alone(bad):
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight[0] = bad
    before = copy.deepcopy(weights(model))
    optimizer = make_optimizer(model, SETTINGS)
    with pytest.raises(TrainingError, match="weights were left as they are"):
        training_step(model, optimizer, [pad_batch(TRAIN[:4], PAD)], clip=1.0)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name], equal_nan=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, change, message):
    with pytest.raises(TrainingError, match=message):
        train(
            tiny_model(), TRAIN, VALIDATION, dataclasses.replace(SETTINGS, **change), PAD, tmp_path
        )


def test_empty_sets_are_refused(tmp_path):
    with pytest.raises(TrainingError, match="training set is empty"):
        train(tiny_model(), [], VALIDATION, SETTINGS, PAD, tmp_path)
    with pytest.raises(TrainingError, match="validation set is empty"):
        train(tiny_model(), TRAIN, [], SETTINGS, PAD, tmp_path)
