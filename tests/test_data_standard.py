"""What the course makes is what the libraries take: TRL's SFTTrainer, transformers' Trainer."""

import copy
from functools import cache, partial
from pathlib import Path

import nbformat
import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

from helpers.data.task import Task, load_examples, load_task
from helpers.data.templates import load_templates
from helpers.data.tokenize import IGNORE, collate, prompt_ids, tokenize
from helpers.inference import predict_answers
from helpers.model.load import CHAT_TEMPLATE, load_model, save_model
from helpers.profiles import TINY_RANDOM
from tests.families import family_model, family_tokenizer
from tests.tiny import tiny_model, tiny_tokenizer

ROWS = 6
AT_WORK = Path(__file__).parent.parent / "notebooks" / "11_at_work.ipynb"


@cache
def rendered(name: str) -> DatasetDict:
    """Some rows of a shipped task, with all the columns that rendering leaves."""
    task = load_task(name)
    splits = task.split(task.load_table())
    some = {part: task.drop_empty(rows.select(range(ROWS))) for part, rows in splits.items()}
    return task.render(DatasetDict(some))


def arguments(kind, folder, **more):
    """One step on the CPU."""
    return kind(
        output_dir=str(folder),
        max_steps=1,
        per_device_train_batch_size=4,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **more,
    )


def sft_trainer(folder, examples, tokenizer, model=None, **more):
    trl = pytest.importorskip("trl")
    return trl.SFTTrainer(
        model or tiny_model(window=1024),
        arguments(trl.SFTConfig, folder, gradient_checkpointing=False, **more),
        train_dataset=examples["train"],
        eval_dataset=examples["validation"],
        processing_class=tokenizer,
    )


def labels_of(trainer, rows) -> list[list[int]]:
    """The labels that TRL trains on, without padding; they stand in the batches it makes."""
    batch = trainer.data_collator(list(rows))
    return [
        labels[mask.bool()].tolist()
        for labels, mask in zip(batch["labels"], batch["attention_mask"], strict=True)
    ]


def check_same_as_trl(trainer, examples, tokenizer, config):
    ours = tokenize(examples, tokenizer, config)
    sets = {"train": trainer.train_dataset, "validation": trainer.eval_dataset}
    for name, theirs in sets.items():
        assert list(theirs["input_ids"]) == list(ours[name]["input_ids"])
        assert labels_of(trainer, theirs) == list(ours[name]["labels"])


@pytest.mark.parametrize("name", ["opinion", "department", "headline", "review", "dialogue"])
def test_trl_takes_the_rendered_splits_and_makes_the_same_ids_and_labels(name, tmp_path):
    examples, tokenizer = rendered(name), tiny_tokenizer()
    trainer = sft_trainer(tmp_path, examples, tokenizer, completion_only_loss=True, max_length=None)
    check_same_as_trl(trainer, examples, tokenizer, trainer.model.config)
    trainer.train()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["opinion", "review"])
def test_trl_makes_the_same_ids_of_all_training_rows_with_the_real_tokenizer(name, tmp_path):
    examples = load_examples(load_task(name), train_rows=1000)
    assert len(examples["train"]) == 913
    model, tokenizer = load_model(TINY_RANDOM, "cpu")
    more = {"completion_only_loss": True, "max_length": None}
    trainer = sft_trainer(tmp_path, examples, tokenizer, model, **more)
    check_same_as_trl(trainer, examples, tokenizer, model.config)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "gemma"])
def test_trl_makes_the_same_ids_with_other_tokenizers(family, tmp_path):
    tokenizer = copy.deepcopy(family_tokenizer(family))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    words = {"prompt": "Is it good?\nAnswer:", "completion": " not so good", "answer": "x"}
    line = {"prompt": "Is it good?\n", "completion": "good", "answer": "x"}
    part = Dataset.from_list([words, line])
    examples, model = DatasetDict(train=part, validation=part), family_model(family)
    trainer = sft_trainer(tmp_path, examples, tokenizer, model, completion_only_loss=True)
    check_same_as_trl(trainer, examples, tokenizer, model.config)


def test_trl_takes_examples_of_tables_with_columns_that_it_knows_by_name(tmp_path):
    """TRL reads a column messages as a chat, puts the end token into a column text and not into the
    completion, takes labels for its own, tools for JSON, and a table with images for no text."""
    talk = [{"role": "user", "content": "A lamp."}, {"role": "assistant", "content": "home"}]
    row = {"messages": talk, "text": "A lamp of mine.", "label": "home", "row_id": "R1"}
    row |= {name: "a lamp" for name in ("labels", "tools", "image", "images", "input_ids")}
    row |= {name: talk for name in ("conversations", "chosen", "rejected")}
    part = Dataset.from_list([row] * 2)
    task = Task("mine", "table.csv", "plain", load_templates("messages"))
    examples = task.render(DatasetDict(train=part, validation=part))
    trainer = sft_trainer(tmp_path, examples, tiny_tokenizer(), completion_only_loss=True)
    check_same_as_trl(trainer, examples, tiny_tokenizer(), trainer.model.config)


