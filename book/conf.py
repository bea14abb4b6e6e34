"""Sphinx's settings for the book. ``python book/build.py`` lays out its sources and builds it."""

import hashlib
import os
import re
import sys
import unicodedata
from base64 import b64decode
from importlib import import_module
from io import BytesIO
from pathlib import Path

import nbformat
from docutils import nodes
from PIL import Image
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.search.en import SearchEnglish

from ismkit import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # Sphinx reads this file, not its folder
figures, folds = import_module("figures"), import_module("folds")

project = "ismkit"
author = copyright = "The ismkit authors"
version = release = __version__
html_title = "ismkit"

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx.ext.viewcode", "myst_nb"]
extensions += ["sphinx_copybutton"]  # its script is served by the book, and works offline
copybutton_selector = "div.highlight pre:not(.cell_output pre)"
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

nb_execution_mode = "off"  # the committed outputs are the book's
nb_merge_streams = True
nb_render_markdown_format = "myst"  # of outputs: tables too
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Names without an inventory to look them up in: nothing is fetched while the book is built.
FOREIGN = "pd|accelerate|argparse|collections|datetime|matplotlib|nbformat|numpy|os|pathlib|torch|types|typing"
nitpick_ignore_regex = [("py:.*", rf"({FOREIGN})\..*")]
# The same where autodoc leaves a name as the source has it: in the arguments of classes, and beside names that are
# imported for the type checker alone.
nitpick_ignore = [
    ("py:class", name)
    for name in (
        "Dataset",
        "Hook",
        "Image",
        "Path",
        "PathLike",
        "Tensor",
        "nn.Module",
        "ismkit.utils.settings.T",
        "ismkit.sweeps.processes.Item",
    )
]

# Nothing is fetched while the book is read: MathJax with all its TeX extensions is one file of the book.
MATHJAX = Path(import_module("sphinx-mathjax-offline").__file__ or "").parent / "static" / "mathjax"
html_static_path = ["_static", str(MATHJAX / "tex-svg-full.js")]
mathjax_path = "tex-svg-full.js"

html_theme = "sphinx_book_theme"
templates_path = ["_templates"]
html_css_files = ["book.css"]
html_js_files = ["reading.js"]
html_use_index = html_domain_indices = False  # {doc}`api` lists the modules, and the search finds names
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}
# Modules are in the sidebar of their own pages alone: 81 links more would be on each of the others.
html_theme_options = {
    "use_fullscreen_button": False,
    "navbar_persistent": [],
    "show_toc_level": 2,
    "collapse_navbar": True,
}

#: The repository's address, ``https://github.com/OWNER/NAME``, its one place; empty: no page has a button.
REPOSITORY = os.environ.get("ISMKIT_REPOSITORY", "")
if REPOSITORY:
    html_theme_options |= {
        "repository_url": REPOSITORY,
        "repository_branch": "main",
        "launch_buttons": {
            "notebook_interface": "jupyterlab",
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
        },
    }

LONGEST = 200  # characters of the value of a constant


def anchor(claim: str) -> str:
    """The fragment of the cell that tests a claim: ``C03.law`` is at ``#claim-c03-law``."""
    return "claim-" + re.sub("[._]", "-", claim.lower())


def mark_claims(app: Sphinx, doctree: nodes.document) -> None:
    """Give each cell that checks a claim an anchor, which the ledger's page links to by its label."""
    standard = app.env.domains.standard_domain
    for cell in doctree.findall(
        lambda node: isinstance(node, nodes.container) and node.get("nb_element") == "cell_code"
    ):
        for claim in folds.CHECK.findall(cell.astext()):
            cell["ids"].append(anchor(claim))
            standard.note_hyperlink_target(anchor(claim), app.env.docname, anchor(claim), claim)


def describe_figures(app: Sphinx, doctree: nodes.document) -> None:
    """Take the figures' alt text over from the notebook: MyST-NB knows of none but a cell's. Add a dark variant."""
    path = Path(app.env.doc2path(app.env.docname))
    if path.suffix != ".ipynb":
        return
    known = {}
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                png = b64decode(png)
                known[hashlib.sha256(png).hexdigest()] = png, output.metadata.get("image/png", {})
    for image in list(doctree.findall(nodes.image)):
        png, about = known.get(Path(image["uri"]).stem, (b"", {}))  # MyST-NB names a figure by its sum
        if "alt" in about:
            image["alt"] = about["alt"]
        if png:
            load_late(image, png)
        if "pictures" in about:
            add_dark(app, image, png, about["pictures"])


