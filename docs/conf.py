"""Sphinx configuration: `make docs` builds a site that asks nothing of the network, and takes warnings for errors."""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from parts import write_parts  # noqa: E402

from robassay.version import __version__  # noqa: E402

project = "robassay"
author = "The robassay authors"
copyright = "The robassay authors, Apache-2.0"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Raises (when used)", "Raises (when first used)"]

html_theme = "furo"
html_title = "robassay"
html_static_path: list[str] = []
html_show_sphinx = False
html_copy_source = False

OUTSIDE = re.compile(r"(``.+?``|:\w+:`.+?`|`[^`]+?`)")


def _escape(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Our docstrings write |u| and √Σ w* as they are; reStructuredText would take bars and stars for its own."""
    for i, line in enumerate(lines):
        pieces = OUTSIDE.split(line)
        pieces[::2] = [p.replace("|", r"\|").replace("*", r"\*") for p in pieces[::2]]
        lines[i] = "".join(pieces)


def setup(app: object) -> None:
    """Write the pages of the parts before they are read."""
    app.connect("autodoc-process-docstring", _escape, priority=100)  # type: ignore[attr-defined]
    write_parts(HERE / "reference" / "parts")
