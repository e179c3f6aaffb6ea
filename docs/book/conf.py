"""Sphinx's settings for the site. tools/book.py brings the pages together and calls Sphinx."""

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from myst_nb.core.render import MimeData, NbElementRenderer
from sphinx.application import Sphinx

from tools.sync_notebooks import address

project = html_title = "First fine-tune"
language = "en"
extensions = ["myst_nb"]
nb_execution_mode = "off"  # the outputs stored in the notebooks are shown as they are
nb_code_prompt_show, nb_code_prompt_hide = "Show the code", "Hide the code"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

html_theme = "sphinx_book_theme"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_favicon = "favicon.svg"
html_context = {"default_mode": "auto"}  # light or dark, as the reader's machine is set
html_copy_source = html_show_copyright = html_use_index = False
html_math_renderer = "mathml"
html_theme_options = {
    "repository_url": address(),
    "use_repository_button": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
    "footer_content_items": [],
    "navbar_persistent": [],  # the search stands at the side
    "show_toc_level": 2,
}


def setup(app: Sphinx) -> None:
    # Sphinx's own way with formulas loads MathJax from another host. MathML needs no script.
    app.add_html_math_renderer("mathml", (formula, None), (displayed_formula, None))
    # myst-nb has one text alternative for all pictures of a cell.
    NbElementRenderer.render_image = described_picture


def described_picture(renderer: NbElementRenderer, data: MimeData) -> list[nodes.Element]:
    """A picture with the text alternative that is stored beside it."""
    (image,) = picture(renderer, data)
    image["alt"] = data.output_metadata.get(data.mime_type, {}).get("alt", "")
    return [image]


picture = NbElementRenderer.render_image


def formula(translator: nodes.NodeVisitor, node: nodes.math) -> None:
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def displayed_formula(translator: nodes.NodeVisitor, node: nodes.math_block) -> None:
    translator.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode
