"""The documentation: its code blocks do what it says, its links lead somewhere, and all public names are in it."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import blocks as b
import documented as d
import pytest
import torch

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
GENERATED = ("papers", "reference", "_build")
PAGES = sorted(p for p in DOCS.rglob("*.md") if p.relative_to(DOCS).parts[0] not in GENERATED)
LONG = {"tutorial.md", *(f"how-to/{n}.md" for n in ("spiking-frameworks", "own-defence", "ci-gate", "own-network"))}
LONG |= {"how-to/own-attack.md", "how-to/leaderboard.md", "concepts/verdicts.md"}
EXAMPLES = ("audit_a_module.py", "own_attack.py", "draws_of_the_attacker.py", "spiking_surrogates.py")
ELSEWHERE = {"adding-a-paper.md": "test_adding_a_paper.py", "cluster.md": "test_ray_nodes.py"}
"""Pages whose blocks have a test of their own: one study in pieces, and a cluster."""
NOT_RUN = 3
"""Blocks that need a network, a GPU or an installation; each says so. This number may only fall. What README and the
pages of ELSEWHERE show and nobody executes is held against the command line by test_commands.py."""


def marked(page: Path) -> object:
    name = str(page.relative_to(DOCS))
    return pytest.param(page, id=name, marks=[pytest.mark.long] if name in LONG else [])


@pytest.mark.parametrize("page", [marked(p) for p in PAGES if p.name not in ELSEWHERE])
def test_the_blocks_of_a_page_do_what_it_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the pages in LONG train and audit networks for half a minute."""
    monkeypatch.setenv("COLUMNS", "100")
    b.run_page(page.read_text(encoding="utf-8"), page.name, tmp_path)


@pytest.mark.parametrize("page", ELSEWHERE)
def test_a_page_that_is_tested_elsewhere_is(page: str) -> None:
    assert f'"{page}"' in (Path(__file__).parent / ELSEWHERE[page]).read_text(encoding="utf-8")


def test_few_blocks_are_left_out_and_each_says_why() -> None:
    left = [block for page in PAGES for block in b.blocks(page.read_text(encoding="utf-8")) if block.why]
    assert len(left) <= NOT_RUN, [f"{block.why}" for block in left]


@pytest.mark.parametrize(
    ("said", "printed", "ok"),
    [
        ("robust 12.0 % [8.0, 16.0] (n=200)", "robust 15.5 % [11.0, 20.0] (n=200)", True),
        ("robust 12.0 %", "robust 18.5 %", False),
        ("n=200", "n=201", False),
        ("cosine 0.50", "cosine 0.54", True),
        ("cosine 0.50", "cosine 0.60", False),
        ("artefact (masking)", "artefact (both)", False),
        ("a … 3 checks", "a long and winding 3 checks", True),
        ("a … 3 checks", "a long and winding 4 checks", False),
        ("-0.50", "0.50", False),
        ("two words", "two", False),
    ],
)
def test_stated_output_is_compared(said: str, printed: str, ok: bool) -> None:
    if ok:
        b.same(said, printed, "page")
    else:
        with pytest.raises(AssertionError):
            b.same(said, printed, "page")


def test_a_page_with_wrong_output_fails(tmp_path: Path) -> None:
    page = "```python\nx = 1\nprint(x + 1)\n```\n\n```text\n3\n```\n"
    with pytest.raises(AssertionError, match=r"page.md:6"):
        b.run_page(page, "page.md", tmp_path)
    assert b.run_page(page.replace("3", "2"), "page.md", tmp_path)[:2] == (1, 1)


def test_a_failing_command_fails_and_an_unknown_one_too(tmp_path: Path) -> None:
    for command in ("robassay list attaks", "rm file"):
        with pytest.raises(AssertionError):
            b.run_page(f"```console\n$ {command}\n```\n", "page.md", tmp_path)
    b.run_page("```console\n$ robassay list attaks; echo $?\n…\n2\n```\n", "page.md", tmp_path)


def test_a_block_is_left_out_only_with_a_reason(tmp_path: Path) -> None:
    page = "% not run: no network\n```bash\npip install x\n```\n\n```python\nprint(3)\n```\n\n```text\n3\n```\n"
    ran = b.run_page(page, "page.md", tmp_path)
    assert ran[:2] == (1, 1) and [block.why for block in ran.left_out] == ["no network"]
    with pytest.raises(AssertionError, match="bash"):
        b.run_page(page.partition("\n")[2], "page.md", tmp_path)


LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", sorted([*DOCS.rglob("*.md"), ROOT / "README.md"]), ids=lambda p: p.name)
def test_links_within_the_documentation_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for found in LINK.finditer(text):
        target = found[1] or found[2]
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        other = (page.parent / file).resolve() if file else page
        if "parts/" not in target:  # written by the build, whose warnings are errors
            assert other.exists(), f"{page.name}: {target} is not there"
        if anchor and other.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.M)
            assert anchor in {slug(h) for h in headings}, f"{page.name}: {target} names no heading"


def test_every_page_is_in_a_table_of_contents() -> None:
    """Sphinx warns of others, too; this does not need it."""
    named = set()
    for page in DOCS.rglob("*.md"):
        for toc in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            for line in toc.splitlines():
                if line and not line.startswith(":"):
                    named |= {
                        p.with_suffix("").resolve() for p in page.parent.glob(f"{line.strip().removesuffix('.md')}.md")
                    }
    for page in PAGES:
        assert page.name == "index.md" or page.with_suffix("").resolve() in named, f"{page} is in no table of contents"


