"""All that `make` does, for machines with and without make. Needs only Python's standard library.

    python tools/make.py lab        set up, then open JupyterLab on the first notebook
    python tools/make.py course     set up, then run every notebook and write executed/index.html
    python tools/make.py test       set up, then run everything that must pass
    python tools/make.py bench      set up, then compare the speed of training and answering
    python tools/make.py setup      set up only: .venv, its packages, the starting model
    python tools/make.py constraints    renew constraints.txt from a fresh environment

Each can be interrupted and typed again. What follows on the line goes to the last step, for example
`course 04 --publish` or `test -k split`.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OLDEST, NEWEST_TESTED = (3, 11), (3, 13)
if sys.version_info < OLDEST:  # noqa: UP036 - this file is what tells people with an older Python
    sys.exit(
        "The course needs Python 3.11 or newer, and this is Python {}.{}. Install a newer one and "
        "name it: 'make lab PYTHON=python3.12', or without make: 'python3.12 tools/make.py lab'. "
        "Nothing was changed.".format(*sys.version_info[:2])
    )

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
TORCH = "torch==2.13.0"
FREE_GB_NEEDED = 3
AGAIN = (
    "If that is about the network or about space, mend it and type the command again: finished "
    "downloads are kept."
)
FILLING = "filling"


class SetupError(Exception):
    """A set-up that cannot go on: what happened and what to do."""


def venv_python(venv: Path) -> Path:
    """The interpreter inside a virtual environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def stamp_key(requirements: str) -> str:
    """What an environment was filled from: file name, Python, and a hash of all pinned versions."""
    digest = hashlib.sha256(TORCH.encode())
    for path in sorted(ROOT.glob("requirements*.txt")) + [ROOT / "constraints.txt"]:
        digest.update(path.read_bytes())
    return "{} {}.{} {}".format(requirements, *sys.version_info[:2], digest.hexdigest()[:16])


def set_up(requirements: str, venv: Path = VENV) -> None:
    """Make `venv` and install the packages of `requirements`, unless that was done before.

    The file stamp.txt in the environment tells how far it came: FILLING while packages are being
    installed, the keys of what is installed afterwards. An environment that still says FILLING was
    interrupted, and nobody knows which package is half there: it is made anew. pip has the finished
    downloads in its cache. Of two set-ups at once, one waits for the other.

    Raises SetupError: no space, no permission, an installation that fails.
    """
    key = stamp_key(requirements)
    if is_filled(venv, key):
        return
    try:
        with alone(venv):
            if not is_filled(venv, key):
                fill(venv, requirements)
    except OSError as error:
        raise SetupError(
            f"The set-up could not go on: {error}. It needs {FREE_GB_NEEDED} GB in {venv.parent} "
            "and must be allowed to write there. Mend that and type the command again."
        ) from error


def read_stamp(venv: Path) -> str:
    """How far the environment came; "" when nobody knows."""
    stamp = venv / "stamp.txt"
    return stamp.read_text(encoding="utf-8", errors="replace") if stamp.exists() else ""


def is_filled(venv: Path, key: str) -> bool:
    """True when the environment has all that `key` stands for."""
    return key in read_stamp(venv).splitlines() and works(venv)


@contextmanager
def alone(venv: Path) -> Iterator[None]:
    """Let one set-up at a time work on an environment; the others wait.

    The lock is the system's, so that it is free again when its process is killed.
    """
    with open(f"{venv}.lock", "w") as file:
        if not take(file.fileno()):
            say(f"Another set-up is at work on {venv.name}: waiting for it.")
            while not take(file.fileno()):
                time.sleep(0.2)
        yield


