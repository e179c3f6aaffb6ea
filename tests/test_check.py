"""`make check`, on machines that are made up, and once on this one without any package."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers import profiles
from helpers.machine import LOW_MEMORY
from helpers.model import load
from tools import check, make

ROOT = Path(__file__).resolve().parent.parent
GIGABYTE = 1_000_000_000
FOUND = {"lacking": [], "gflops": 100.0, "memory": 16 * GIGABYTE, "device": "cpu", "torch": "2"}


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine on which all is well; a test changes what it is about."""
    there = SimpleNamespace(found=dict(FOUND), free=50 * GIGABYTE, network=(check.OK, "network"))
    model = tmp_path / check.MODEL
    model.mkdir()
    (model / "provenance.json").touch()
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(check, "probe", lambda: there.found)
    monkeypatch.setattr(check.shutil, "disk_usage", lambda _: SimpleNamespace(free=there.free))
    monkeypatch.setattr(check.platform, "system", lambda: "Linux")
    monkeypatch.setattr(check.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(check.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(check, "network_line", lambda: (*there.network, "a fact", "do this"))
    monkeypatch.setattr(check.os, "getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)
    there.model = model
    return there


def test_after_the_set_up_it_has_nothing_to_say_but_the_minutes(machine, capsys):
    assert check.main() == 0
    said = capsys.readouterr().out
    assert "Nothing is missing" in said and "What to do" not in said and "network" not in said
    assert "Profile that fits: laptop" in said
    assert len(said.splitlines()) <= 24 and max(map(len, said.splitlines())) <= 120


def test_before_the_set_up_it_says_what_the_set_up_does(machine, capsys):
    machine.found = {}
    shutil.rmtree(machine.model)
    assert check.main() == 0
    said = capsys.readouterr().out
    assert "1. packages: make lab installs them" in said and "make lab fetches it" in said
    assert "network" in said and "for this one after the set-up" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"free": GIGABYTE // 2, "found": {}}, "disk: free some space"),
        ({"found": {**FOUND, "memory": GIGABYTE}}, "memory: too little"),
        ({"found": {"lacking": [], "broken": "OSError: c10.dll"}}, "delete the folder .venv"),
        ({"found": {}, "network": (check.STOP, "network")}, "network: do this"),
    ],
)
def test_what_stands_in_the_way_gives_status_1_and_a_remedy(machine, capsys, change, words):
    vars(machine).update(change)
    assert check.main() == 1
    said = capsys.readouterr().out
    assert words in said and "the course does not run here" in said


@pytest.mark.parametrize(
    ("system", "machine_name", "version", "stops"),
    [
        ("Darwin", "x86_64", "15.1", True),
        ("Darwin", "arm64", "15.1", False),
        ("Darwin", "arm64", "13.7", True),
        ("Linux", "x86_64", "musl", True),
        ("Linux", "aarch64", "glibc", False),
        ("Windows", "AMD64", "", False),
        ("Windows", "ARM64", "", True),
    ],
)
def test_systems_without_pytorch_are_told(
    machine, monkeypatch, capsys, system, machine_name, version, stops
):
    monkeypatch.setattr(check.platform, "system", lambda: system)
    monkeypatch.setattr(check.platform, "machine", lambda: machine_name)
    monkeypatch.setattr(check.platform, "libc_ver", lambda: (version, ""))
    monkeypatch.setattr(check.platform, "mac_ver", lambda: (version, (), ""))
    assert check.main() == stops


def test_a_busy_machine_is_told_that_its_speed_is_not_its_own(machine, monkeypatch, capsys):
    monkeypatch.setattr(check.os, "getloadavg", lambda: (99.0, 0.0, 0.0), raising=False)
    assert check.main() == 0
    assert "cores: other programs are computing" in capsys.readouterr().out


def test_an_old_python_is_told(machine, monkeypatch, capsys):
    monkeypatch.setattr(check.sys, "version_info", (3, 9, 1))
    assert check.main() == 1
    assert "install Python 3.11 or newer" in capsys.readouterr().out


def test_an_old_python_can_read_the_file():
    source = (ROOT / "tools" / "check.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 8))
    assert source.isascii()  # consoles of old Windows print nothing else
    names = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import | ast.ImportFrom)]
    modules = {getattr(n, "module", None) or n.names[0].name for n in names}
    assert {name.partition(".")[0] for name in modules} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("found", "profile"),
    [
        ({**FOUND, "device": "cuda"}, "gpu"),
        ({**FOUND, "memory": 3 * GIGABYTE}, "quick"),
        ({**FOUND, "gflops": 20.0}, "quick"),
        (FOUND, "laptop"),
    ],
)
def test_the_profile_fits_memory_speed_and_gpu(found, profile):
    here = check.minutes(found["gflops"])
    assert check.fitting_profile(found["memory"], here, found["device"])[0] == profile
    assert profile in profiles.PROFILES


