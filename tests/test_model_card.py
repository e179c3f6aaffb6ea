"""The model card, and what has moved between two versions."""

import dataclasses
import math
import textwrap

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from helpers.data import load_task, prompt_ids
from helpers.model import (
    ModelError,
    by_layer,
    card_metadata,
    card_scores,
    differing_tensors,
    load_model,
    model_card,
    relative_change,
    save_model,
    weight_changes,
)
from tests.families import FAMILIES, family_folder
from tests.tiny import tiny_model

STARTING = {"model": "Small-1", "licence": "MIT", "source": "a folder", "changes": "none"}
SCORES = {"accuracy": (0.5, 0.4, 0.6), "macro-F1": (0.25, 0.125, 0.375), "ROUGE-1": (1, 1, 1)}


def test_a_model_card_says_what_it_was_given_and_nothing_else():
    facts = {"Data": {"rows": 480}, "Scores": {"accuracy": "0.70 (0.60 to 0.78)"}}
    card = model_card("New one", STARTING, facts, "Review: ...\n\nRating:", ["Reviews only."])
    front, _, rest = card.removeprefix("---\n").partition("\n---\n")
    assert yaml.safe_load(front) == {
        "base_model": "Small-1",
        "license": "mit",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
    }
    title, *sections = rest.strip().split("\n## ")
    assert title.startswith("# New one\n") and all(word in title for word in STARTING.values())
    assert sections[0].strip() == "Data\n\n- rows: 480"
    assert sections[1].strip() == "Scores\n\n- accuracy: 0.70 (0.60 to 0.78)"
    assert sections[2].strip("\n") == "Prompt\n\n    Review: ...\n    \n    Rating:"
    assert sections[3].startswith("Use\n\n    from transformers import pipeline")
    assert sections[4].strip() == "Limits\n\n- Reviews only."


def test_the_hub_s_own_library_reads_the_front_matter():
    starting = STARTING | {"hub_id": "some/Small-1", "language": "en"}
    metadata = {"datasets": ["some/reviews"], "metrics": ["accuracy"]}
    data = ModelCard(model_card("New", starting, {}, "?", [], metadata)).data
    assert (data.base_model, data.language, data.license) == ("some/Small-1", "en", "mit")
    assert (data.datasets, data.metrics) == (["some/reviews"], ["accuracy"])


def test_a_card_shows_the_scores_of_its_own_version_only():
    scores = SCORES | {"accuracy by group": SCORES["accuracy"]}
    stored = {"version": "abc", "rows": 96, "board": {"tuned": scores, "majority": SCORES}}
    assert card_scores(stored, "abc", ("ROUGE-1", "macro-F1")) == {
        "locked test rows": "96 (in brackets below: 95 % intervals)",
        "ROUGE-1, tuned": "{:.3f} ({:.3f} to {:.3f})".format(*SCORES["ROUGE-1"]),
        "ROUGE-1, majority": "{:.3f} ({:.3f} to {:.3f})".format(*SCORES["ROUGE-1"]),
        "macro-F1, tuned": "0.250 (0.125 to 0.375)",
        "macro-F1, majority": "0.250 (0.125 to 0.375)",
    }
    stored["board"].pop("majority")
    shown = card_scores(stored, "abc", ("accuracy by group",))
    assert shown["accuracy, tuned"] == "0.500 (0.400 to 0.600)"
    for other in ((stored, "abd"), (None, "abc")):
        assert card_scores(*other, ("accuracy",)) == {"test": "not scored yet"}


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
    with pytest.raises(ModelError, match="differ in names or shapes.*'model.embed_tokens.weight'"):
        weight_changes(tiny_model(), other)


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


def test_changes_are_sorted_by_kind_and_layer():
    model = tiny_model()
    changes = weight_changes(model, model)
    changes["model.layers.1.mlp.up_proj.weight"] = 0.25
    layered, single = by_layer(changes)
    assert layered["mlp.up_proj"] == {0: 0.0, 1: 0.25}
    assert single == {"embed_tokens": 0.0, "norm": 0.0}


@pytest.mark.parametrize("name", FAMILIES)
def test_no_change_is_lost_in_any_family(name):
    model, _ = load_model(family_folder(name), device="cpu")
    changes = weight_changes(model, model)
    layered, single = by_layer(changes)
    assert sum(map(len, layered.values())) + len(single) == len(changes)
    # Two layers on each side; T5 has its table of relative positions in the first one only.
    once = [kind for kind, layers in layered.items() if set(layers) != {0, 1}]
    assert all("relative_attention_bias" in kind for kind in once)


def test_what_hubs_read_of_the_scores_is_read_back_by_the_hub_s_own_library():
    task = load_task("opinion")
    scores = {"195 test rows": ("accuracy", (0.8615, 0.806, 0.9034))}
    card = model_card("New", STARTING, {}, "?", [], card_metadata(task, "New", scores))
    data = ModelCard(card).data
    (result,) = data.eval_results
    assert (data.model_name, data.datasets, data.base_model) == ("New", ["reviews.csv"], "Small-1")
    assert (result.dataset_name, result.metric_type) == ("opinion, 195 test rows", "accuracy")
    assert result.metric_value == round(0.8615, 3)
    assert result.metric_name == "accuracy (95 % interval 0.806 to 0.903)"


def test_a_model_without_scores_has_no_results():
    assert card_metadata(load_task("opinion"), "New", {}) == {"datasets": ["reviews.csv"]}


@pytest.mark.parametrize("table", ["hub:someone/a-table", "hub:someone/a-table:plain"])
def test_a_table_of_the_hub_is_named_as_the_hub_names_it(table):
    task = dataclasses.replace(load_task("opinion"), table=table)
    assert card_metadata(task, "New", {})["datasets"] == ["someone/a-table"]


@pytest.mark.parametrize(
    ("name", "spelled"), [("tiny-random", "<|im_end|>"), ("bart", "</s>"), ("t5", "< /s>")]
)
def test_used_as_the_card_says_a_model_reads_the_ids_of_training(
    name, spelled, tmp_path, monkeypatch
):
    model, tokenizer = load_model(name if name == "tiny-random" else family_folder(name), "cpu")
    folder = save_model(model, tokenizer, tmp_path / "saved", {})
    encoder_decoder = model.config.is_encoder_decoder
    card = model_card("New", STARTING, {}, "?", [], encoder_decoder=encoder_decoder)
    assert ("text2text-generation" in card) == encoder_decoder
    use = textwrap.dedent(card.split("## Use\n")[1].split("\n## ")[0])
    assert use.count("path/to/this/folder") == 1
    read, generate = [], type(model).generate

    def watched(self, **given):
        read.extend(given["input_ids"].tolist())
        return generate(self, **given)

    monkeypatch.setattr(type(model), "generate", watched)
    prompt = f"How is it? {spelled}\nRating:"
    exec(use.replace("path/to/this/folder", folder.as_posix()), {"prompt": prompt})
    assert read == [prompt_ids(prompt.replace("< /", "</"), tokenizer, model.config)]
    assert spelled == "< /s>" or read != [tokenizer(prompt).input_ids]
