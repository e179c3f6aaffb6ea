"""The whole road on a small checkpoint of each family: from rows to a saved model that answers."""

import pytest
import torch
from datasets import Dataset, DatasetDict

from helpers.data.task import Task
from helpers.data.templates import Template
from helpers.data.tokenize import collate, tokenize
from helpers.inference import generate_answers, score_choices
from helpers.model import load_model, save_model
from helpers.training.run import train_task
from helpers.training.settings import TrainSettings
from tests.families import FAMILIES, family_folder
from tests.made_up import as_it_was

TEMPLATE = Template("plain", "Review: {{ text }}\nRating:", "{{ label }}")
TASK = Task("mine", "table.csv", "plain", {"plain": TEMPLATE}, choices=("good", "bad"))
TEXTS = ["It broke on the first day.", "It does what it should.", "Fine.", "Too small, too loud."]
ROWS = Dataset.from_dict({"text": TEXTS, "label": ["bad", "good", "good", "bad"]})


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("low_memory", [False, True], ids=["normal", "low"])
def test_each_family_goes_the_whole_road(tmp_path, monkeypatch, name, low_memory):
    monkeypatch.setenv("PATH", str(tmp_path))  # no git, nor any other program
    folder = tmp_path / "un été à moi"
    model, tokenizer = load_model(family_folder(name), device="cpu")
    examples = TASK.render(DatasetDict(train=ROWS, validation=ROWS))
    sets = tokenize(examples, tokenizer, model.config)
    settings = TrainSettings(
        epochs=2,
        batch_size=4,
        micro_batch_size=2,
        evaluations=1,
        learning_rate=1e-2,
        precision="float32",
        low_memory=low_memory,
    )
    validation = examples["validation"]
    history = train_task(model, tokenizer, validation, sets, settings, folder / "run")
    assert history.stopped == "finished" and len(history.steps) == 2
    assert history.best.loss < history.evaluations[0].loss - 0.1
    assert as_it_was(model)

    prompts, batch = validation["prompt"][:], collate(list(sets["train"]), tokenizer.pad_token_id)
    scores = score_choices(model, tokenizer, prompts, TASK.choices)
    texts = generate_answers(model, tokenizer, prompts, 4)
    save_model(model, tokenizer, folder / "modèle", {})
    again, its = load_model(folder / "modèle", device="cpu")
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)
    assert torch.equal(score_choices(again, its, prompts, TASK.choices), scores)
    assert generate_answers(again, its, prompts, 4) == texts
