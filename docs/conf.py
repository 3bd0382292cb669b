"""Sphinx configuration: `make docs` builds a site that asks nothing of the network, and takes warnings for errors."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from accessible import mend  # noqa: E402
from parts import write_parts  # noqa: E402

from robassay.version import __version__  # noqa: E402

project = "robassay"
author = "The robassay authors"
copyright = "The robassay authors, Apache-2.0"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Raises (when used)", "Raises (when first used)", "Raises (when computed)"]

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


def _errors(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """What a part refuses when it is made stands in its code; the page says so where the docstring does not."""
    made = vars(obj).get("__post_init__") if what == "class" and isinstance(obj, type) else None
    if made is not None and "UsageError(" in inspect.getsource(made) and not any("UsageError" in s for s in lines):
        lines += ["", "Raises:", "    UsageError: a value that it cannot take; the message says what to write instead."]


def _there(app: object, page: str, source: list[str]) -> None:
    """Patterns of a table of contents that match no page are left out: not every checkout has all pages."""
    folder = (HERE / page).parent
    kept = [s for s in source[0].split("\n") if not re.fullmatch(r"[\w./-]+\*", s) or list(folder.glob(s + ".md"))]
    source[0] = "\n".join(kept)


def _accessible(app: object, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":  # type: ignore[attr-defined]
        mend(Path(app.outdir))  # type: ignore[attr-defined]


def setup(app: object) -> None:
    """Write the pages of the parts before they are read."""
    app.connect("autodoc-process-docstring", _escape, priority=100)  # type: ignore[attr-defined]
    app.connect("autodoc-process-docstring", _errors, priority=50)  # type: ignore[attr-defined]
    app.connect("source-read", _there)  # type: ignore[attr-defined]
    app.connect("build-finished", _accessible)  # type: ignore[attr-defined]
    write_parts(HERE / "reference" / "parts")
