"""From examples to token ids: labels, the loss mask, and batches of similar length.

What this makes is what the libraries make: TRL's SFTTrainer gets the same ids from the same
prompts and completions, and transformers' Trainer takes the tokenized set as it is.
"""

import random
import re
from collections.abc import Mapping, Sequence

import torch
from datasets import Dataset, DatasetDict, Features, List, Value
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from helpers.errors import CourseError

# The label that PyTorch's cross-entropy skips (its default `ignore_index`).
IGNORE = -100
COLUMNS = Features({"input_ids": List(Value("int64")), "labels": List(Value("int64"))})


class TokenizeError(CourseError):
    """An example that cannot be turned into token ids without losing something."""


def separator(prompt: str) -> str:
    """What stands between a prompt and its answer: a space, unless white space is there."""
    return "" if prompt[-1:].isspace() else " "


def prompt_ids(
    prompt: str, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, chat: bool = False
) -> list[int]:
    """The token ids of a prompt, as the model reads it in training and when it has to answer.

    A BOS token stands first where the tokenizer adds one. For an encoder–decoder the end token
    follows. A special token that the prompt spells out, such as "<|im_end|>", stays ordinary text.

    chat: put the prompt into the tokenizer's chat template, as a user's message; a special token
        that it spells out stays text, so it cannot end that message.
    """
    if chat:
        return _chat_ids(prompt, tokenizer)
    # What the tokenizer itself puts around a text: BOS for Llama and Gemma, the end token for T5.
    bare = tokenizer("a", add_special_tokens=False).input_ids
    full = tokenizer("a").input_ids
    start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    end = full[start + len(bare) :] if config.is_encoder_decoder else []
    return full[:start] + _encode(prompt, tokenizer) + end


