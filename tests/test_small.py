"""Training in little memory: the same mathematics, and the machine's limits are recognised."""

import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM
from transformers.optimization import Adafactor

from helpers import machine, training
from helpers.encoding import pad_batch
from helpers.training import (
    TrainSettings,
    loss_sum,
    make_optimizer,
    small_step,
    train,
    training_memory,
)
from tests.processes import another_process, how_it_ended
from tests.test_unbreakable import (
    PAD,
    SETTINGS,
    TRAIN,
    VALIDATION,
    losses,
    one_thread,  # noqa: F401  a fixture
    same_bits,
    weights,
)
from tests.tiny import tiny_model

resource = pytest.importorskip("resource", reason="Windows knows no such limits")
SMALL = dataclasses.replace(SETTINGS, memory="small")
BATCH = pad_batch(TRAIN[:8], PAD)


def untied_model() -> LlamaForCausalLM:
    """Like the tiny model, with a head that has weights of its own."""
    torch.manual_seed(0)
    config = copy.deepcopy(tiny_model().config)
    config.tie_word_embeddings = False
    return LlamaForCausalLM(config)


BOTH = pytest.mark.parametrize("make", [tiny_model, untied_model], ids=["tied", "untied"])


def hooks(model) -> int:
    """How many hooks there are on the modules and weights of a model."""
    on_modules = sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for module in model.modules()
    )
    return on_modules + sum(
        len(parameter._post_accumulate_grad_hooks or ()) for parameter in model.parameters()
    )


@BOTH
@pytest.mark.parametrize("recomputed", [False, True])
def test_small_steps_are_those_of_adafactor_after_a_whole_backward_pass(make, recomputed):
    ours, theirs = make(), make()
    assert len(list(ours.parameters())) == 21 - (make is tiny_model)
    if recomputed:
        ours.gradient_checkpointing_enable({"use_reentrant": False})
    ours.train(), theirs.train()
    optimizer = make_optimizer(ours, SMALL)
    decay = {"weight_decay": SMALL.weight_decay}
    reference = Adafactor(
        [
            {"params": [p for p in theirs.parameters() if p.ndim > 1], **decay},
            {"params": [p for p in theirs.parameters() if p.ndim == 1]},
        ],
        lr=SMALL.learning_rate,
        scale_parameter=False,
        relative_step=False,
    )
    for start in (0, 8, 16):
        batch = pad_batch(TRAIN[start : start + 8], PAD)
        loss, norm = small_step(ours, optimizer, batch)

        reference.zero_grad()
        summed, count = loss_sum(theirs, batch)
        (summed / count).backward()
        gradients = [p.grad for p in theirs.parameters()]
        assert loss == pytest.approx(summed.item() / count, rel=1e-4)
        whole = math.sqrt(sum(gradient.norm().item() ** 2 for gradient in gradients))
        assert norm == pytest.approx(whole, rel=1e-3)
        reference.step()
        for name, parameter in theirs.named_parameters():
            torch.testing.assert_close(
                ours.get_parameter(name), parameter, atol=1e-4, rtol=1e-3, msg=name
            )
    assert not same_bits(weights(ours), weights(make()))


@BOTH
def test_a_small_step_moves_every_weight_and_leaves_nothing_behind(make):
    model = make().train()
    before = weights(model)
    small_step(model, make_optimizer(model, SMALL), BATCH)
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
        assert parameter.grad is None
    assert hooks(model) == 0


@pytest.mark.parametrize("broken", ["forward", "backward"])
def test_a_small_step_that_fails_leaves_no_hook(broken):
    model = tiny_model().train()

    def stop(*_):
        raise KeyboardInterrupt

    layer = model.model.layers[0].mlp.up_proj
    if broken == "forward":
        own = layer.register_forward_hook(stop)
    else:
        own = layer.weight.register_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        small_step(model, make_optimizer(model, SMALL), BATCH)
    own.remove()
    assert hooks(model) == 0
    assert all(parameter.grad is None for parameter in model.parameters())
    # As if nothing had been: the next step works.
    loss, norm = small_step(model, make_optimizer(model, SMALL), BATCH)
    assert math.isfinite(loss) and norm > 0


def interrupt_at(step):
    def watch(history):
        if len(history.steps) == step and history.stopped == "running":
            raise KeyboardInterrupt

    return watch


@BOTH
@pytest.mark.parametrize("step", [1, 3, 9])
def test_a_small_run_learns_and_an_interrupt_changes_no_bit(tmp_path, monkeypatch, make, step):
    monkeypatch.setattr(training, "TRAINING_PER_WRITING", 0)
    whole = make()
    reference = train(whole, TRAIN, VALIDATION, SMALL, PAD, tmp_path / "whole")
    first, *_, last = [look.loss for look in reference.validations]
    assert last < first - 0.5
    assert not whole.is_gradient_checkpointing and hooks(whole) == 0

    model = make()
    folder = tmp_path / "parts"
    partial = train(model, TRAIN, VALIDATION, SMALL, PAD, folder, watch=interrupt_at(step))
    assert partial.stopped == "interrupted" and len(partial.steps) == step
    assert not model.is_gradient_checkpointing and hooks(model) == 0

    model = make()
    resumed = train(model, TRAIN, VALIDATION, SMALL, PAD, folder)
    assert losses(resumed) == losses(reference)
    assert same_bits(weights(model), weights(whole))


