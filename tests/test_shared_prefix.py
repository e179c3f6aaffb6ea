"""Reading what all rows begin with only once: the same losses and gradients, for less work."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from helpers.encoding import IGNORE, Encoded, pad_batch
from helpers.shared_prefix import SHORT_ROW, hidden_after, shared_length
from helpers.training import loss_sum, training_memory
from tests.tiny import tiny_model

PAD = 1
TOKEN = st.integers(2, 599)


@st.composite
def batches(draw):
    """Rows that begin with the same 0 to 12 tokens; their rests may begin alike as well."""
    shared = draw(st.lists(TOKEN, max_size=12))
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        rest = draw(st.lists(st.integers(2, 4) | TOKEN, min_size=2, max_size=12))
        counted = draw(st.integers(1, len(rest) - 1))
        ids = [*shared, *rest]
        rows.append(Encoded(ids, [IGNORE] * (len(ids) - counted) + rest[-counted:]))
    return pad_batch(rows, PAD)


def batch_of(*rows: list[int], prompt: int) -> dict[str, torch.Tensor]:
    """Rows with labels that count after the first `prompt` tokens."""
    return pad_batch([Encoded(ids, [IGNORE] * prompt + ids[prompt:]) for ids in rows], PAD)


def gradient(model, loss) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@given(batches())
def test_losses_and_gradients_equal_those_of_whole_rows(batch):
    model = tiny_model()
    summed, count = loss_sum(model, batch)
    reference = copy.deepcopy(model)
    reference.set_attn_implementation("eager")
    mean = reference(**batch).loss  # transformers' own: every row whole, every token scored
    torch.testing.assert_close(summed / count, mean, atol=1e-5, rtol=1e-4)
    ours, theirs = gradient(model, summed / count), gradient(reference, mean)
    assert (ours - theirs).norm() <= 1e-4 * theirs.norm() + 1e-6


def test_as_with_recomputed_activations():
    batch = batch_of([*range(10, 30), 5, 6, 7], [*range(10, 30), 8, 9, 2, 4], prompt=21)
    model = tiny_model()
    plain = gradient(model, loss_sum(model, batch)[0])
    model.train()
    with training_memory(model, "small"):
        again = gradient(model, loss_sum(model, batch)[0])
    torch.testing.assert_close(again, plain, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (batch_of([5, 6, 7, 8], [5, 6, 9, 8], prompt=3), 2),
        (batch_of([5, 6, 7, 8], [4, 6, 7, 8], prompt=3), 0),
        # Place 1 predicts a label that counts, so each row needs its own hidden vector there.
        (batch_of([5, 6, 7, 8], [5, 6, 7, 9], prompt=2), 1),
        # The filling of a short row is no beginning, though another row has the same token there.
        (batch_of([5, 6, 8], [5, 6, 8, 1, 9], prompt=2), 1),
        # A single row is all its own beginning, up to the first prediction that counts.
        (batch_of([5, 6, 7, 8], prompt=3), 2),
        # Nothing counts: the last place stays out even so.
        (batch_of([5, 6, 7], [5, 6, 7], prompt=3), 2),
    ],
)
def test_the_shared_beginning_ends_where_rows_part_or_labels_count(batch, expected):
    assert shared_length(batch) == expected


def test_the_beginning_passes_the_layers_once():
    model, seen = tiny_model(), []
    for layer in model.base_model.layers:
        layer.mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[:-1]))
    loss_sum(model, batch_of([*range(10, 30), 5], [*range(10, 29), 6, 7], prompt=20))
    # 19 tokens once, and of each row the 2 that are left.
    assert [shape.numel() for shape in seen] == [19 + 2 * 2] * len(model.base_model.layers)


def test_16_bits_differ_by_their_rounding_only():
    torch.manual_seed(0)
    start = list(range(10, 40))
    rows = [start + torch.randint(2, 600, (20,)).tolist() for _ in range(4)]
    long = [start + torch.randint(2, 600, (SHORT_ROW + 5,)).tolist() for _ in range(2)]
    for batch in (batch_of(*rows, prompt=45), batch_of(*long, prompt=160)):
        model = tiny_model()
        exact = gradient(model, loss_sum(model, batch)[0])
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_sum(model, batch)[0]
        rounded = gradient(model, loss)
        model.set_attn_implementation("eager")
        with torch.autocast("cpu", torch.bfloat16):
            theirs = gradient(model, model(**batch).loss * (batch["labels"] != IGNORE).sum())
        # Not farther from 32 bits than transformers' own 16 bits, give or take.
        assert 0 < (rounded - exact).norm() < 1.5 * (theirs - exact).norm()


def test_all_else_that_the_model_does_stays_the_same():
    model, untouched = tiny_model(), tiny_model()
    loss_sum(model, batch_of([5, 6, 7, 8], [5, 6, 9, 8], prompt=3))
    ids = torch.randint(2, 600, (3, 9))
    mask = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 1]]).repeat_interleave(3, 1)
    for asked in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": mask}):
        assert torch.equal(model(**asked).logits, untouched(**asked).logits)
        said = [one.generate(**asked, max_new_tokens=5) for one in (model, untouched)]
        assert torch.equal(*said)


def test_dropout_is_drawn_where_it_is_asked_for():
    model = tiny_model()
    model.config.attention_dropout = 0.5
    for layer in model.base_model.layers:
        layer.self_attn.attention_dropout = 0.5
    batch = batch_of([*range(10, 20), 5], [*range(10, 19), 6, 7], prompt=10)
    for precision in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            still = {loss_sum(model.eval(), batch)[0].item() for _ in range(4)}
            drawn = {loss_sum(model.train(), batch)[0].item() for _ in range(4)}
        assert len(still) == 1 and len(drawn) == 4


def test_another_architecture_reads_whole_rows():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=600, n_positions=64, n_embd=32, n_layer=2, n_head=2)
    ).eval()
    batch = batch_of([5, 6, 7, 8], [5, 6, 9, 8, 4], prompt=3)
    hidden = hidden_after(model, batch["input_ids"], 2)
    assert hidden.shape == (2, 3, 32)
    summed, count = loss_sum(model, batch)
    torch.testing.assert_close(summed / count, model(**batch).loss)
