"""What this machine can run of the course, on one screen: `make check`, before the set-up or after.

    python tools/check.py

Needs only Python's standard library, installs nothing and changes nothing. Alone, as a file that a
teacher mails out, it looks at the machine and says which lines to send back; beside the course it
also says how long each notebook will take, and after the set-up it measures the speed for that.
Status 1 when something stands in the way, else 0.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

OLDEST, NEWEST_TESTED = (3, 11), (3, 13)
# Disk (GB): packages and starting model; with the runs of all notebooks beside them (README).
SET_UP_DISK, WHOLE_DISK = 3, 12
# Memory (GB): with less, training takes its low-memory mode by itself; with less, no notebook runs.
LOW_MEMORY, LEAST_MEMORY = 4.0, 1.8
MOST_HOURS = 4  # for all notebooks in the profile `laptop`; where it takes longer, `quick` fits
MODEL, MODEL_MEGABYTES = "smollm2-135m-v2", 750
TRIED_PACKAGE = "filelock"  # a small one that the set-up needs anyway
ROOT = Path(__file__).resolve().parent.parent
# A pattern for what pip's lines hold, and what is the matter. Only these words are printed: the
# lines themselves may hold addresses with passwords.
CAUSES = {
    "CERTIFICATE": "does not trust a certificate (a proxy's, or the clock is wrong)",
    "SSL": "cannot agree on an encrypted connection",
    "ProxyError": "cannot get through the proxy that it was told",
    "Errno -[23]|getaddrinfo|nodename": "finds no host of the index's name",
    "timed out": "got no answer in time",
    "No space left": "found the disk full",
    "No module named pip": "is not installed with this Python",
    "onnection": "got no connection",
}
OK, NEXT, STOP = "ok", "next", "STOP"
# Runs in the course's own environment. Packages are named first: without them, nothing imports.
PROBE = """
import json
from importlib.metadata import PackageNotFoundError, version
from packaging.requirements import Requirement
def fits(wanted):
    try:
        return wanted.specifier.contains(version(wanted.name), prereleases=True)
    except PackageNotFoundError:
        return False
files = [open(f"requirements{end}.txt", encoding="utf-8") for end in ("", "-work")]
lines = [line.partition("#")[0].strip() for file in files for line in file]
wanted = [Requirement(line) for line in lines if line and not line.startswith("-")]
found = {"lacking": [one.name for one in wanted if not fits(one)]}
if not {"torch", "psutil"} & set(found["lacking"]):
    try:
        import torch
        from helpers.machine import best_device, matrix_speed, usable_memory
        found |= {"gflops": matrix_speed(1.0), "memory": usable_memory()}
        found |= {"torch": torch.__version__, "device": best_device().type}
    except Exception as error:  # a library of the system that is missing, say
        found["broken"] = f"{type(error).__name__}: {error}".splitlines()[0]
