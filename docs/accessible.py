"""What the theme's pages lack for readers with a keyboard or a screen reader, put in after they are built."""

from __future__ import annotations

from pathlib import Path

INSTEAD = {
    # Wide code and tables scroll; without a place in the order of tabs a keyboard cannot reach what is out of sight.
    "<pre>": '<pre tabindex="0">',
    '<div class="table-wrapper ': '<div tabindex="0" class="table-wrapper ',
    'class="caption" role="heading">': 'class="caption" role="heading" aria-level="2">',
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="Site">',
    '<aside class="toc-drawer">': '<aside class="toc-drawer" aria-label="On this page">',
    '<aside class="toc-drawer no-toc">': '<aside class="toc-drawer no-toc" aria-label="On this page">',
    # The corner of a table: a head of nothing.
    '<th class="head"><p></p></th>': '<td class="head"></td>',
}
"""What stands in a built page and what has to stand there; nothing of the right occurs on the left."""


def accessible(page: str) -> str:
    """A built page with what it lacks; a page that has it is left as it is."""
    for old, new in INSTEAD.items():
        page = page.replace(old, new)
    return page


def mend(site: Path) -> None:
    """Rewrite every page of a built site."""
    for file in site.rglob("*.html"):
        old = file.read_text(encoding="utf-8")
        new = accessible(old)
        if new != old:
            file.write_text(new, encoding="utf-8")
