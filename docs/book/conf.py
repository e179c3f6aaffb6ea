"""Sphinx's settings for the site. tools/book.py brings the pages together and calls Sphinx."""

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

project = html_title = "First fine-tune"
language = "en"
extensions = ["myst_nb"]
nb_execution_mode = "off"  # the outputs stored in the notebooks are shown as they are
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

html_theme = "sphinx_book_theme"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_copy_source = html_show_copyright = html_use_index = False
html_math_renderer = "mathml"
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
    "show_toc_level": 2,
}


def setup(app: Sphinx) -> None:
    # Sphinx's own way with formulas loads MathJax from another host. MathML needs no script.
    app.add_html_math_renderer("mathml", (formula, None), (displayed_formula, None))


def formula(translator: nodes.NodeVisitor, node: nodes.math) -> None:
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def displayed_formula(translator: nodes.NodeVisitor, node: nodes.math_block) -> None:
    translator.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode
