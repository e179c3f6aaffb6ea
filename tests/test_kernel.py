"""The stop button: where Python drops it, and in a real kernel, which is then killed as well."""

import signal
import sys
import time
import weakref
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel

from helpers.inference import score_choices
from helpers.profiles import repeat_dropped_interrupts
from helpers.training import History, train
from tests.made_up import COLLATE, SETTINGS, TRAIN, VALIDATION
from tests.tiny import tiny_model, tiny_tokenizer

ROOT = Path(__file__).parent.parent

START = """
import time
from helpers.training.loop import train
from tests.made_up import COLLATE, SETTINGS, TRAIN, VALIDATION
from tests.tiny import tiny_model

def learn(folder, wait_at=None):
    def watch(history):
        if len(history.steps) == wait_at and history.stopped == "running":
            print(f"<step {wait_at}>", flush=True)
            time.sleep(600)
    model = tiny_model()
    return model, train(model, TRAIN, VALIDATION, SETTINGS, COLLATE, folder, watch=watch)
"""
COMPARE = """
import torch
whole_model, whole = learn(folder + "/whole")
assert history.stopped == "finished" and len(history.steps) == 10
assert [r.loss for r in history.steps] == [r.loss for r in whole.steps]
assert [r.loss for r in history.evaluations] == [r.loss for r in whole.evaluations]
for ours, theirs in zip(model.parameters(), whole_model.parameters(), strict=True):
    assert torch.equal(ours, theirs)
print("the same to the last bit")
"""


@pytest.fixture
def kernel():
    manager, client = start_new_kernel(startup_timeout=300, cwd=str(ROOT))
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def execute(client, code: str, until: str | None = None) -> str:
    """What a cell printed: to its end, or up to the text `until` while it goes on."""
    request, said = client.execute(code), ""
    while until is None or until not in said:
        message = client.get_iopub_msg(timeout=120)
        if message["parent_header"].get("msg_id") != request:
            continue
        content = message["content"]
        if message["msg_type"] == "stream":
            said += content["text"]
        assert message["msg_type"] != "error", content
        if content.get("execution_state") == "idle":
            assert until is None, said
            return said
    return said


def test_a_kernel_stopped_and_killed_in_an_epoch_goes_on_to_the_same_end(kernel, tmp_path):
    manager, client = kernel
    begin = f"folder = {str(tmp_path)!r}" + START
    learn = "model, history = learn(folder"

    # The stop button of the notebook.
    execute(client, begin)
    execute(client, f"{learn}, wait_at=3)", until="<step 3>")
    manager.interrupt_kernel()
    said = execute(client, "print(history.stopped)")
    assert said.strip() == "interrupted"

    # A kernel that dies: killed where no code of ours can do anything about it.
    said = execute(client, f"{learn}, wait_at=8)", until="<step 8>")
    assert "Going on from the checkpoint" in said
    manager.restart_kernel(now=True)
    client.wait_for_ready(timeout=300)

    # What a learner does next: run the same cells again.
    execute(client, begin)
    said = execute(client, f"{learn})")
    assert "Going on from the checkpoint" in said
    assert "the same to the last bit" in execute(client, COMPARE)


@pytest.fixture
def press_dropped(monkeypatch):
    """Presses the stop button where Python drops the exception, in the set-up of a notebook."""
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: shown.append(dropped.exc_type))
    repeat_dropped_interrupts()
    # A program in the background may be deaf to interrupts.
    found = signal.signal(signal.SIGINT, signal.default_int_handler)

    def press() -> None:
        thing = set()
        reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
        del thing
        assert reference() is None  # the callback ran, and what it raised is gone

    yield press
    signal.signal(signal.SIGINT, found)
    assert KeyboardInterrupt not in shown


def test_an_interrupt_that_python_drops_ends_a_training_all_the_same(
    press_dropped, tmp_path, capsys
):
    def watch(history: History) -> None:
        if len(history.steps) == 4 and history.stopped == "running":
            press_dropped()
            for _ in range(100):
                time.sleep(0.1)

    history = train(tiny_model(), TRAIN, VALIDATION, SETTINGS, COLLATE, tmp_path, watch=watch)
    assert history.stopped == "interrupted" and len(history.steps) == 4
    assert "Interrupted after step 4 of 10" in capsys.readouterr().out


def test_an_interrupt_that_python_drops_ends_the_scoring_of_choices_too(press_dropped):
    model, tokenizer = tiny_model(), tiny_tokenizer()
    hook = model.register_forward_hook(lambda *_: (hook.remove(), press_dropped()) and None)
    with pytest.raises(KeyboardInterrupt):
        for _ in range(2000):
            score_choices(model, tokenizer, ["Is it red?"], ["yes", "no"])
