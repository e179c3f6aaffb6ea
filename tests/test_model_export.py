"""A model handed on: as a GGUF file that transformers reads back, and to the Hub."""

from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from huggingface_hub import EvalResult, constants
from transformers import AutoModelForCausalLM

from helpers.data.tokenize import prompt_ids
from helpers.model import export
from helpers.model.card import model_card
from helpers.model.export import publish, write_gguf
from helpers.model.load import TINY_RANDOM, ModelError, load_model, save_model
from tests.families import family_model, family_tokenizer

STARTING = {"model": "tiny", "licence": "Apache-2.0", "source": "memory", "changes": "none"}
COMPLETE = {
    "base_model": "someone/a-model",
    "datasets": ["someone/a-table"],
    "model_name": "mine",
    "eval_results": [EvalResult("text-generation", "csv", "a table", "accuracy", 0.5)],
}


@pytest.fixture(scope="module")
def tiny():
    return load_model(TINY_RANDOM, "cpu")


@pytest.fixture
def saved(tiny, tmp_path) -> Path:
    """A saved model with a card that lacks nothing."""
    card = model_card("Mine", STARTING, {}, "A lamp.\nRating:", ["Small."], COMPLETE)
    return save_model(*tiny, tmp_path / "saved", {"README.md": card})


def test_transformers_reads_the_file_back_with_the_same_logits(tiny, tmp_path):
    model, tokenizer = tiny
    file = write_gguf(model, tokenizer, tmp_path / "new" / "model.gguf")
    assert [path.name for path in file.parent.iterdir()] == ["model.gguf"]
    assert file.stat().st_size < 0.6 * 4 * model.num_parameters() + 4e6  # 16 bits, and the words
    read = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    ids = torch.tensor([prompt_ids("The lamp of 2026 is", tokenizer, model.config)])
    with torch.no_grad():
        ours, theirs = model(ids).logits, read.eval()(ids).logits
    assert torch.allclose(ours, theirs, atol=2e-3) and not torch.equal(ours, theirs)
    assert read.config.rope_parameters["rope_theta"] == model.config.rope_parameters["rope_theta"]


def test_heads_that_are_not_reordered_would_be_noticed(tiny, tmp_path):
    """Were the rows of the queries and keys left as they are, the logits would be others."""
    model, tokenizer = tiny
    plain = model.state_dict()
    file = write_gguf(model, tokenizer, tmp_path / "model.gguf")
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name).state_dict()
    moved = "model.layers.0.self_attn.q_proj.weight"
    assert torch.allclose(read[moved].float(), plain[moved], atol=1e-3)
    (stored,) = (t for t in GGUFReader(file).tensors if t.name == "blk.0.attn_q.weight")
    assert abs(stored.data - plain[moved].numpy()).max() > 0.01


def test_the_file_holds_tokenizer_and_chat_template(tiny, tmp_path):
    model, tokenizer = tiny
    fields = GGUFReader(write_gguf(model, tokenizer, tmp_path / "m.gguf")).fields
    stored = {name: field.contents() for name, field in fields.items()}
    assert stored["tokenizer.ggml.tokens"] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert stored["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert stored["tokenizer.chat_template"] == tokenizer.chat_template
    assert stored["tokenizer.ggml.pre"] == "smollm"
    types = stored["tokenizer.ggml.token_type"]
    kinds = dict(zip(stored["tokenizer.ggml.tokens"], types, strict=True))
    assert kinds["<|im_end|>"] == 3 and kinds["a"] == 1  # control, normal


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "llama"])
def test_other_models_are_refused_with_the_tool_that_knows_them(family, tmp_path):
    with pytest.raises(ModelError, match="convert_hf_to_gguf.py"):
        write_gguf(family_model(family), family_tokenizer(family), tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_behind_and_the_older_file_alone(tiny, tmp_path, monkeypatch):
    file = tmp_path / "m.gguf"
    file.write_text("older")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(ModelError, match="No space left on device.*3 MB"):
        write_gguf(*tiny, file)
    assert file.read_text() == "older" and list(tmp_path.iterdir()) == [file]


class FakeHub:
    """Notes what it is asked to do."""

    asked: list = []

    def create_repo(self, name, **options):
        self.asked.append(("create", name, options))

    def upload_folder(self, **options):
        self.asked.append(("upload", options))


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(FakeHub, "asked", [])
    monkeypatch.setattr(export, "HfApi", FakeHub)
    return FakeHub


def test_a_dry_run_says_what_would_be_sent_and_asks_nobody(saved, hub):
    files = publish(saved, "me/mine")
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    assert files == sorted(file.name for file in saved.iterdir())
    assert hub.asked == []


def test_publishing_sends_just_these_files_to_a_private_repository(saved, hub):
    files = publish(saved, "me/mine", dry_run=False)
    (created, name, options), (uploaded, sent) = hub.asked
    assert (created, name, uploaded) == ("create", "me/mine", "upload")
    assert options["private"] and sent["repo_id"] == name
    assert sent["folder_path"] == saved and sent["allow_patterns"] == files


def test_a_hub_that_does_not_take_it_is_told_in_a_sentence(saved, monkeypatch):
    """Here the Hub cannot be asked: the tests are offline."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="did not take the model.*\n.*hf auth login"):
        publish(saved, "me/mine", dry_run=False)


def test_a_name_that_the_hub_does_not_admit_is_refused(saved, hub):
    with pytest.raises(ModelError, match="does not allow this name"):
        publish(saved, "my name/my model")
    assert hub.asked == []


@pytest.mark.parametrize("missing", ["README.md", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_is_refused(saved, hub, missing):
    (saved / missing).unlink()
    with pytest.raises(ModelError, match=f"lacks {missing}"):
        publish(saved, "me/mine", dry_run=False)
    assert hub.asked == []


def test_a_card_without_limits_is_refused(saved, hub):
    card = model_card("Mine", STARTING, {}, "A lamp.", [], COMPLETE)
    (saved / "README.md").write_text(card, encoding="utf-8")
    with pytest.raises(ModelError, match="says nothing about limits"):
        publish(saved, "me/mine", dry_run=False)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("silent", "named"),
    [("datasets", "datasets"), ("eval_results", "model-index")],
)
def test_a_card_that_keeps_silent_is_refused(saved, hub, silent, named):
    said = {key: value for key, value in COMPLETE.items() if key != silent}
    card = model_card("Mine", STARTING, {}, "A lamp.", ["Small."], said)
    (saved / "README.md").write_text(card, encoding="utf-8")
    with pytest.raises(ModelError, match=named):
        publish(saved, "me/mine", dry_run=False)
    assert hub.asked == []
