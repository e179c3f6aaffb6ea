"""Training in little memory: the same mathematics, and nothing left behind in the model."""

import dataclasses
import gc
import math
import warnings
from contextlib import nullcontext

import pytest
import torch
from transformers import LlamaForCausalLM
from transformers.optimization import Adafactor

from helpers import machine
from helpers.training import checkpoint, low_memory
from helpers.training.loop import make_optimizer, train
from helpers.training.loss import loss_sum
from helpers.training.low_memory import low_memory_step, training_memory
from helpers.training.settings import TrainingError, TrainSettings
from tests.made_up import (
    BATCH,
    COLLATE,
    SETTINGS,
    TRAIN,
    VALIDATION,
    as_it_was,
    hooks,
    interrupt_at,
    losses,
    same_bits,
    weights,
)
from tests.processes import another_process, how_it_ended
from tests.tiny import tiny_model

LOW = dataclasses.replace(SETTINGS, low_memory=True)


def untied_model() -> LlamaForCausalLM:
    """Like the tiny model, with a head that has weights of its own."""
    config = tiny_model().config
    config.tie_word_embeddings = False
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def padded_model() -> LlamaForCausalLM:
    """The tiny model with a token whose look-ups learn nothing; it stands in the batches."""
    config = tiny_model().config
    config.pad_token_id = TRAIN[0]["input_ids"][0]
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


BOTH = pytest.mark.parametrize("make", [tiny_model, untied_model], ids=["tied", "untied"])
MAKES = [tiny_model, untied_model, padded_model]


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("recomputed", [False, True])
def test_low_memory_steps_are_those_of_adafactor_after_a_whole_backward_pass(make, recomputed):
    ours, theirs = make().train(), make().train()
    assert len(list(ours.parameters())) == 20 + (make is untied_model)
    optimizer = make_optimizer(ours, LOW)
    decay = {"weight_decay": LOW.weight_decay}
    reference = Adafactor(
        [
            {"params": [p for p in theirs.parameters() if p.ndim > 1], **decay},
            {"params": [p for p in theirs.parameters() if p.ndim == 1]},
        ],
        lr=LOW.learning_rate,
        scale_parameter=False,
        relative_step=False,
    )
    with training_memory(ours, low_memory=recomputed):
        for start in (0, 8, 16):
            batch = COLLATE(TRAIN[start : start + 8])
            loss, norm = low_memory_step(ours, optimizer, batch)
            reference.zero_grad()
            mean = theirs(**batch).loss
            mean.backward()
            assert loss == pytest.approx(mean.item(), rel=1e-4)
            norms = [p.grad.norm().item() for p in theirs.parameters()]
            assert norm == pytest.approx(math.hypot(*norms), rel=1e-3)
            reference.step()
            for name, parameter in theirs.named_parameters():
                torch.testing.assert_close(
                    ours.get_parameter(name), parameter, atol=1e-4, rtol=1e-3, msg=name
                )
    assert not same_bits(weights(ours), weights(make()))


def test_adafactor_makes_the_same_steps_as_that_of_transformers_to_the_bit():
    torch.manual_seed(0)
    start = [torch.randn(5, 7), torch.randn(2, 3, 4), torch.randn(6)]
    both = [[torch.nn.Parameter(one.clone()) for one in start] for _ in range(2)]
    absolute = {"scale_parameter": False, "relative_step": False}
    optimizers = [
        low_memory.Adafactor([{"params": both[0], "weight_decay": 0.1}], lr=0.01),
        Adafactor(both[1], lr=0.01, weight_decay=0.1, **absolute),
    ]
    for size in (1.0, 1e-3, 30.0):
        for pair in zip(*both, strict=True):
            gradient = size * torch.randn(pair[0].shape)
            for one in pair:
                one.grad = gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert all(torch.equal(*pair) for pair in zip(*both, strict=True))


def test_adafactor_makes_the_same_steps_of_a_matrix_in_parts(monkeypatch):
    torch.manual_seed(0)
    start, gradients = torch.randn(5, 7), torch.randn(3, 5, 7)

    def stepped(rows_at_once: int) -> torch.Tensor:
        monkeypatch.setattr(low_memory, "SQUARED_AT_ONCE", rows_at_once)
        parameter = torch.nn.Parameter(start.clone())
        optimizer = low_memory.Adafactor([{"params": [parameter]}], lr=0.01)
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        return parameter.detach()

    torch.testing.assert_close(stepped(2), stepped(5))


def test_the_optimizer_sees_one_gradient_at_a_time_and_that_of_a_shared_table_last():
    model, seen = tiny_model().train(), []
    optimizer = make_optimizer(model, LOW)
    optimizer.register_step_pre_hook(
        lambda *_: seen.append([n for n, p in model.named_parameters() if p.grad is not None])
    )
    with training_memory(model, low_memory=True):
        low_memory_step(model, optimizer, BATCH)
    assert sorted(seen) == sorted([name] for name, _ in model.named_parameters())
    assert seen[-1] == ["model.embed_tokens.weight"]


