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

from sphinx.cmd.build import build_main

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.sync_notebooks import address  # noqa: E402

LINK = re.compile(r"(?<=\]\()([^)\s:#]+)(?=[)#])")
ROAD = re.compile(r"!\[[^\]]*\]\(docs/road\.svg\)")
# The pages beside README.md, which is the front page.
SOURCES = ("notebooks/*.ipynb", "docs/*.md", "data/README.md")
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
    """docs/road.svg as part of a page: as one image it would hide its links, and these say what its
    description says."""
    svg = (ROOT / "docs" / "road.svg").read_text(encoding="utf-8")
    svg = re.sub(r"<desc.*?</desc>\n", "", svg).replace('role="img"', 'role="group"')
    svg = svg.replace('"title says"', '"road"').replace('id="title"', 'id="road"')
    return f'<div class="road">{svg}</div>'


if __name__ == "__main__":
    status = build(ROOT / "site")
    if status == 0:
        print(f"The site is built: {ROOT / 'site' / 'index.html'}")
    sys.exit(status)