def test_trl_trains_on_the_turns_that_the_chat_template_marks(tmp_path):
    pytest.importorskip("trl")
    from trl.chat_template_utils import is_chat_template_stop_token_trained

    # The starting model's, as a saved model brings it, for a tokenizer with its special tokens.
    tokenizer = copy.deepcopy(family_tokenizer("qwen2"))
    tokenizer.chat_template = CHAT_TEMPLATE
    folder = save_model(family_model("qwen2"), tokenizer, tmp_path / "saved", {})
    model, tokenizer = load_model(folder, "cpu")
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert is_chat_template_stop_token_trained(tokenizer)
    talk = [{"role": "user", "content": "How is it?"}, {"role": "assistant", "content": "good"}]
    part = Dataset.from_list([{"messages": talk}] * 2)
    examples = DatasetDict(train=part, validation=part)
    trainer = sft_trainer(tmp_path, examples, tokenizer, model, assistant_only_loss=True)
    (labels, _) = labels_of(trainer, trainer.train_dataset)
    assert tokenizer.decode([i for i in labels if i != IGNORE]) == "good<|im_end|>"
    # The ids before the answer are those of our prompts with chat=True.
    ids = prompt_ids("How is it?", tokenizer, trainer.model.config, chat=True)
    assert trainer.train_dataset[0]["input_ids"][: len(ids)] == ids
    assert labels[: len(ids)] == [IGNORE] * len(ids)
    trainer.train()


@pytest.mark.parametrize("family", [None, "t5", "bart"])
def test_trainer_takes_the_tokenized_splits_as_they_are(family, tmp_path):
    tokenizer = family_tokenizer(family) if family else tiny_tokenizer()
    model = family_model(family) if family else tiny_model(window=1024)
    examples = DatasetDict(
        {name: part.select(range(4)) for name, part in rendered("headline").items()}
    )
    tokenized = tokenize(examples, tokenizer, model.config)
    trainer = Trainer(
        model,
        arguments(TrainingArguments, tmp_path),
        train_dataset=tokenized["train"],
        eval_dataset=tokenized["validation"],
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORE),
    )
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer.train()
    assert any(
        not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)
    )
    # Our batches give the same loss as theirs.
    batch = collate(list(tokenized["validation"]), tokenizer.pad_token_id)
    with torch.no_grad():
        ours = model.eval()(**batch).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(ours, rel=1e-5)


@pytest.mark.parametrize("family", [None, "qwen2", "gpt_neox", "gemma", "t5", "bart"])
def test_collate_is_what_transformers_collator_makes(family, monkeypatch):
    tokenizer = family_tokenizer(family) if family else tiny_tokenizer()
    monkeypatch.setattr(tokenizer, "padding_side", "right")  # Gemma's is left
    config = family_model(family).config if family else tiny_model(window=1024).config
    texts = [("How is it?", " good"), ("How is this lamp?\nRating:", " not so good"), ("?", " a b")]
    examples = Dataset.from_list([{"prompt": p, "completion": c} for p, c in texts])
    tokenized = tokenize(examples, tokenizer, config)
    theirs = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORE)
    ours = partial(collate, pad_token_id=tokenizer.pad_token_id)
    for rows in ([0, 1, 2], [2], [1, 0]):
        mine = ours([tokenized[i] for i in rows])
        their = theirs([tokenized[i] for i in rows])
        assert set(mine) == set(their)
        for name in mine:
            assert mine[name].dtype == their[name].dtype == torch.int64
            assert torch.equal(mine[name], their[name])


@pytest.mark.slow
def test_the_harness_reads_the_task_file_of_notebook_11_and_gives_the_same_answers(tmp_path):
    pytest.importorskip("lm_eval")
    cells = {cell.id: cell.source for cell in nbformat.read(AT_WORK, as_version=4).cells}
    examples, model = rendered("opinion")["train"], tiny_model(window=1024)
    examples.to_json(tmp_path / "rows.jsonl")
    notebook = {"work": tmp_path, "tokenizer": tiny_tokenizer()}
    exec(cells["11-043"], notebook)  # writes the task file
    exec(cells["11-045"], notebook)  # defines harness_answers
    assert len((tmp_path / "course.yaml").read_text(encoding="utf-8").splitlines()) == 9
    accuracy, samples = notebook["harness_answers"](model)
    said = predict_answers(model, tiny_tokenizer(), examples)
    for one, ours, right in zip(samples, said, examples["answer"], strict=True):
        scores = [response[0][0] for response in one["resps"]]
        assert one["doc"]["choices"][scores.index(max(scores))] == ours
        assert one["acc"] == (ours == right)
    assert accuracy == pytest.approx(sum(one["acc"] for one in samples) / ROWS)