def test_a_small_run_keeps_one_number_for_a_row_and_one_for_a_column():
    model = tiny_model().train()
    optimizer = make_optimizer(model, SMALL)
    small_step(model, optimizer, BATCH)
    for parameter, state in optimizer.state.items():
        numbers = sum(value.numel() for value in state.values() if torch.is_tensor(value))
        assert numbers <= sum(parameter.shape) + 2


@pytest.mark.parametrize("memory", ["normal", "small"])
def test_a_run_in_16_bits_is_near_that_in_32_and_a_small_one_is_always_in_32(tmp_path, memory):
    runs = []
    for precision in ("float32", "bfloat16"):
        settings = dataclasses.replace(SETTINGS, epochs=1, memory=memory, precision=precision)
        model = tiny_model()
        history = train(model, TRAIN, VALIDATION, settings, PAD, tmp_path / precision)
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
        runs.append(history)
    exact, rounded = runs
    assert (losses(exact) == losses(rounded)) == (memory == "small")
    for ours, theirs in zip(rounded.steps, exact.steps, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=0.05)
        assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=0.25)


# What the machine offers

GIGABYTE = 1_000_000_000


@pytest.fixture
def control_group(tmp_path, monkeypatch):
    """Lets a test write the limits that the system would show; here there are none else."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(
        machine.psutil, "virtual_memory", lambda: type("Memory", (), {"total": 64 * GIGABYTE})
    )
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)

    def limit(file: str, content: str) -> None:
        path = Path(tmp_path, file)
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)

    return limit


@pytest.mark.parametrize(
    ("file", "content", "usable"),
    [
        ("memory.max", "2147483648\n", 2 * 2**30),
        ("memory.max", "max\n", 64 * GIGABYTE),
        ("memory.max", "", 64 * GIGABYTE),
        ("memory/memory.limit_in_bytes", "1500000000\n", 1_500_000_000),
        # What version 1 says when there is no limit.
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", 64 * GIGABYTE),
        ("other", "5", 64 * GIGABYTE),
    ],
)
def test_limits_of_the_control_group_are_seen(control_group, file, content, usable):
    control_group(file, content)
    assert machine.usable_memory() == usable


@pytest.mark.parametrize("kind", [resource.RLIMIT_AS, resource.RLIMIT_DATA])
def test_limits_of_the_process_are_seen(control_group, monkeypatch, kind):
    control_group("memory.max", str(5 * GIGABYTE))
    limits = {kind: (3 * GIGABYTE, resource.RLIM_INFINITY)}
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda asked: limits.get(asked, unlimited))
    assert machine.usable_memory() == 3 * GIGABYTE


def test_a_real_limit_of_a_process_is_seen():
    def limited():
        limit = 3 * GIGABYTE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        assert machine.usable_memory() <= limit
        assert TrainSettings().memory == "small"

    assert how_it_ended(another_process(limited)) == 0


@pytest.mark.parametrize(
    ("limit", "mode"),
    [(4 * GIGABYTE, "normal"), (4 * GIGABYTE - 1, "small"), (2 * 2**30, "small")],
)
def test_settings_choose_the_small_mode_below_4_gigabytes(control_group, limit, mode):
    control_group("memory.max", str(limit))
    assert machine.memory_mode() == mode
    assert TrainSettings().memory == mode
    assert TrainSettings(memory="normal").memory == "normal"


@pytest.mark.parametrize(
    ("has", "precision"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bfloat16"),
        ({"avx512_f": True, "avx512_bf16": False}, "float32"),
        ({}, "float32"),
    ],
)
def test_the_precision_is_what_the_processor_has_instructions_for(monkeypatch, has, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert machine.native_precision() == TrainSettings().precision == precision
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert machine.native_precision() == "float32"


def test_peak_memory_grows_with_what_is_held_and_stays_when_it_is_freed():
    def holding():
        before = machine.peak_memory()
        block = torch.ones(250_000_000, dtype=torch.uint8)
        del block
        assert 200_000_000 < machine.peak_memory() - before < 400_000_000

    assert how_it_ended(another_process(holding)) == 0


def test_memory_is_given_back_to_the_system():
    def giving():
        process = machine.psutil.Process()
        # Too small for the C library to fetch each from the system, and to return it, by itself.
        blocks = [b"x" * 100_000 for _ in range(2_000)]
        # Every other one, so that what is free lies between what is not.
        del blocks[::2]
        held = process.memory_info().rss
        machine.give_memory_back()
        assert process.memory_info().rss < held - 60_000_000

    assert how_it_ended(another_process(giving)) == 0


@pytest.mark.skipif(not machine._GLIBC, reason="elsewhere nothing is done")
def test_memory_is_kept_inside_and_given_back_afterwards():
    def keeping():
        process = machine.psutil.Process()
        before = process.memory_info().rss
        with machine.keep_memory():
            block = torch.ones(200_000_000, dtype=torch.uint8)
            del block
            assert process.memory_info().rss > before + 190_000_000
        assert process.memory_info().rss < before + 50_000_000

    assert how_it_ended(another_process(keeping)) == 0


@BOTH
@pytest.mark.parametrize("memory", ["normal", "small"])
def test_arranging_memory_leaves_gradients_and_model_as_they_are(make, memory):
    def gradients():
        model.zero_grad()
        loss_sum(model, BATCH)[0].backward()
        return [parameter.grad for parameter in model.parameters()]

    model = make().train()
    before, plain = hooks(model), gradients()
    with training_memory(model, memory):
        arranged = gradients()
    for one, other in zip(arranged, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert hooks(model) == before
    assert not model.get_input_embeddings().sparse
    assert not model.is_gradient_checkpointing
