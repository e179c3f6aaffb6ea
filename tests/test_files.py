"""Files that are there whole or not at all, whatever goes wrong while they are written."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import files
from helpers.errors import CourseError
from helpers.files import set_aside, write_whole

ROOT = Path(__file__).parent.parent


@pytest.fixture
def kept(tmp_path) -> Path:
    path = tmp_path / "kept.json"
    write_whole(path, "old")
    return path


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def unharmed(path: Path) -> bool:
    names = [one.name for one in path.parent.iterdir()]
    return path.read_text(encoding="utf-8") == "old" and names == [path.name]


def test_a_text_comes_back_as_it_was(tmp_path):
    path = tmp_path / "new" / "folder" / "a.json"
    for text in ("first", "café\r\n1 € = \U0001f600", ""):
        write_whole(path, text)
        assert path.read_bytes() == text.encode("utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_a_failure_at_any_step_leaves_the_old_text_and_nothing_else(kept, monkeypatch, step):
    with monkeypatch.context() as patch:
        if step == "open":
            patch.setattr(files, "open", no_space, raising=False)
        else:
            patch.setattr(files.os, step, no_space)
        with pytest.raises(CourseError, match="No space left .* Free some space"):
            write_whole(kept, "new")
        assert unharmed(kept)
    write_whole(kept, "new")
    assert kept.read_text() == "new"


def test_an_interrupt_leaves_the_old_text_and_nothing_else(kept, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(kept, "new")
    assert unharmed(kept)


def test_a_text_that_no_file_can_hold_leaves_the_old_one(kept):
    with pytest.raises(UnicodeEncodeError):
        write_whole(kept, "half a character: \ud800")
    assert unharmed(kept)


def test_a_disk_that_is_full_half_way_through_the_text(kept):
    # The kernel refuses, after the first 1000 bytes, what a full disk would refuse.
    code = f"""
import resource
from pathlib import Path
from helpers.errors import CourseError
from helpers.files import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_whole(Path({str(kept)!r}), "x" * 5000)
except CourseError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "File too large" in done.stdout
    assert unharmed(kept)


def test_killed_half_way_through_the_text(kept):
    code = f"""
import os, signal
from pathlib import Path
from helpers.files import write_whole
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
write_whole(Path({str(kept)!r}), "new")
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode < 0
    assert kept.read_text() == "old"
    write_whole(kept, "new")
    assert kept.read_text() == "new"


def test_a_folder_that_cannot_be_flushed_does_not_matter(kept, monkeypatch):
    real = os.open

    def no_folders(path, *arguments, **options):
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(files.os, "open", no_folders)
    write_whole(kept, "new")
    assert kept.read_text() == "new"


def test_two_processes_write_and_a_reader_sees_whole_texts_only(kept):
    code = """
import sys
from pathlib import Path
from helpers.files import write_whole
for _ in range(100):
    write_whole(Path(sys.argv[1]), sys.argv[2] * 50_000)
"""
    running = [
        subprocess.Popen([sys.executable, "-c", code, kept, letter], cwd=ROOT) for letter in "ab"
    ]
    seen = set()
    while any(process.poll() is None for process in running):
        seen.add(kept.read_text())
    seen.add(kept.read_text())
    assert [process.returncode for process in running] == [0, 0]
    assert seen <= {"old", "a" * 50_000, "b" * 50_000}
    assert [p.name for p in kept.parent.iterdir()] == [kept.name]


def test_what_is_set_aside_never_replaces_what_was_set_aside_before(tmp_path):
    path = tmp_path / "a.json"
    for text in ("first", "second", "third"):
        path.write_text(text)
        assert set_aside(path).read_text() == text
        assert not path.exists()
    assert sorted(p.read_text() for p in tmp_path.iterdir()) == ["first", "second", "third"]
