"""Looks through the built site: links between its pages lead somewhere, no page asks for anything from elsewhere, and
whatever scrolls can be reached by keyboard.

Run:   python docs/check.py docs/_build
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ASKS = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src")}
NO_REQUEST = {"canonical", "author", "license", "search", "next", "prev", "index", "genindex"}
"""Relations of a <link> that a browser does not fetch."""


class Page(HTMLParser):
    """The anchors of a page, where it links to, what it asks for, and what is out of a keyboard's reach."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.asked: list[str] = []
        self.barred: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        scrolls = tag == "pre" or "table-wrapper" in given.get("class", "").split()
        if scrolls and "tabindex" not in given:
            self.barred.append(f"has a <{tag}> that no keyboard reaches")
        if given.get("role") == "heading" and "aria-level" not in given:
            self.barred.append("has a heading without a level")
        if tag == "aside" and "aria-label" not in given and "class" in given:
            self.barred.append("has an aside without a name")
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") in NO_REQUEST:
            return
        self.asked += [given[name] for where, name in ASKS if where == tag and name in given]


def faults(site: Path) -> list[str]:
    """What is wrong with a site, one line each."""
    pages = {file: Page(file.read_text(encoding="utf-8")) for file in site.rglob("*.html")}
    found = []
    for file, page in pages.items():
        name = file.relative_to(site)
        found += [f"{name} {what}" for what in dict.fromkeys(page.barred)]
        for address in page.asked:
            if urlsplit(address).netloc or address.startswith("//"):
                found.append(f"{name} asks for {address}")
            elif not address.startswith("data:") and not (file.parent / unquote(urlsplit(address).path)).exists():
                found.append(f"{name} asks for {address}, which is not there")
        for address in page.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file.resolve()
            if not target.exists():
                found.append(f"{name} links to {address}, which is not there")
            elif parts.fragment and target.suffix == ".html":
                other = pages.get(site / target.relative_to(site.resolve()))
                if other is not None and unquote(parts.fragment) not in other.ids:
                    found.append(f"{name} links to {address}, which names nothing there")
    return found


if __name__ == "__main__":
    wrong = faults(Path(sys.argv[1]))
    pages = len(list(Path(sys.argv[1]).rglob("*.html")))
    print("\n".join(wrong) or f"{pages} pages: no dead link, nothing from elsewhere, nothing out of reach")
    sys.exit(bool(wrong))
