"""The loss against transformers' own, for every family; and of whole sets."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    DataCollatorForSeq2Seq,
    GraniteConfig,
    MambaConfig,
)

from helpers.data.tokenize import IGNORE
from helpers.training import loss, shared_prefix
from helpers.training.loss import (
    LABELLED_AT_ONCE,
    TOKENS_AT_ONCE,
    evaluate_loss,
    evaluation_mode,
    loss_of_each,
    loss_sum,
    per_token_loss,
)
from helpers.training.low_memory import training_memory
from helpers.training.settings import TrainingError
from helpers.training.shared_prefix import (
    SHORT_ROW,
    can_share,
    hidden_states_after_prefix,
    in_one_line,
    shared_length,
)
from tests.families import ENCODER_DECODERS, FAMILIES, family_model
from tests.made_up import BATCH, COLLATE, PAD, VALIDATION, made_up
from tests.tiny import tiny_model, tiny_tokenizer

SIZES = {"vocab_size": 600, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.3}
HEADS = {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
# Heads that scale; attention without positions; no attention at all.
OTHERS = {
    "granite": GraniteConfig(**SIZES, **HEADS, logits_scaling=6.0),
    "cohere": CohereConfig(**SIZES, **HEADS, logit_scale=0.06),
    "bloom": BloomConfig(vocab_size=600, hidden_size=32, n_layer=2, n_head=4),
    "mamba": MambaConfig(**SIZES, state_size=4),
}


def model_of(name: str):
    if name in FAMILIES:
        return family_model(name)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(OTHERS[name]).eval()


def gradient(model, loss) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
def test_loss_and_gradient_are_those_of_transformers(name):
    model = model_of(name)
    rows = made_up(4, seed=3, instruction=5, apart=name in ENCODER_DECODERS)
    batch = COLLATE(rows)
    summed, count = loss_sum(model, batch)
    assert count == sum(label != IGNORE for row in rows for label in row["labels"])
    ours = gradient(model, summed / count)
    reference = model(**batch).loss  # the mean over labelled tokens
    torch.testing.assert_close(summed / count, reference, atol=1e-5, rtol=1e-5)
    theirs = gradient(model, reference)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_padding_on_the_left_is_masked(name):
    model, tokenizer = model_of(name), copy.deepcopy(tiny_tokenizer())
    tokenizer.padding_side = "left"
    batch = DataCollatorForSeq2Seq(tokenizer)(copy.deepcopy(VALIDATION[:4]))
    assert not batch["attention_mask"].all()
    summed, count = loss_sum(model, batch)
    alone = [loss_sum(model, COLLATE([row])) for row in VALIDATION[:4]]
    assert count == sum(labelled for _, labelled in alone)
    torch.testing.assert_close(summed, sum(one for one, _ in alone), atol=1e-4, rtol=1e-5)


def test_each_labelled_token_has_its_loss():
    model = tiny_model()
    losses, labelled = per_token_loss(model, BATCH)
    expected = BATCH["labels"] != IGNORE
    assert torch.equal(labelled, expected)
    all_logits = model(**BATCH).logits[:, :-1].log_softmax(-1)
    targets = BATCH["input_ids"][:, 1:]
    whole = -all_logits.gather(2, targets[..., None])[..., 0]
    torch.testing.assert_close(losses, whole[expected[:, 1:]], atol=1e-4, rtol=1e-4)


def test_the_first_token_is_never_labelled_where_nothing_stands_before_it():
    ids = torch.tensor([[5, 6, 7]])
    _, labelled = per_token_loss(tiny_model(), {"input_ids": ids, "labels": ids.clone()})
    assert labelled.tolist() == [[False, True, True]]


# Whole sets


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "flan_t5"])
def test_the_loss_of_a_set_counts_tokens_and_not_batches(name):
    model, rows = model_of(name), made_up(12, seed=1, apart=name in ENCODER_DECODERS)
    reference = model(**COLLATE(rows)).loss.item()
    for batch_size in (1, 5, 100):
        assert evaluate_loss(model, rows, COLLATE, batch_size) == pytest.approx(reference, rel=1e-5)
    each = loss_of_each(model, rows, COLLATE)
    alone = [model(**COLLATE([row])).loss.item() for row in rows]
    assert each == pytest.approx(alone, rel=1e-4)
    assert max(alone) > min(alone)


def test_a_process_without_rows_adds_a_loss_of_zero_and_keeps_the_sum_exact(monkeypatch):
    monkeypatch.setattr(loss, "share_of_process", lambda rows: [])
    others = (37.93, 4)
    summed = lambda *own: tuple(type(a)(b) for a, b in zip(own, others, strict=True))  # noqa: E731
    monkeypatch.setattr(loss, "total_of", summed)
    assert evaluate_loss(tiny_model(), VALIDATION, COLLATE) == pytest.approx(37.93 / 4)


def test_nothing_is_dropped_in_an_evaluation_and_the_model_stays_in_its_mode():
    model = family_model("gpt2")  # with dropout
    expected = evaluate_loss(model.eval(), VALIDATION, COLLATE)
    assert not model.training
    assert evaluate_loss(model.train(), VALIDATION, COLLATE) == expected
    assert model.training
    with evaluation_mode(model):
        assert not model.training and not torch.is_grad_enabled()
    assert model.training and torch.is_grad_enabled()


def test_a_set_is_scored_in_the_precision_that_is_asked_for():
    model = tiny_model()
    exact = evaluate_loss(model, VALIDATION, COLLATE)
    rounded = evaluate_loss(model, VALIDATION, COLLATE, precision="bfloat16")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        summed, count = loss_sum(model, COLLATE(VALIDATION))
    assert rounded != exact
    assert rounded == pytest.approx((summed / count).item(), rel=1e-2)
    assert rounded == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("length", [50, 1000, 5000])
def test_long_rows_are_read_few_at_a_time(length):
    rows = [{"input_ids": [7] * length, "labels": [IGNORE] * (length - 2) + [7, 8]}] * 20
    assert most_read(rows) == max(length, min(16, TOKENS_AT_ONCE // length) * length)


def most_read(rows) -> int:
    """Most tokens that an evaluation of these rows hands to the model at once."""
    read = []

    class Stop(torch.nn.Module):
        config = tiny_model().config
        device = torch.device("cpu")

    def loss(model, batch):
        read.append(batch["input_ids"].numel())
        labelled = batch["labels"] != IGNORE
        return torch.zeros(int(labelled.sum())), labelled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("helpers.training.loss.per_token_loss", loss)
        evaluate_loss(Stop(), rows, COLLATE)
    assert sum(read) == sum(len(row["input_ids"]) for row in rows)
    return max(read)


def test_rows_with_many_labels_are_read_few_at_a_time():
    rows = [{"input_ids": [7] * 300, "labels": [7] * 300}] * 20
    assert most_read(rows) == LABELLED_AT_ONCE // 300 * 300


def test_a_set_without_labels_has_no_loss():
    with pytest.raises(TrainingError, match="no labelled token"):
        evaluate_loss(tiny_model(), [{"input_ids": [5, 6], "labels": [IGNORE] * 2}], COLLATE)


# The shared prefix

TOKEN = st.integers(2, 599)


@st.composite
def batches(draw):
    """Rows that begin with the same 0 to 12 tokens; their rests may begin alike as well."""
    shared = draw(st.lists(TOKEN, max_size=12))
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        rest = draw(st.lists(st.integers(2, 4) | TOKEN, min_size=2, max_size=12))
        labelled = draw(st.integers(1, len(rest) - 1))
        ids = [*shared, *rest]
        labels = [IGNORE] * (len(ids) - labelled) + rest[-labelled:]
        rows.append({"input_ids": ids, "labels": labels})
    return COLLATE(rows)


def batch_of(*rows: list[int], prompt: int) -> dict[str, torch.Tensor]:
    """Rows with labels after the first `prompt` tokens."""
    return COLLATE([{"input_ids": i, "labels": [IGNORE] * prompt + i[prompt:]} for i in rows])


@given(batches())
def test_a_prefix_that_is_read_once_changes_no_loss_and_no_gradient(batch):
    model = tiny_model()
    assert can_share(model)
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
    with training_memory(model, low_memory=True):
        again = gradient(model, loss_sum(model, batch)[0])
    torch.testing.assert_close(again, plain, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (batch_of([5, 6, 7, 8], [5, 6, 9, 8], prompt=3), 2),
        (batch_of([5, 6, 7, 8], [4, 6, 7, 8], prompt=3), 0),
        # Position 1 predicts a labelled token, so each row needs its own hidden state there.
        (batch_of([5, 6, 7, 8], [5, 6, 7, 9], prompt=2), 1),
        # The padding of a short row is no prefix, though another row has the same token there.
        (batch_of([5, 6, 8], [5, 6, 8, PAD, 9], prompt=2), 1),
        # A single row is all its own prefix, up to the first prediction of a labelled token.
        (batch_of([5, 6, 7, 8], prompt=3), 2),
        # The last position predicts nothing, and stays.
        (batch_of([5, 6], [5, 6], prompt=2), 1),
    ],
)
def test_the_prefix_ends_where_rows_differ_or_a_labelled_token_is_predicted(batch, expected):
    assert shared_length(batch) == expected


def test_the_model_is_handed_the_prefix_once():
    batch = batch_of([5, 6, 7, 8], [5, 6, 9, 8, 4], prompt=3)
    line = in_one_line(batch["input_ids"], 2)
    assert line["input_ids"].tolist() == [[5, 6, 7, 8, PAD, 9, 8, 4]]
    assert line["position_ids"].tolist() == [[0, 1, 2, 3, 4, 2, 3, 4]]
    model = tiny_model()
    whole = model.base_model(input_ids=batch["input_ids"]).last_hidden_state
    after = hidden_states_after_prefix(model, batch["input_ids"], 2)
    torch.testing.assert_close(after, whole[:, 2:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("length", [20, SHORT_ROW + 40])
def test_in_16_bits_it_is_no_further_from_32_than_transformers(length):
    for seed in range(3):
        model = tiny_model(seed)
        draw = torch.Generator().manual_seed(seed)
        rest = torch.randint(2, 600, (4, length), generator=draw).tolist()
        batch = batch_of(*([*range(10, 30), *row] for row in rest), prompt=18 + length)
        exact = gradient(model, loss_sum(model, batch)[0])
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_sum(model, batch)[0]
        rounded = gradient(model, loss)
        model.set_attn_implementation("eager")
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch).loss * (batch["labels"] != IGNORE).sum()
        theirs = gradient(model, loss)
        assert 0 < (rounded - exact).norm() < 1.5 * (theirs - exact).norm()


def test_all_else_that_the_model_does_stays_the_same(tmp_path):
    model, plain = tiny_model(), tiny_model()
    before = model.config.to_dict()
    loss_sum(model, batch_of([5, 6, 7, 8], [5, 6, 9, 8], prompt=3))
    assert model.config._attn_implementation == "sdpa" and model.config.to_dict() == before
    model.save_pretrained(tmp_path)
    assert shared_prefix.__name__.rpartition(".")[2] not in (tmp_path / "config.json").read_text()
    plain.set_attn_implementation("eager")
    ids = torch.randint(2, 600, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 1]]).repeat_interleave(3, 1)
    for asked in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": mask}):
        real = asked.get("attention_mask", torch.ones_like(ids)).bool()
        ours, theirs = (one(**asked).logits[real] for one in (model, plain))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
        said = [one.generate(**asked, max_new_tokens=5) for one in (model, plain)]
        assert torch.equal(*said)


def test_with_dropout_something_is_drawn():
    model = tiny_model()
    for layer in model.base_model.layers:
        layer.self_attn.attention_dropout = 0.5
    batch = batch_of([*range(10, 20), 5], [*range(10, 19), 6, 7], prompt=10)
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            still = {loss_sum(model.eval(), batch)[0].item() for _ in range(4)}
            drawn = {loss_sum(model.train(), batch)[0].item() for _ in range(4)}
        assert len(still) == 1 and len(drawn) == 4
