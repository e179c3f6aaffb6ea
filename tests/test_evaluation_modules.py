"""The course's metrics through the evaluate library: offline, and from any folder."""

import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import evaluate
import pytest

from helpers.evaluation.metrics import ScoringError, load_metric, macro_f1, rouge

ROOT = Path(__file__).parents[1]
NAMES = ["accuracy", "macro_f1", "rouge"]
PREDICTIONS = ["good", None, "poor", "good"]
REFERENCES = ["good", "good", "poor", "poor"]


@pytest.fixture(scope="module")
def metrics() -> dict[str, evaluate.Metric]:
    return {name: load_metric(name) for name in NAMES}


def test_metrics_are_real_and_give_the_scores_of_helpers(metrics) -> None:
    assert all(isinstance(metric, evaluate.Metric) for metric in metrics.values())
    assert [metric.name for metric in metrics.values()] == NAMES
    given = {"predictions": PREDICTIONS, "references": REFERENCES}
    assert metrics["accuracy"].compute(**given) == {"accuracy": 0.5}
    labels = ["good", "poor", "okay"]
    expected = macro_f1(PREDICTIONS, REFERENCES, labels)
    assert metrics["macro_f1"].compute(**given, labels=labels) == {"macro_f1": expected}
    expected = macro_f1(PREDICTIONS, REFERENCES, ["good", "poor"])
    assert metrics["macro_f1"].compute(**given) == {"macro_f1": expected}


def test_rouge_is_the_mean_over_rows(metrics) -> None:
    predictions = ["the cat sat", None, "Broke at once"]
    references = ["the cat ran", "a hat", "It broke at once"]
    rows = [rouge(p or "", r) for p, r in zip(predictions, references, strict=True)]
    expected = {name: fmean(row[name] for row in rows) for name in ("rouge1", "rouge2", "rougeL")}
    assert metrics["rouge"].compute(predictions=predictions, references=references) == expected


def test_rouge_takes_the_best_of_several_references(metrics) -> None:
    predictions, references = ["a b", None], [["a", "a b c"], ["d"]]
    rows = [rouge("a b", references[0]), rouge("", references[1])]
    expected = {name: fmean(row[name] for row in rows) for name in ("rouge1", "rouge2", "rougeL")}
    assert metrics["rouge"].compute(predictions=predictions, references=references) == expected
    with pytest.raises(ValueError, match="don't match the expected format"):
        metrics["accuracy"].compute(predictions=["a"], references=[["a"]])


def test_no_answer_may_come_first(metrics) -> None:
    result = metrics["accuracy"].compute(predictions=[None, "good"], references=["good", "good"])
    assert result == {"accuracy": 0.5}


def test_rows_can_be_added_one_by_one_and_in_batches(metrics) -> None:
    metric = metrics["accuracy"]
    metric.add(prediction="good", reference="good")
    metric.add(prediction="poor", reference="good")
    metric.add_batch(predictions=["poor", "okay"], references=["poor", "poor"])
    assert metric.compute() == {"accuracy": 0.5}
    # Nothing of the last round is left over.
    assert metric.compute(predictions=["poor"], references=["poor"]) == {"accuracy": 1.0}


def test_metrics_combine(metrics) -> None:
    result = evaluate.combine(list(metrics.values())).compute(
        predictions=PREDICTIONS, references=REFERENCES
    )
    assert list(result) == ["accuracy", "macro_f1", "rouge1", "rouge2", "rougeL"]


@pytest.mark.parametrize("name", NAMES)
def test_refusals(metrics, name: str) -> None:
    metric = metrics[name]
    with pytest.raises(ScoringError, match="the lists of predictions and references are empty"):
        metric.compute(predictions=[], references=[])
    with pytest.raises(ScoringError, match="There are 1 predictions for 2 references"):
        metric.compute(predictions=["good"], references=["good", "poor"])
    with pytest.raises(ScoringError, match="predictions have to be a list"):
        metric.compute(predictions=None, references=["good"])
    # A refusal leaves nothing behind.
    assert metric.compute(predictions=["good"], references=["good"])


def test_unknown_metric_is_refused_with_the_known_ones() -> None:
    message = "no metric called 'bleu'. It has accuracy, macro_f1, rouge."
    with pytest.raises(ScoringError, match=re.escape(message)):
        load_metric("bleu")


def test_metrics_work_offline_in_a_process_that_works_elsewhere(tmp_path: Path) -> None:
    """As a notebook does it: another working folder, no network, the helpers found by `..`."""
    code = (
        "import sys; sys.path.insert(0, '..')\n"
        "from helpers.evaluation import load_metric\n"
        "assert 'evaluate' not in sys.modules, 'slow to import, so not before it is needed'\n"
        "import os; os.chdir(os.environ['ELSEWHERE'])\n"
        "for name in ('accuracy', 'macro_f1', 'rouge'):\n"
        "    print(load_metric(name).compute(predictions=['a', 'b'], references=['a', 'c']))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "tests",
        env=environment | {"ELSEWHERE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "{'accuracy': 0.5}" in done.stdout and "'rougeL': 0.5" in done.stdout
