"""Each message that docs/troubleshooting.md quotes as ours is still said somewhere in the code."""

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^> (.+)$", TEXT, re.MULTILINE)


def text_of(node: ast.expr) -> str | None:
    """A text of the code, with … for what it fills in; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"\{[^{}]*\}", "…", node.value)  # of str.format
    if isinstance(node, ast.JoinedStr):
        parts = (text_of(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
        return "".join(parts)
    return None


@lru_cache
def said() -> list[str]:
    """Every text of helpers/ and tools/."""
    paths = [*(ROOT / "helpers").rglob("*.py"), *(ROOT / "tools").glob("*.py")]
    nodes = (n for path in paths for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return [text for node in nodes if (text := text_of(node))]


def is_said(quote: str, texts: list[str]) -> bool:
    """Whether the parts of a quotation, between its …, stand in one text in this order."""
    pattern = re.compile(".*".join(map(re.escape, quote.split("…"))), re.DOTALL)
    return any(pattern.search(text) for text in texts)


def test_there_are_quotations_and_an_invented_one_is_noticed():
    assert len(QUOTED) > 15
    assert not is_said("The moon is … in the way.", said())


@pytest.mark.parametrize("quote", QUOTED, ids=lambda quote: quote[:40])
def test_each_quoted_message_is_said_by_the_code(quote):
    assert re.search(r"\w{4}", quote)
    assert is_said(quote, said()), "no text of helpers/ or tools/ has these words"


def test_each_setting_it_names_is_read_by_the_code():
    code = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("helpers", "tools")
        for path in (ROOT / folder).rglob("*.py")
    )
    assert [name for name in set(re.findall(r"COURSE_[A-Z]+", TEXT)) if name not in code] == []