def take(file: int) -> bool:
    """Take the lock on an open file. False when somebody has it."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        pass  # some network disks know no locks: then we go on without
    return True


def fill(venv: Path, requirements: str) -> None:
    """Install the packages of `requirements` into `venv`; anew if it is unfinished or foreign."""
    state = read_stamp(venv)
    if venv.exists() and (state == FILLING or not works(venv)):
        say(f"{venv.name} is unfinished or of another Python: making it anew.")
        # First what `works` looks at: an interruption must not leave a half that seems whole.
        venv_python(venv).unlink(missing_ok=True)
        shutil.rmtree(venv)
    if shutil.disk_usage(ROOT).free < FREE_GB_NEEDED * 1e9:
        raise SetupError(
            f"The disk of {ROOT} has less than {FREE_GB_NEEDED} GB free, and the packages need "
            "nearly that much. Free some space and type the command again."
        )
    say(f"Installing the packages into {venv.name}: once, some minutes.")
    venv.mkdir(exist_ok=True)
    stamp = venv / "stamp.txt"
    stamp.write_text(FILLING, encoding="utf-8")
    python = venv_python(venv)
    if not python.exists():
        run(
            [sys.executable, "-m", "venv", str(venv)],
            "No virtual environment could be made. On Debian and Ubuntu the package python3-venv "
            "has to be installed first.",
        )
    install_torch(python)
    pinned = ["-c", "constraints.txt"] if sys.version_info[:2] <= NEWEST_TESTED else []
    run(
        [*pip_install(python), "-r", requirements, *pinned],
        f"The packages could not be installed; pip's message is above. {AGAIN}",
    )
    # The tests' requirements include the learner's.
    keys = {stamp_key(requirements), stamp_key("requirements.txt")}
    stamp.write_text("\n".join(sorted(keys)), encoding="utf-8")


def works(venv: Path) -> bool:
    """True when the environment's interpreter runs and is of this Python's version."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run(
            [str(venv_python(venv)), "-c", code], capture_output=True, text=True, check=False
        )
    except OSError:
        return False
    return done.stdout.split() == [str(number) for number in sys.version_info[:2]]


def pip_install(python: Path) -> list[str]:
    """The start of a pip command line."""
    return [str(python), "-m", "pip", "install", "--disable-pip-version-check"]


def torch_attempts(python: Path, system: str, gpu: bool) -> list[list[list[str]]]:
    """Ways to install torch, best first; each is a list of commands that must all succeed.

    On Linux the package index's own torch brings several GB of GPU libraries. Without a GPU we
    first ask for the CPU build by its name, which only some indexes have, then let uv find it.
    On macOS and Windows the plain package is the CPU build.
    """
    pip = pip_install(python)
    plain = [[*pip, TORCH]]
    if system != "Linux" or gpu:
        return [plain]
    named = [[*pip, f"{TORCH}+cpu"]]
    by_uv = [
        [*pip, "uv>=0.7.14"],
        [str(python), "-m", "uv", "pip", "install", "--python", str(python)]
        + ["--torch-backend=cpu", TORCH],
    ]
    return [named, by_uv, plain]


def install_torch(python: Path) -> None:
    """Install torch, unless the environment has that version and it works."""
    code = "import torch; print(torch.__version__)"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    if f"torch=={done.stdout.strip().partition('+')[0]}" == TORCH:
        return
    attempts = torch_attempts(python, platform.system(), has_gpu())
    for attempt in attempts[:-1]:
        # What pip says about a build that an index lacks would read like a failure: it is not one.
        if all(
            subprocess.run(command, stderr=subprocess.DEVNULL, cwd=ROOT).returncode == 0
            for command in attempt
        ):
            return
        say("That build of PyTorch is not to be had here: trying the next way.")
    for command in attempts[-1]:
        run(command, f"PyTorch could not be installed; pip's message is above. {AGAIN}")


