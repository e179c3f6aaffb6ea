"""Encoding: supervised tokens are exactly the completion and its end; batches lose nothing."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from helpers.encoding import (
    IGNORE,
    Encoded,
    EncodingError,
    batches_by_length,
    check_encoded,
    encode,
    encode_all,
    joint,
    pad_batch,
)
from helpers.models import prepare_starting_model
from helpers.table import read_table
from helpers.templates import TEMPLATES, Example, as_chat, load_library, make_examples
from tests.refusals import refusal
from tests.tiny import REVIEWS, tiny_tokenizer

ROWS = [row for row in read_table(REVIEWS)[0] if row["review_headline"]]
LIBRARIES = sorted(TEMPLATES.glob("*.yaml"))


def real_tokenizer():
    return AutoTokenizer.from_pretrained(prepare_starting_model())


@pytest.mark.parametrize("make_tokenizer", [tiny_tokenizer, real_tokenizer])
@pytest.mark.parametrize("path", LIBRARIES, ids=lambda path: path.stem)
def test_supervised_tokens_are_the_completion_and_its_end_for_every_template_and_row(
    path, make_tokenizer
):
    tokenizer = make_tokenizer()
    for template in load_library(path).values():
        for example in make_examples(template, ROWS):
            encoded = encode(example, tokenizer, window=10_000)
            supervised = [label for label in encoded.labels if label != IGNORE]
            assert supervised[-1] == tokenizer.eos_token_id
            assert tokenizer.decode(supervised[:-1]) == " " + example.completion
            # They stand at the end, in one piece, each over its own token; all before is masked.
            start = len(encoded.labels) - len(supervised)
            assert encoded.labels[:start] == [IGNORE] * start
            assert encoded.labels[start:] == encoded.input_ids[start:]
            assert tokenizer.decode(encoded.input_ids[:start]) == example.prompt


def test_chat_prompts_end_in_white_space_and_get_no_second_space():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>\n{% endif %}"
    )
    example = as_chat(Example("How is it?", "good", "R1", ()), tokenizer)
    encoded = encode(example, tokenizer, window=1000)
    assert tokenizer.decode(encoded.input_ids).endswith("<assistant>\ngood<|end|>")
    assert joint("Rating:") == " "
    assert joint("assistant\n") == ""


@pytest.mark.parametrize("make_tokenizer", [tiny_tokenizer, real_tokenizer])
def test_an_end_token_that_is_spelled_out_in_a_completion_is_text(make_tokenizer):
    tokenizer = make_tokenizer()
    example = Example("Rating:", f"good {tokenizer.eos_token} bad", "R1", ())
    supervised = [one for one in encode(example, tokenizer, window=100).labels if one != IGNORE]
    assert supervised.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(supervised[:-1]) == " " + example.completion


@pytest.mark.parametrize("completion", ["", "  "])
def test_empty_completion_is_refused(completion):
    with pytest.raises(EncodingError, match=r"'R7' has an empty completion.*leave this row out"):
        encode(Example("Rating:", completion, "R7", ()), tiny_tokenizer(), window=100)


def test_labels_are_never_cut_away():
    example = Example("word " * 50 + "Rating:", "good", "R7", ())
    needed = len(encode(example, tiny_tokenizer(), window=1000).input_ids)
    assert len(encode(example, tiny_tokenizer(), window=needed).input_ids) == needed
    with pytest.raises(EncodingError, match=rf"'R7' needs {needed} tokens.*holds {needed - 1}"):
        encode(example, tiny_tokenizer(), window=needed - 1)


# Texts with line breaks, spelled-out tokens, emoji, combining marks, right-to-left letters.
_piece = st.sampled_from([*"a \n|<>\u0301\u05d0\U0001f600", "<|end|>", "<|start|>", "good"])
_text = st.one_of(st.text(max_size=60), st.lists(_piece, max_size=20).map("".join))


@given(_text, _text.map(str.strip).filter(bool))
def test_any_example_is_masked_on_its_prompt_and_supervised_on_the_rest(prompt, completion):
    tokenizer = tiny_tokenizer()
    encoded = encode(Example(prompt, completion, "R1", ()), tokenizer, window=1000)
    start = len(tokenizer(prompt, add_special_tokens=False).input_ids)
    assert encoded.input_ids[:start] == tokenizer(prompt, add_special_tokens=False).input_ids
    assert encoded.labels == [IGNORE] * start + encoded.input_ids[start:]
    assert encoded.labels[-1] == tokenizer.eos_token_id
    assert encoded.labels.count(tokenizer.eos_token_id) == 1
    text = tokenizer.decode(encoded.input_ids[start:-1])
    assert text == joint(prompt) + completion
    check_encoded([encoded], len(tokenizer))


_encoded = st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=30).map(
    lambda tokens: Encoded([t for t, _ in tokens], [t if on else IGNORE for t, on in tokens])
)


@given(st.lists(_encoded, min_size=1, max_size=8), st.integers(0, 9))
def test_a_batch_loses_nothing_and_adds_nothing_that_counts(encoded, pad_id):
    batch = pad_batch(encoded, pad_id)
    assert {one.dtype for one in batch.values()} == {torch.int64}
    for row, one in enumerate(encoded):
        n = len(one.input_ids)
        assert batch["attention_mask"][row].tolist() == [1] * n + [0] * (
            batch["input_ids"].shape[1] - n
        )
        assert batch["input_ids"][row, :n].tolist() == one.input_ids
        assert batch["labels"][row, :n].tolist() == one.labels
        assert (batch["input_ids"][row, n:] == pad_id).all()
        assert (batch["labels"][row, n:] == IGNORE).all()


refused = partial(refusal, EncodingError)
GOOD = Encoded([5, 6, 7], [IGNORE, 6, 7])


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Encoded([5, 6], [IGNORE, IGNORE]), ("no label that counts", "Mask the prompt only")),
        (Encoded([5, 6], [5, IGNORE]), ("no label that counts",)),
        (Encoded([5], [5]), ("no label that counts",)),
        (Encoded([], []), ("no label that counts",)),
        (Encoded([5, 10], [IGNORE, 10]), ("token id 10", "0 to 9", "another model")),
        (Encoded([-1, 6], [IGNORE, 6]), ("token id -1", "0 to 9")),
        (Encoded([5, 6], [IGNORE, 10]), ("token id 10",)),
        (Encoded([5, 6], [IGNORE, -1]), ("token id -1",)),
        (Encoded([5, 6], [6]), ("2 tokens and 1 labels", "one label")),
    ],
)
def test_examples_that_cannot_be_learned_from(bad, words):
    check_encoded([GOOD, GOOD], 10)
    refused(lambda: check_encoded([GOOD, GOOD, bad], 10), "index 2", *words)


def test_padding_is_masked_even_where_pad_is_the_end_token():
    examples = [Example("a b c d e f g Rating:", "good", "R1", ()), Example("x:", "bad", "R2", ())]
    encoded = encode_all(examples, tiny_tokenizer(), window=100)
    batch = pad_batch(encoded, pad_id=tiny_tokenizer().eos_token_id)
    long, short = (len(one.input_ids) for one in encoded)
    assert batch["input_ids"].shape == batch["labels"].shape == (2, long)
    assert batch["input_ids"].dtype == torch.int64
    assert batch["attention_mask"].sum(1).tolist() == [long, short]
    assert (batch["labels"][1, short:] == IGNORE).all()
    # One end token is supervised in each row: the real one.
    assert (batch["labels"] == tiny_tokenizer().eos_token_id).sum(1).tolist() == [1, 1]


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=200),
    st.integers(1, 16),
    st.integers(0, 1000),
)
def test_an_epoch_has_every_example_once(lengths, batch_size, seed):
    batches = batches_by_length(lengths, batch_size, seed)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    # Only the last pool may end in a batch that is not full.
    assert sum(len(batch) < batch_size for batch in batches) <= 1
    assert batches == batches_by_length(lengths, batch_size, seed)


def test_batches_by_length_save_padding_and_differ_between_epochs():
    lengths = [(i * 37) % 100 + 1 for i in range(256)]

    def padded(batches):
        return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)

    in_order = [list(range(i, i + 8)) for i in range(0, 256, 8)]
    ours = batches_by_length(lengths, 8, seed=1)
    assert padded(ours) - sum(lengths) < 0.3 * (padded(in_order) - sum(lengths))
    assert ours != batches_by_length(lengths, 8, seed=2)


def test_pad_batch_is_what_transformers_collator_makes():
    from transformers import DataCollatorForSeq2Seq

    encoded = [Encoded([5, 6, 7], [IGNORE, 6, 7]), Encoded([8], [8])]
    collate = DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=IGNORE)
    features = [
        {"input_ids": e.input_ids, "labels": e.labels, "attention_mask": [1] * len(e.input_ids)}
        for e in encoded
    ]
    theirs = collate(features)
    ours = pad_batch(encoded, pad_id=tiny_tokenizer().pad_token_id)
    for name in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(ours[name], torch.as_tensor(theirs[name]))
