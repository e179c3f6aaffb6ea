"""What the machine offers: where to compute, in which precision, and how much memory there is."""

from pathlib import Path

import pytest
import torch

from helpers import machine
from tests.processes import another_process, how_it_ended

resource = pytest.importorskip("resource", reason="Windows knows no such limits")
GIGABYTE = 1_000_000_000


@pytest.mark.parametrize(
    ("cuda", "mps", "device"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_the_best_device_is_a_gpu_where_there_is_one(monkeypatch, cuda, mps, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert machine.best_device() == torch.device(device)


@pytest.mark.parametrize(
    ("has", "precision"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bfloat16"),
        ({"avx512_f": True, "avx512_bf16": False}, "float32"),
        ({}, "float32"),
    ],
)
def test_the_precision_is_what_the_processor_has_instructions_for(monkeypatch, has, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert machine.native_precision("cpu") == precision


@pytest.mark.parametrize(
    ("capability", "precision"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")]
)
def test_a_gpu_is_asked_for_its_generation_not_for_what_it_can_emulate(
    monkeypatch, capability, precision
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(machine, "best_device", lambda: torch.device("cuda"))
    assert machine.native_precision() == machine.native_precision("cuda:0") == precision
    assert machine.native_precision("mps") == "float32"


@pytest.fixture
def control_group(tmp_path, monkeypatch):
    """Lets a test write the limits that the system would show; here there are none else."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(
        machine.psutil, "virtual_memory", lambda: type("Memory", (), {"total": 64 * GIGABYTE})
    )
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)

    def limit(file: str, content: str) -> None:
        path = Path(tmp_path, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")

    return limit


@pytest.mark.parametrize(
    ("file", "content", "usable"),
    [
        ("memory.max", "2147483648\n", 2 * 2**30),
        ("memory.max", "max\n", 64 * GIGABYTE),
        ("memory.max", "", 64 * GIGABYTE),
        ("memory/memory.limit_in_bytes", "1500000000\n", 1_500_000_000),
        # What version 1 says when there is no limit.
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", 64 * GIGABYTE),
        ("other", "5", 64 * GIGABYTE),
    ],
)
def test_limits_of_the_control_group_are_seen(control_group, file, content, usable):
    control_group(file, content)
    assert machine.usable_memory() == usable


@pytest.mark.parametrize(
    ("own", "file"),
    [
        ("0::/jobs/mine\n", "jobs/mine/memory.max"),
        ("0::/jobs/mine/step\n", "jobs/memory.max"),
        ("7:cpu:/\n4:memory:/jobs/mine\n", "memory/jobs/mine/memory.limit_in_bytes"),
    ],
)
def test_limits_of_a_group_below_are_seen(control_group, own, file):
    control_group("own", own)
    control_group(file, "1500000000\n")
    assert machine.usable_memory() == 1_500_000_000


@pytest.mark.parametrize("kind", [resource.RLIMIT_AS, resource.RLIMIT_DATA])
def test_limits_of_the_process_are_seen(control_group, monkeypatch, kind):
    control_group("memory.max", str(5 * GIGABYTE))
    limits = {kind: (3 * GIGABYTE, resource.RLIM_INFINITY)}
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda asked: limits.get(asked, unlimited))
    assert machine.usable_memory() == 3 * GIGABYTE


def test_a_real_limit_of_a_process_is_seen():
    def limited():
        limit = 3 * GIGABYTE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        assert machine.usable_memory() <= limit

    assert how_it_ended(another_process(limited)) == 0


def test_peak_memory_grows_with_what_is_held_and_stays_when_it_is_freed():
    def holding():
        before = machine.peak_memory()
        block = torch.ones(250_000_000, dtype=torch.uint8)
        del block
        assert 200_000_000 < machine.peak_memory() - before < 400_000_000

    assert how_it_ended(another_process(holding)) == 0


def test_memory_is_given_back_to_the_system():
    def giving():
        process = machine.psutil.Process()
        # Too small for the C library to fetch each from the system, and to return it, by itself.
        blocks = [b"x" * 100_000 for _ in range(2_000)]
        # Every other one, so that what is free lies between what is not.
        del blocks[::2]
        held = process.memory_info().rss
        machine.give_memory_back()
        assert process.memory_info().rss < held - 60_000_000

    assert how_it_ended(another_process(giving)) == 0