print(json.dumps(found))
"""


def main() -> int:
    """Print the screen. Returns the exit status."""
    course = (ROOT / "helpers").is_dir() and (ROOT / "requirements.txt").exists()
    found = probe() if course else {}
    ready = found.get("lacking") == [] and "broken" not in found
    cache = Path(os.environ.get("COURSE_CACHE") or Path.home() / ".cache" / "first-fine-tune")
    model = course and (cache / MODEL / "provenance.json").exists()
    memory = found.get("memory") or usable_memory()
    here = minutes(found["gflops"]) if "gflops" in found else {}
    lines = [python_line(ready), system_line(), disk_line(ready and model)]
    lines += [memory_line(memory), cores_line(found.get("gflops")), gpu_line(found.get("device"))]
    if course:
        lines += [packages_line(found), model_line(model, cache)]
    if not (ready and model):
        lines.append(network_line())
    print("What this machine can run of the course First Fine-Tune\n")
    for state, what, fact, _ in lines:
        print(f"  {state:4}  {what:15} {fact}")
    profile, why = fitting_profile(memory, here, found.get("device"))
    print(f"\nProfile that fits: {profile}{why}.")
    if course:
        print(times(profile, here))
    todo = [f"{what}: {advice}" for state, what, _, advice in lines if state != OK]
    stopped = any(state == STOP for state, *_ in lines)
    if todo:
        print("\nWhat to do:")
    for number, line in enumerate(todo, 1):
        print(f"  {number}. {line}")
    if course and not todo:
        print("\nNothing is missing. Next: make lab (without make: python tools/make.py lab)")
    if stopped:
        print("\nAs it is, the course does not run here. docs/troubleshooting.md says more.")
    if not course:
        print("\nSend all lines above to whoever sent you this file. They name no person.")
    return 1 if stopped else 0


# Each line: state, what is looked at, what was found, what to do unless it is OK.
Line = tuple


def python_line(ready: bool) -> Line:
    number = platform.python_version()
    if sys.version_info < OLDEST:  # noqa: UP036 - this file is what tells people
        advice = "install Python 3.11 or newer, and run this with it, e.g. python3.12 check.py"
        return STOP, "Python", f"{number}; the course needs 3.11 or newer", advice
    if sys.maxsize < 2**32:
        return STOP, "Python", f"{number}, 32 bits", "install the 64-bit Python: PyTorch needs it"
    if not ready and any(importlib.util.find_spec(m) is None for m in ("venv", "ensurepip")):
        advice = "on Debian and Ubuntu: sudo apt install python3-venv; else install Python anew"
        return STOP, "Python", f"{number}, without its module venv", advice
    newer = sys.version_info[:2] > NEWEST_TESTED
    return OK, "Python", number + (" (newer than those tested, 3.11 and 3.13)" if newer else ""), ""


def system_line() -> Line:
    """Whether there is a ready-made package of PyTorch: for Linux with glibc, Apple silicon with
    macOS 14 or newer, and Windows with an Intel or AMD processor."""
    system, machine = platform.system(), platform.machine().lower()
    name = f"{system} on {machine}"
    if system == "Darwin" and machine == "x86_64":
        return STOP, "system", name, "PyTorch has no package for Intel Macs: take Colab (README.md)"
    if system == "Darwin" and int(platform.mac_ver()[0].partition(".")[0] or 14) < 14:
        return STOP, "system", f"macOS {platform.mac_ver()[0]}", "update to macOS 14 or newer"
    if system == "Windows" and machine == "arm64":
        return STOP, "system", name, "PyTorch has no package for it: take Colab (README.md)"
    if system == "Linux" and platform.libc_ver()[0] not in ("glibc", ""):
        advice = "PyTorch's packages need glibc, as in Debian, Ubuntu or Fedora; or take Colab"
        return STOP, "system", f"{name}, without glibc", advice
    return OK, "system", name, ""


def disk_line(ready: bool) -> Line:
    free = shutil.disk_usage(ROOT).free / 1e9
    needed = WHOLE_DISK - (SET_UP_DISK if ready else 0)
    fact = f"{free:.0f} GB free; {needed} GB for all notebooks"
    fact += "" if ready else f", {SET_UP_DISK} of them for the set-up"
    if free < (1 if ready else SET_UP_DISK):
        return STOP, "disk", fact, "free some space, or put the course's folder on another disk"
    if free < needed:
        advice = "enough to begin. Delete folders in runs/ as you go, or set COURSE_RUNS elsewhere"
        return NEXT, "disk", fact, advice
    return OK, "disk", fact, ""


def memory_line(memory: int | None) -> Line:
    if memory is None:
        return OK, "memory", "unknown", ""
    size = memory / 1e9
    fact = f"{size:.1f} GB that the course may use"
    if size < LEAST_MEMORY:
        return STOP, "memory", fact, "too little for a notebook: use Colab or another machine"
    if size < LOW_MEMORY:
        advice = "close other programs, keep one notebook open; training uses its low-memory mode"
        return NEXT, "memory", fact, advice
    return OK, "memory", fact, ""


def cores_line(gflops: float | None) -> Line:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    speed = "; the speed is measured after the set-up"
    if gflops:
        speed = f", {gflops:.0f} GFLOP/s right now (32-bit matrices)"
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > count / 2:
        advice = "other programs are computing, so the minutes are too many: close them and retry"
        return NEXT, "cores", f"{count}{speed}", advice
    return OK, "cores", f"{count}{speed}", ""


def gpu_line(device: str | None) -> Line:
    if device == "cpu":
        return OK, "GPU", "none that PyTorch can use; none is needed", ""
    if device:
        return OK, "GPU", f"used as {device}", ""
    seen = "NVIDIA's driver is there" if shutil.which("nvidia-smi") else "none seen; none is needed"
    return OK, "GPU", seen, ""


def packages_line(found: dict) -> Line:
    advice = "make lab installs them (without make: python tools/make.py lab)"
    if not found:
        return NEXT, "packages", "not installed yet", advice
    if found["lacking"]:
        fact = f"missing or of another version: {', '.join(found['lacking'])}"
        return NEXT, "packages", fact, advice
    if "broken" in found:
        advice = "delete the folder .venv, then make lab; docs/troubleshooting.md has more"
        return STOP, "packages", f"PyTorch does not start: {found['broken'][:120]}", advice
    return OK, "packages", f"all there, PyTorch {found['torch']}", ""


def model_line(there: bool, cache: Path) -> Line:
    if there:
        return OK, "starting model", "there", ""
    disk = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(disk).free / 1e6
    fact = f"not there yet: 93 MB to fetch, {MODEL_MEGABYTES} MB of space"
    if free < MODEL_MEGABYTES:
        advice = f"{free:.0f} MB are free there: set COURSE_CACHE to a folder on another disk"
        return STOP, "starting model", fact, advice
    return NEXT, "starting model", fact, "make lab fetches it"


def network_line() -> Line:
    """Whether pip gets a small package, with what it knows of proxies, mirrors and certificates.

    With a wheelhouse (`make wheelhouse`), the set-up asks no network. Its path is not printed: it
    may hold a person's name.
    """
    named = os.environ.get("COURSE_WHEELHOUSE")
    if Path(named or ROOT / "wheelhouse").is_dir():
        return OK, "network", "none needed: make lab installs from the wheelhouse", ""
    if named:
        advice = "give COURSE_WHEELHOUSE the folder's path, or unset it to use the network"
        return STOP, "network", "COURSE_WHEELHOUSE names no folder", advice
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-cache-dir", "--retries", "1", "--timeout", "8", TRIED_PACKAGE]
    with tempfile.TemporaryDirectory() as folder:
        command += ["--dest", folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            reason = "" if done.returncode == 0 else cause(done.stderr)
        except subprocess.TimeoutExpired:
            reason = CAUSES["timed out"]
    if not reason:
        return OK, "network", "the package index can be reached", ""
    advice = f"pip {reason}. docs/troubleshooting.md has more under Network"
    return STOP, "network", "pip could not fetch a package", advice


def probe() -> dict:
    """What the course's environment says about itself; nothing when there is none that works."""
    python = ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    try:
        done = subprocess.run(
            [str(python), "-c", PROBE], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        return json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}