@pytest.mark.parametrize("check", d.CHECKS, ids=lambda c: c.__name__)
def test_the_public_interface_is_documented(check: Callable[[], d.Counted]) -> None:
    found = check()
    assert found.asked > 20
    assert not found.missing, f"{check.__name__}: {found}"


class Half:
    """Half of a factor is documented, and ``far``, a number without a unit; ``near``: nothing either.

    Args:
        good: factor on everything.
    """

    def told(self, image: torch.Tensor, good: float, far: float, near: float) -> torch.Tensor:
        """(B, classes), if ``image`` is (B, C, H, W)."""
        return fails(image)

    def untold(self, image: torch.Tensor) -> torch.Tensor:
        """Of an image whatever."""
        return image

    def silent(self) -> None:
        pass


def fails(image: torch.Tensor) -> torch.Tensor:
    raise KeyError(image)


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is public; and what a function of another module raises counts only within the package."""
    monkeypatch.setattr(fails, "__module__", "robassay.somewhere")
    monkeypatch.setattr(d, "parts", list)
    monkeypatch.setattr(d.robassay, "__all__", ["Half"])
    monkeypatch.setattr(d.robassay, "Half", Half, raising=False)


@pytest.mark.parametrize(
    ("check", "asked", "missing"),
    [
        (d.docstrings, 4, {("Half.silent", "docstring")}),
        (d.args, 5, {("Half.untold", "image")}),
        (d.units, 3, {("Half.told", "unit of far"), ("Half.told", "unit of near")}),
        (d.shapes, 2, {("Half.untold", "shape")}),
        (d.errors, 1, {("Half.told", "KeyError")}),
    ],
    ids=lambda c: getattr(c, "__name__", ""),
)
def test_what_is_not_documented_is_noticed(
    check: Callable[[], d.Counted], asked: int, missing: set[tuple[str, str]], half: None
) -> None:
    """One class that leaves out one thing of each kind: that is found, and nothing else."""
    found = check()
    assert found.asked == asked and {(m.name, m.what) for m in found.missing} == missing


def test_a_word_of_the_prose_documents_no_argument() -> None:
    text = "The rate of change.\n\nArgs:\n    eps, box: the ball,\n        and its bounds.\n    rate_of: no."
    assert d.named("eps", text) and d.entry("box", text) == "the ball, and its bounds."
    assert not d.named("rate", text) and not d.named("rate", "``rate_of`` and ``my.rate``")
    assert d.named("rate", "``1 − rate``") and not d.named("eps", "the steps")


@pytest.mark.parametrize("source", ["", "after 2000 steps", "Nobody et al. 1999"])
def test_a_source_is_a_work_of_the_bibliography(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = next(e for e in d.parts() if e.kind == "attacks")
    monkeypatch.setattr(d, "parts", lambda: [dataclasses.replace(entry, source=source)])
    assert [m.name for m in d.sources().missing] == [entry.name]


def test_the_reference_says_what_the_common_names_mean() -> None:
    text = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    for name in (d.HANDED | d.SHOWN) - {"self", "cls", "ctx"}:
        assert f"`{name}`" in text, name


@pytest.mark.long
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    """They are to run in under a minute each; most of it is importing torch."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    stated = re.search(
        r"^Prints:\n(.*?)(?:^\S|\"\"\")", (ROOT / "examples" / name).read_text(encoding="utf-8"), re.M | re.S
    )
    assert stated, f"{name} does not say what it prints"
    b.same(stated[1], done.stdout, name)


def test_every_public_name_is_in_the_reference() -> None:
    import robassay

    sys.path.insert(0, str(DOCS))
    try:
        import parts
    finally:
        sys.path.remove(str(DOCS))
    parts.load()
    from robassay.registry import all_entries

    written = " ".join(p.read_text(encoding="utf-8") for p in (DOCS / "reference").glob("*.md"))
    there = set(re.findall(r":: robassay\.(\w+)", written))
    by_part = {e.cls for e in all_entries() if e.kind in parts.PAGES}
    missing = {
        n for n in robassay.__all__ if n != "__version__" and n not in there and getattr(robassay, n) not in by_part
    }
    assert not missing


def test_a_built_site_is_mended_and_the_check_finds_what_is_not(tmp_path: Path) -> None:
    """What the theme writes, by the words it writes it in: each is a fault before, and none after; twice is once."""
    sys.path.insert(0, str(DOCS))
    try:
        import accessible
        import check as site_check
    finally:
        sys.path.remove(str(DOCS))
    lacking = {
        "a.html": "<pre>wide</pre>",
        "b.html": '<div class="table-wrapper colwidths-auto docutils container"><table></table></div>',
        "c.html": '<p class="caption" role="heading">Start</p>',
        "d.html": '<aside class="sidebar-drawer"></aside><aside class="toc-drawer"></aside>',
        "e.html": '<aside class="toc-drawer no-toc"></aside>',
    }
    for name, text in lacking.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert sorted(fault.split(" ")[0] for fault in site_check.faults(tmp_path)) == list(lacking)
    accessible.mend(tmp_path)
    assert site_check.faults(tmp_path) == []
    mended = {name: (tmp_path / name).read_text(encoding="utf-8") for name in lacking}
    accessible.mend(tmp_path)
    assert mended == {name: (tmp_path / name).read_text(encoding="utf-8") for name in lacking}
    assert 'aria-level="2"' in mended["c.html"] and mended["d.html"].count("aria-label") == 2
