"""Looks through the built site: links between its pages lead somewhere, and no page asks for anything from elsewhere.

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
    """The anchors of a page, where it links to, and what it asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.asked: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
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
    print(
        "\n".join(wrong)
        or f"{len(list(Path(sys.argv[1]).rglob('*.html')))} pages: no dead link, nothing from elsewhere"
    )
    sys.exit(bool(wrong))