def has_gpu() -> bool:
    """True when NVIDIA's own tool lists a GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    done = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and "GPU" in done.stdout


def prepare_model() -> None:
    """Get the starting model into its cache; helpers/models.py does it and explains what fails."""
    run([str(venv_python(VENV)), "-m", "helpers.models"], "The starting model is not ready.")


def lab(arguments: list[str]) -> int:
    """Open JupyterLab on the first notebook; ends when JupyterLab does."""
    command = [str(venv_python(VENV)), "-m", "jupyterlab", "--ServerApp.root_dir=."]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # in a container, root is the only user there is
    server = subprocess.Popen([*command, "notebooks/00_start_here.ipynb", *arguments], cwd=ROOT)
    while True:
        try:
            return server.wait()
        except KeyboardInterrupt:
            continue  # JupyterLab got it as well, and asks whether to stop


def course(arguments: list[str]) -> int:
    """Run the notebooks and write the report."""
    return step([str(venv_python(VENV)), "tools/run_course.py", *arguments])


def test(arguments: list[str]) -> int:
    """Everything that must pass: ruff, the unit tests, every cell of every notebook."""
    python = str(venv_python(VENV))
    results = ROOT / "runs" / "test"
    # A learner's results must not help the notebooks through.
    shutil.rmtree(results, ignore_errors=True)
    environment = {
        **os.environ,
        "COURSE_PROFILE": "quick",
        "COURSE_RUNS": str(results),
        "HF_HUB_OFFLINE": "1",
    }
    # Notebooks have to find the helpers by themselves, as they do on a learner's machine.
    environment.pop("PYTHONPATH", None)
    notebooks = [str(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    nbval = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=900", "-x"]
    commands = [
        ["ruff", "check", "."],
        ["pytest", *arguments],
        ["pytest", *nbval, "--durations=15", *notebooks],
    ]
    for command in commands:
        failed = step([python, "-m", *command], environment)
        if failed:
            return failed
    return 0


def bench(arguments: list[str]) -> int:
    """Compare training and answering with the usual ways; `bench answers` does only one of them."""
    for name in arguments or ["loop", "answers"]:
        failed = step([str(venv_python(VENV)), "-m", f"benchmarks.{name}"])
        if failed:
            return failed
    return 0


def constraints() -> None:
    """Write constraints.txt: what pip chooses today for requirements-dev.txt."""
    with tempfile.TemporaryDirectory() as folder:
        venv = Path(folder) / "venv"
        run([sys.executable, "-m", "venv", str(venv)], "No virtual environment could be made.")
        python = venv_python(venv)
        install_torch(python)
        install = [*pip_install(python), "-r", "requirements-dev.txt"]
        run(install, "The packages could not be installed; pip's message is above.")
        freeze = [str(python), "-m", "pip", "freeze"]
        listed = subprocess.run(freeze, capture_output=True, text=True, check=True).stdout
    header = (
        "# Every package of requirements-dev.txt, in the versions that were tested together.\n"
        "# Generated: make constraints. Made with Python {}.{} on {}.\n"
    ).format(*sys.version_info[:2], platform.system())
    lines = pins(listed.splitlines())
    (ROOT / "constraints.txt").write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    say(f"constraints.txt: {len(lines)} packages. Now run: make test")


def pins(freeze: list[str]) -> list[str]:
    """The lines of `pip freeze` that hold on any machine: no local builds, no GPU libraries."""
    kept = []
    for line in freeze:
        name, _, version = line.partition("==")
        if version and not name.startswith("nvidia-") and name not in ("triton", "uv"):
            kept.append(f"{name}=={version.partition('+')[0]}")
    return kept


def say(text: str) -> None:
    print(f"== {text}", flush=True)


def step(command: list[str], environment: dict[str, str] | None = None) -> int:
    """Run one command from the repository's root and return its exit status."""
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def run(command: list[str], complaint: str) -> None:
    """Run one command of the set-up; SetupError with `complaint` when it fails."""
    if step(command) != 0:
        raise SetupError(complaint)


TARGETS = {"lab": lab, "course": course, "test": test, "bench": bench}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in [*TARGETS, "setup", "constraints"]:
        print(__doc__)
        return 2
    target, rest = arguments[0], arguments[1:]
    try:
        if target == "constraints":
            constraints()
            return 0
        more = {"test": "requirements-dev.txt", "bench": "requirements-bench.txt"}
        set_up(more.get(target, "requirements.txt"))
        prepare_model()
    except SetupError as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    return TARGETS[target](rest) if target in TARGETS else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. Type the same command again to go on.")