HIGHEST = 336  # pixels of a figure, which fits a screen then with the text about it


def load_late(image: nodes.image, png: bytes) -> None:
    """Let a figure be loaded once it is near and shown, as of two variants one is. What is around it does not move."""
    width, height = Image.open(BytesIO(png)).size
    shown = min(int(image.get("width", width)), HIGHEST * width / height)
    image["width"], image["height"] = str(round(shown)), str(round(shown * height / width))
    image["loading"] = "lazy"


def add_dark(app: Sphinx, image: nodes.image, png: bytes, pictures: list[list[float]]) -> None:
    """Put the variant of a figure for dark pages beside it; the theme shows one of the two."""
    variant = image.deepcopy()
    variant["uri"] = image["uri"].removesuffix(".png") + ".dark.png"
    Path(app.env.relfn2path(variant["uri"], app.env.docname)[1]).write_bytes(figures.dark(png, pictures))
    image["classes"].append("only-light")
    variant["classes"].append("only-dark")
    image.parent.insert(image.parent.index(image) + 1, variant)


def made_static(app: Sphinx, config: Config) -> None:
    """Take files that the build made: Sphinx marks the address of each by its sum, so that no old one is kept."""
    if (made := Path(app.outdir).parent / "static").is_dir():
        config.html_static_path.append(str(made))


def load_scripts(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """Load what draws explorable figures and moves stored frames, on the pages that have one."""
    if 'class="frames"' in context.get("body", ""):
        app.add_js_file("frames.js", loading_method="defer")
    if 'class="explorable"' in context.get("body", ""):
        app.add_js_file("explore/explore.js", loading_method="defer")
        app.add_css_file("explore/explore.css")


def leave_out_long_values(app: Sphinx, doctree: nodes.document) -> None:
    """Show no value of a constant that would fill pages, such as a table of runs; the module's source has it."""
    for value in list(doctree.findall(addnodes.desc_annotation)):
        text = value.astext()
        if text.lstrip().startswith("=") and len(text) > LONGEST:
            value.parent.remove(value)


def leave_out_fields(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """Leave out the fields of named tuples: Python says no more of each than its number, and the class has them all."""
    return True if type(obj).__name__ == "_tuplegetter" else None


class WithoutAccents(SearchEnglish):
    """Finds "Fréchet" by "Frechet" and the other way round: accents count neither in the index nor in what is asked."""

    js_splitter_code = """
var splitQuery = (query) => query.normalize("NFKD").replace(/\\p{M}/gu, "")
  .split(/[^\\p{Letter}\\p{Number}_\\p{Emoji_Presentation}]+/gu).filter((term) => term);
"""

    def split(self, input: str) -> list[str]:
        """The words of a text, without accents."""
        parts = unicodedata.normalize("NFKD", input)
        return super().split("".join(part for part in parts if not unicodedata.combining(part)))


def load_filter(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """Load what filters the table of claims, on its page."""
    if page == "ledger":
        app.add_js_file("ledger.js", loading_method="defer")


def before_napoleon(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Let docstrings say ``|x|``, ``fast, slow: decays``, and of an attribute or a result ``Where: in the folder``."""
    example = False
    for i, line in enumerate(lines):
        example = line.lstrip().startswith(">>> ") or (example and bool(line.strip()))
        if example:  # as it is, with its output
            continue
        line = re.sub(r"(``.*?``)|\|", lambda match: match[1] or r"\|", line)
        line = re.sub(r"^ +\w+(, \w+)+:", lambda match: match[0].replace(", ", ","), line)
        if what in ("attribute", "data", "property") or lines[i - 1].strip() == "Returns:":
            line = line.replace(":", "\0")  # Napoleon takes what is before a colon here for a type
        lines[i] = line


def after_napoleon(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Put the colons back."""
    lines[:] = [line.replace("\0", ":") for line in lines]


def setup(app: Sphinx) -> None:
    """Connect what is above; Napoleon has priority 500."""
    app.add_search_language(WithoutAccents)
    folds.setup(app)
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
    app.connect("autodoc-skip-member", leave_out_fields)
    app.connect("doctree-read", mark_claims)
    app.connect("doctree-read", leave_out_long_values)
    app.connect("doctree-read", describe_figures, priority=400)  # before Sphinx collects the images, at 500
    app.connect("config-inited", made_static)
    app.connect("html-page-context", load_scripts)
    app.connect("html-page-context", load_filter)