def test_a_low_memory_step_leaves_no_tensor_behind():
    model, left = tiny_model().train(), []
    optimizer = make_optimizer(model, LOW)
    with training_memory(model, low_memory=True):
        for _ in range(3):
            low_memory_step(model, optimizer, BATCH)
            gc.collect()  # finds no circle that leads through a graph of PyTorch's
            left.append(sum(type(one) is torch.Tensor for one in gc.get_objects()))
    assert left[1:] == left[:-1]


@BOTH
def test_a_low_memory_step_moves_every_weight_and_keeps_a_number_for_a_row_and_a_column(make):
    model = make().train()
    before, optimizer = weights(model), make_optimizer(model, LOW)
    low_memory_step(model, optimizer, BATCH)
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
        assert parameter.grad is None
        state = optimizer.state[parameter].values()
        numbers = sum(value.numel() for value in state if torch.is_tensor(value))
        assert numbers <= sum(parameter.shape) + 2
    assert hooks(model) == 0


@pytest.mark.parametrize("arranged", [False, True])
@pytest.mark.parametrize("broken", ["forward", "backward"])
def test_a_low_memory_step_that_fails_leaves_no_hook(broken, arranged):
    model = tiny_model().train()

    def stop(*_):
        raise KeyboardInterrupt

    layer = model.model.layers[0].mlp.up_proj
    if broken == "forward":
        own = layer.register_forward_hook(stop)
    else:
        own = layer.weight.register_hook(stop)
    with training_memory(model, True) if arranged else nullcontext():
        with pytest.raises(KeyboardInterrupt):
            low_memory_step(model, make_optimizer(model, LOW), BATCH)
    own.remove()
    assert hooks(model) == 0
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    # As if nothing had been: the next step works.
    loss, norm = low_memory_step(model, make_optimizer(model, LOW), BATCH)
    assert math.isfinite(loss) and norm > 0


def test_a_gradient_that_is_not_finite_is_told_with_what_has_changed():
    model = tiny_model()
    model.model.layers[0].mlp.up_proj.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match="have already changed.*load the model again"):
        low_memory_step(model, make_optimizer(model, LOW), BATCH)
    assert all(parameter.grad is None for parameter in model.parameters())


@BOTH
def test_a_low_memory_run_learns_and_an_interrupt_changes_no_bit(tmp_path, monkeypatch, make):
    monkeypatch.setattr(checkpoint, "TRAINING_PER_WRITING", 0)
    whole = make()
    reference = train(whole, TRAIN, VALIDATION, LOW, COLLATE, tmp_path / "whole")
    first, *_, last = [evaluation.loss for evaluation in reference.evaluations]
    assert last < first - 0.5
    assert as_it_was(whole)

    model, folder = make(), tmp_path / "parts"
    watch = interrupt_at(3)
    partial = train(model, TRAIN, VALIDATION, LOW, COLLATE, folder, watch=watch)
    assert partial.stopped == "interrupted" and len(partial.steps) == 3
    assert as_it_was(model)

    model = make()
    resumed = train(model, TRAIN, VALIDATION, LOW, COLLATE, folder)
    assert losses(resumed) == losses(reference)
    assert same_bits(weights(model), weights(whole))


def test_few_rows_are_evaluated_at_once(tmp_path):
    model, rows = tiny_model(), []
    model.lm_head.register_forward_hook(lambda *_: None if model.training else rows.append(1))
    train(model, TRAIN, VALIDATION, dataclasses.replace(LOW, epochs=1), COLLATE, tmp_path)
    assert len(rows) == 3 * len(VALIDATION) // 4


@BOTH
@pytest.mark.parametrize("low_memory", [False, True])
def test_arranging_memory_leaves_gradients_and_model_as_they_are(make, low_memory):
    def gradients():
        model.zero_grad()
        loss_sum(model, BATCH)[0].backward()
        return [parameter.grad for parameter in model.parameters()]

    model = make().train()
    plain = gradients()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no method that transformers will take away
        with training_memory(model, low_memory):
            arranged = gradients()
            assert model.get_input_embeddings().sparse == (make is tiny_model)
    for one, other in zip(arranged, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert as_it_was(model)


# What is chosen where


@pytest.mark.parametrize(("limit", "low"), [(4_000_000_000, False), (3_999_999_999, True)])
def test_settings_choose_low_memory_below_4_gigabytes(monkeypatch, limit, low):
    monkeypatch.setattr(machine, "usable_memory", lambda: limit)
    assert TrainSettings().low_memory == low
    assert not TrainSettings(low_memory=False).low_memory


def test_a_real_limit_of_a_process_is_seen():
    resource = pytest.importorskip("resource", reason="Windows knows no such limits")

    def limited():
        resource.setrlimit(resource.RLIMIT_AS, (3_000_000_000, 3_000_000_000))
        assert TrainSettings().low_memory

    assert how_it_ended(another_process(limited)) == 0


def test_little_memory_is_always_in_32_bits():
    assert TrainSettings(low_memory=True, precision="bfloat16").precision == "float32"
    assert TrainSettings(low_memory=False, precision="bfloat16").precision == "bfloat16"