def usable_memory() -> int | None:
    """Bytes of memory, or of the container's limit; None where the system does not tell."""
    if os.name == "nt":
        status = (ctypes.c_ulonglong * 8)()  # MEMORYSTATUSEX: two 32-bit numbers, then seven of 64
        status[0] = ctypes.sizeof(status)
        done = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return int(status[1]) if done else None
    try:
        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (OSError, ValueError):
        return None
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path("/sys/fs/cgroup", file).read_text(encoding="ascii")))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(limits)


def minutes(gflops: float | None = None) -> dict[str, dict[str, float]]:
    """Profile to notebook to minutes, on a machine of this speed or on the reference machine."""
    measured = json.loads((ROOT / "data" / "minutes.json").read_text(encoding="utf-8"))
    found = {}
    for profile, times in measured.items():
        slower = times["gflops"] / gflops if gflops else 1
        found[profile] = {name: one * slower for name, one in times["minutes"].items()}
    return found


def fitting_profile(memory: int | None, here: dict, device: str | None) -> tuple[str, str]:
    """The profile to take, and in words why and how."""
    if device == "cuda":
        return "gpu", " (set COURSE_PROFILE=gpu); for shorter runs laptop, the default"
    if memory is not None and memory < LOW_MEMORY * 1e9:
        return "quick", " (set COURSE_PROFILE=quick), because of the memory"
    if here and sum(here["laptop"].values()) > 60 * MOST_HOURS:
        return "quick", " (set COURSE_PROFILE=quick), because of the speed"
    return "laptop", ", the default"


def times(profile: str, here: dict) -> str:
    """How long each notebook takes in this profile, here or on the reference machine.

    For `gpu`, which was not timed, those of `laptop` without a GPU, and words that say so.
    """
    known, note = here or minutes(), ""
    if profile not in known:
        note = f"The profile {profile} was not timed; its runs are larger than those of laptop.\n"
        note += "With laptop, expect at most what the processor alone would take:\n"
        profile = "laptop"
    taken = known[profile]
    whose = "here, roughly" if here else "on the reference machine; for this one after the set-up"
    names = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    each = {name.split("_")[0]: round(taken[name]) if name in taken else "?" for name in names}
    parts = ", ".join(f"{number}: {one or 1}" for number, one in each.items())
    return f"{note}Minutes {whose} ({sum(taken.values()):.0f} in all):\n  {parts}"


def cause(said: str) -> str:
    """In words why pip failed, out of what it said."""
    words = (meaning for pattern, meaning in CAUSES.items() if re.search(pattern, said))
    return next(words, f"found no {TRIED_PACKAGE} there")


if __name__ == "__main__":
    sys.exit(main())