def completion_ids(completion: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids of a completion that follows a prompt, and the end token.

    Raises TokenizeError for a tokenizer without an end token.
    """
    if tokenizer.eos_token_id is None:
        raise TokenizeError(
            "The tokenizer has no end token, so the model could not learn where an answer ends. "
            "Name one that it knows: tokenizer.eos_token = ..."
        )
    return [*_continue(completion, tokenizer), tokenizer.eos_token_id]


def make_labels(prompt_ids: list[int], completion_ids: list[int]) -> list[int]:
    """The loss mask of an example: IGNORE over the prompt, the token's own id over the completion.

    completion_ids: with the end token. Labels are not shifted: the loss compares the prediction
    at position t with label t + 1.
    """
    return [IGNORE] * len(prompt_ids) + completion_ids


def tokenize(
    examples: Dataset | DatasetDict,
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    chat: bool = False,
) -> Dataset | DatasetDict:
    """Examples (columns prompt and completion) as token ids: input_ids and labels, nothing else.

    Prompt and completion are tokenized apart, so the prompt's ids are those that the model sees
    when it has to answer, and no token straddles the boundary. For a decoder-only model
    input_ids holds both, and labels are IGNORE over the prompt. An encoder–decoder reads the
    prompt (input_ids) and its labels are the completion alone.

    chat: see `prompt_ids`.
    Raises TokenizeError for an empty prompt or completion, and for an example that is longer than
    the model's window (`config.max_position_embeddings`, where there is one): none is ever cut.
    """
    if isinstance(examples, DatasetDict):
        parts = {name: tokenize(part, tokenizer, config, chat) for name, part in examples.items()}
        return DatasetDict(parts)
    columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for index, row in enumerate(examples):
        where = f"Row {row.get('row_id', index)!r}"
        prompt, completion = row["prompt"], row["completion"]
        for part, text in {"prompt": prompt, "completion": completion}.items():
            if not text.strip():
                raise TokenizeError(
                    f"{where} has an empty {part}: there is nothing to learn from it. Fill the "
                    f"column that the template's {part} names, or leave this row out."
                )
        if chat:
            # Its space was made for the bare prompt; a chat template may end in a line break.
            completion = separator(as_chat(prompt, tokenizer)) + completion.strip()
        asked = prompt_ids(prompt, tokenizer, config, chat)
        answered = completion_ids(completion, tokenizer)
        if problem := beyond_window(len(asked), len(answered), config):
            raise TokenizeError(
                f"{where} {problem}. Cutting it would silently cut labels away. Use a shorter "
                "template, shorten the text, or leave this row out."
            )
        if config.is_encoder_decoder:
            input_ids, labels = asked, answered
        else:
            input_ids, labels = asked + answered, make_labels(asked, answered)
        columns["input_ids"].append(input_ids)
        columns["labels"].append(labels)
    return Dataset.from_dict(columns, features=COLUMNS)


def beyond_window(prompt: int, answer: int, config: PreTrainedConfig) -> str:
    """What is wrong with so many tokens of prompt and answer, "" if they fit into the window.

    answer: with the end token. The window is `config.max_position_embeddings`, where there is one;
    an encoder and its decoder have one each.
    """
    window = getattr(config, "max_position_embeddings", None)
    needed = max(prompt, answer) if config.is_encoder_decoder else prompt + answer
    if not window or needed <= window:
        return ""
    return (
        f"needs {needed} tokens (prompt {prompt}, answer and end {answer}), but the context window "
        f"holds {window}"
    )


def as_chat(prompt: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The prompt as a user's message in the tokenizer's chat template, to look at.

    It ends where the assistant's answer begins. Token ids come from `prompt_ids` with chat=True.

    Raises TokenizeError: a tokenizer without a chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise TokenizeError(
            "This tokenizer has no chat template: its model was not tuned for chats. Use the "
            "prompt as it is, without chat=True."
        )
    message = {"role": "user", "content": prompt}
    return tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)


def check_tokenized(dataset: Dataset, vocabulary: int, encoder_decoder: bool = False) -> None:
    """Refuse a tokenized set from which a model with this vocabulary cannot learn.

    vocabulary: number of token ids that the model knows (rows of its embedding).
    Raises TokenizeError: not one label for each token (an encoder–decoder may have any number), a
    token id or a label that the model does not know, no labelled token. (Decoder-only: the first
    label does not count, since nothing stands before it from which it could be predicted.)
    """
    for index, row in enumerate(dataset):
        ids, labels = row["input_ids"], row["labels"]
        if len(labels) != len(ids) and not encoder_decoder:
            raise TokenizeError(
                f"The example at index {index} has {len(ids)} tokens and {len(labels)} labels. "
                f"Each token needs one label; {IGNORE} where the loss ignores the token."
            )
        strange = [i for i in ids if not 0 <= i < vocabulary]
        strange += [i for i in labels if not 0 <= i < vocabulary and i != IGNORE]
        if strange:
            raise TokenizeError(
                f"The example at index {index} has the token id {strange[0]}, but the model knows "
                f"only 0 to {vocabulary - 1}. It was tokenized for another model; tokenize it "
                "again with the tokenizer that was loaded with this model. If you have added "
                "tokens to the tokenizer, call model.resize_token_embeddings(len(tokenizer))."
            )
        if all(label == IGNORE for label in labels[0 if encoder_decoder else 1 :]):
            raise TokenizeError(
                f"The example at index {index} has no labelled token: all labels are {IGNORE}, so "
                "there is nothing to learn from it. Label its completion, or leave this row out."
            )


def collate(rows: Sequence[Mapping[str, list[int]]], pad_token_id: int) -> dict[str, Tensor]:
    """Stack tokenized examples into one rectangle, padded on the right.

    Returns int64 tensors of shape (batch, longest): input_ids (padded with `pad_token_id`),
    attention_mask (0 over padding) and labels (IGNORE over padding, whatever `pad_token_id` is).
    They equal what transformers' DataCollatorForSeq2Seq makes.
    """
    if pad_token_id is None:
        raise TokenizeError(
            "The tokenizer has no pad token. Before you make batches, say which one to use: "
            "tokenizer.pad_token = tokenizer.eos_token"
        )

    def stack(lists: list[list[int]], filler: int) -> Tensor:
        longest = max(map(len, lists))
        return torch.tensor([one + [filler] * (longest - len(one)) for one in lists]).long()

    ids = [row["input_ids"] for row in rows]
    return {
        "input_ids": stack(ids, pad_token_id),
        "attention_mask": stack([[1] * len(one) for one in ids], 0),
        "labels": stack([row["labels"] for row in rows], IGNORE),
    }


def length_grouped_batches(lengths: list[int], batch_size: int, seed: int) -> list[list[int]]:
    """Cut one epoch into batches of similar length; each index appears exactly once.

    The order is shuffled, cut into pools of eight batches, sorted by length within a pool, cut
    into batches, and the batches are shuffled: little padding, and still a new mixture each epoch.
    The same seed gives the same batches.
    """
    draw = random.Random(seed)
    order = list(range(len(lengths)))
    draw.shuffle(order)
    batches = []
    for start in range(0, len(order), 8 * batch_size):
        pool = sorted(order[start : start + 8 * batch_size], key=lambda i: lengths[i])
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    draw.shuffle(batches)
    return batches


def _encode(
    text: str, tokenizer: PreTrainedTokenizerBase, split_special_tokens: bool = True
) -> list[int]:
    """Token ids of a text. split_special_tokens: a special token that is spelled out stays text."""
    # verbose=False: whoever counts tokens says for themselves when there are too many.
    ids = tokenizer(
        text,
        add_special_tokens=False,
        split_special_tokens=split_special_tokens,
        verbose=False,
    ).input_ids
    # A Unigram tokenizer (T5) has its special tokens among its ordinary pieces too, so splitting
    # does not help: "</s>" is read as "< /s>".
    special = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    if split_special_tokens and not special.isdisjoint(ids):
        parted = _special_tokens(tokenizer).sub(lambda m: f"{m[0][0]} {m[0][1:]}", text)
        ids = tokenizer(parted, add_special_tokens=False).input_ids
    return ids


def _continue(
    text: str, tokenizer: PreTrainedTokenizerBase, split_special_tokens: bool = True
) -> list[int]:
    """Token ids of a text as the continuation of another text.

    Some tokenizers (Llama-2, T5) put a space before a text that stands alone, so it is read behind
    a line break, whose own tokens are taken away.
    """
    head = _encode("\n", tokenizer)
    ids = _encode(f"\n{text}", tokenizer, split_special_tokens)
    if ids[: len(head)] == head:
        return ids[len(head) :]
    return _encode(text, tokenizer, split_special_tokens)


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern:
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    tokens = {*tokenizer.all_special_tokens, *added}
    return re.compile(
        "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)"
    )  # (?!): no match


def _chat_ids(prompt: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a chat: the template's special tokens as such, those that the user spells out as text.

    A mark takes the place of each of the user's while the template is applied; its ids go in there.
    """
    spelled = _special_tokens(tokenizer)
    mark = next(char for char in map(chr, range(0xE000, 0xF8FF)) if char not in prompt)
    first, *pieces = as_chat(spelled.sub(mark, prompt), tokenizer).split(mark)
    ids = _encode(first, tokenizer, split_special_tokens=False)
    for token, piece in zip(spelled.findall(prompt), pieces, strict=True):
        ids += _continue(token, tokenizer)
        ids += _continue(piece, tokenizer, split_special_tokens=False)
    return ids