def test_with_a_gpu_the_minutes_of_laptop_are_shown_as_a_bound(machine, capsys):
    machine.found["device"] = "cuda"
    assert check.main() == 0
    said = capsys.readouterr().out
    assert "Profile that fits: gpu" in said
    assert "gpu was not timed" in said and "at most what the processor alone would take" in said
    assert said.count(check.times("laptop", check.minutes(FOUND["gflops"]))) == 1
    assert len(said.splitlines()) <= 24 and max(map(len, said.splitlines())) <= 120


def test_minutes_are_those_that_the_notebooks_predict(monkeypatch):
    monkeypatch.setattr(profiles, "_speed_here", lambda: 70.0)
    monkeypatch.setenv("COURSE_PROFILE", "laptop")
    here = check.minutes(70.0)["laptop"]["04_fine_tune"]
    assert profiles.predicted_minutes("04_fine_tune")[1] == round(here, 1)


def test_what_it_repeats_is_what_the_course_says():
    assert load.FOLDER == check.MODEL
    assert (make.OLDEST, make.NEWEST_TESTED) == (check.OLDEST, check.NEWEST_TESTED)
    assert LOW_MEMORY == check.LOW_MEMORY * 1e9
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{check.WHOLE_DISK} GB of disk ({check.SET_UP_DISK} GB for the packages" in readme


def test_the_probe_finds_this_environment(monkeypatch):
    paths = SimpleNamespace(found=None)

    def run(command, **options):
        paths.found = command[0]
        return real([sys.executable, *command[1:]], **options)

    real = subprocess.run
    monkeypatch.setattr(check.subprocess, "run", run)
    found = check.probe()
    assert Path(paths.found).parent.parent == ROOT / ".venv"
    assert found["lacking"] == [] and found["gflops"] > 0 and found["device"] in "cpu cuda mps"


def test_on_windows_the_interpreter_is_looked_for_in_scripts(monkeypatch):
    asked = []

    def run(command, **_):
        asked.append(command[0])
        raise FileNotFoundError  # .venv is not made yet

    for module in (check, make):
        monkeypatch.setattr(module, "os", SimpleNamespace(name="nt"))
    monkeypatch.setattr(check.subprocess, "run", run)
    assert check.probe() == {}
    assert asked == [make.python_of(".venv")] == [str(ROOT / ".venv" / "Scripts" / "python.exe")]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]", "certificate"),
        ("ProxyError('Cannot connect to proxy.', NewConnectionError", "proxy"),
        ("NewConnectionError: [Errno -2] Name or service not known", "no host"),
        ('ReadTimeoutError("HTTPSConnectionPool: Read timed out.")', "no answer"),
        ("No module named pip", "not installed"),
        ("ERROR: No matching distribution found for filelock", "found no filelock"),
    ],
)
def test_the_cause_is_told_without_the_addresses_in_it(said, words):
    assert words in check.cause(f"https://me:secret@host/ {said}")
    assert "secret" not in check.cause(f"https://me:secret@host/ {said}")


def test_alone_and_without_a_network_it_names_what_to_send_back(tmp_path):
    shutil.copy(ROOT / "tools" / "check.py", tmp_path)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    nowhere = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "https://me:secret@127.0.0.1:9/x"}
    command = [sys.executable, "-S", "check.py"]  # -S: none of the packages installed here
    done = subprocess.run(
        command, cwd=tmp_path, env=kept | nowhere, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "network" in done.stdout and "secret" not in done.stdout
    assert "Send all lines above" in done.stdout and "packages" not in done.stdout


@pytest.mark.parametrize("named", [True, False])
def test_with_a_wheelhouse_no_network_is_asked(tmp_path, monkeypatch, named):
    monkeypatch.setattr(check.subprocess, "run", lambda *_, **__: pytest.fail("pip was started"))
    monkeypatch.setattr(check, "ROOT", tmp_path)
    folder = tmp_path / ("somebody" if named else "wheelhouse")
    monkeypatch.setenv("COURSE_WHEELHOUSE", str(folder) if named else "")
    folder.mkdir()
    state, _, fact, _ = check.network_line()
    assert state == check.OK and "wheelhouse" in fact and "somebody" not in fact
    # `make lab` stops there as well.
    folder.rmdir()
    monkeypatch.setenv("COURSE_WHEELHOUSE", str(folder))
    state, _, fact, _ = check.network_line()
    assert state == check.STOP and "COURSE_WHEELHOUSE" in fact


def test_make_check_sets_nothing_up(monkeypatch):
    monkeypatch.setattr(make, "set_up", lambda _: pytest.fail("a set-up"))
    asked = []
    monkeypatch.setattr(make, "status", lambda *command, **_: asked.append(command) or 1)
    assert make.main(["check"]) == 1
    assert asked == [(sys.executable, "tools/check.py")]


def test_every_notebook_that_was_timed_is_named():
    whole = json.loads((ROOT / "data" / "minutes.json").read_text(encoding="utf-8"))["laptop"]
    said = check.times("laptop", {})
    assert all(f"{name.split('_')[0]}: " in said for name in whole["minutes"])
