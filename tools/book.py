"""Build the site: the notebooks with the outputs stored in them, and the pages beside them.

    python tools/book.py        writes site/; open site/index.html

Nothing is run again, nothing is fetched, and no page of the site asks another host for anything.
Needs requirements-book.txt only. Sphinx's settings stand in docs/book/conf.py.
"""

import json
import posixpath
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from sphinx.cmd.build import build_main

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.sync_notebooks import address  # noqa: E402

LINK = re.compile(r"(?<=\]\()([^)\s:#]+)(?=[)#])")
ROAD = re.compile(r"!\[[^\]]*\]\(docs/road\.svg\)")
SVG, BOX_HEIGHT = "http://www.w3.org/2000/svg", "68"
# The pages beside README.md, which is the front page.
SOURCES = ("notebooks/*.ipynb", "docs/*.md", "data/README.md")
# What a box of docs/road.svg leads to: the notebook that treats it first.
STAGES = {
    "Table": "02_template",
    "Split": "03_split",
    "Template": "02_template",
    "Example": "02_template",
    "Tokens": "04_fine_tune",
    "Model": "00_start_here",
    "Two distributions": "04_fine_tune",
    "Loss": "04_fine_tune",
    "Gradient": "04_fine_tune",
    "Weights": "04_fine_tune",
    "Train": "03_split",
    "Validation": "05_validate",
    "Test": "06_test",
    "New model": "07_instruct_model",
}
# What stands beside each page.
CONTENTS = """
```{toctree}
:hidden:
:glob:
:caption: Notebooks

notebooks/*
```

```{toctree}
:hidden:
:glob:
:caption: More

docs/*
data/README
```
"""


def build(site: Path) -> int:
    """Write the site and return Sphinx's status.

    A warning of Sphinx, such as one about a link that leads nowhere, is a failure, and `site` is
    replaced only when there was none.
    """
    with tempfile.TemporaryDirectory() as temporary:
        sources, built, cache = (Path(temporary, name) for name in ("sources", "site", "cache"))
        stage(sources)
        options = ["--fail-on-warning", "--quiet", "-c", str(ROOT / "docs" / "book")]
        status = build_main([*options, "-d", str(cache), str(sources), str(built)])
        if status == 0:
            shutil.rmtree(site, ignore_errors=True)
            shutil.copytree(built, site)
    return status


def stage(folder: Path) -> None:
    """Write into `folder` what Sphinx reads: README.md as front page, the notebooks, and docs/."""
    pages = {"README.md": "index.md"}
    for pattern in SOURCES:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            pages[name] = name
    for name, place in pages.items():
        prepare = staged_notebook if name.endswith(".ipynb") else staged_text
        text = prepare((ROOT / name).read_text(encoding="utf-8"), name, pages)
        if name == "README.md":
            text = ROAD.sub(lambda _: linked_road(), text) + CONTENTS
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text, encoding="utf-8")
    for image in (ROOT / "docs").glob("*.png"):
        shutil.copy(image, folder / "docs")


def staged_text(text: str, name: str, pages: Mapping[str, str]) -> str:
    """`text`, which is Markdown in the file `name`, with links that hold on the site.

    Files of the repository that are no page of the site are linked where it is published.
    """
    folder = posixpath.dirname(name)

    def target(link: re.Match) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[1]))
        if path in pages:
            return posixpath.relpath(pages[path], folder)
        if path.endswith((".png", ".svg")) or not (ROOT / path).exists():
            return link[1]
        return f"{address()}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path}"

    return LINK.sub(target, text)


def staged_notebook(text: str, name: str, pages: Mapping[str, str]) -> str:
    """The notebook file `text` with links that hold, and hidden code folded.

    JupyterLab's mark for hidden code becomes Sphinx's.
    """
    notebook = json.loads(text)
    # Knows lines such as !git as well.
    notebook["metadata"]["language_info"]["pygments_lexer"] = "ipython3"
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = staged_text("".join(cell["source"]), name, pages)
            continue
        metadata = cell["metadata"]
        if metadata.get("jupyter", {}).get("source_hidden"):
            metadata["tags"] = [*metadata.get("tags", []), "hide-input"]
    return json.dumps(notebook)


def linked_road() -> str:
    """docs/road.svg as part of a page, each box a link to the notebook that treats it first."""
    ElementTree.register_namespace("", SVG)
    svg = ElementTree.fromstring((ROOT / "docs" / "road.svg").read_text(encoding="utf-8"))
    # As one image it would hide its links, and these say what its description says.
    svg.attrib |= {"role": "group", "aria-labelledby": "road"}
    svg.remove(svg.find(f"{{{SVG}}}desc"))
    svg.find(f"{{{SVG}}}title").set("id", "road")
    frames = svg.findall(f"{{{SVG}}}rect[@height='{BOX_HEIGHT}']")
    # Row by row: in this order the Tab key goes through them.
    for frame in sorted(frames, key=lambda frame: corner(frame)[::-1]):
        link = ElementTree.SubElement(svg, "a")
        for part in [part for part in svg if inside(part, frame)]:
            svg.remove(part)
            link.append(part)
        words = [text.text for text in link.iter(f"{{{SVG}}}text")]
        name = words.pop(0)
        link.set("href", f"notebooks/{STAGES[name]}.html")
        # Without it, the lines in the box would be read as one word.
        link.set("aria-label", f"{name}: {' '.join(words)} (notebook {STAGES[name][:2]})")
    return f'<div class="road">{ElementTree.tostring(svg, encoding="unicode")}</div>'


def corner(part: ElementTree.Element) -> tuple[float, float]:
    """Where a part of a drawing starts: x and y."""
    return float(part.get("x", -1)), float(part.get("y", -1))


def inside(part: ElementTree.Element, frame: ElementTree.Element) -> bool:
    """Whether a part of a drawing starts inside of a frame; the frame itself does."""
    (x, y), (left, top) = corner(part), corner(frame)
    return 0 <= x - left <= float(frame.get("width")) and 0 <= y - top <= float(BOX_HEIGHT)


if __name__ == "__main__":
    status = build(ROOT / "site")
    if status == 0:
        print(f"The site is built: {ROOT / 'site' / 'index.html'}")
    sys.exit(status)
