"""Commands that the documentation shows, executed or not: the command line understands them, what they name exists.

Blocks in ``console`` and ``python`` are executed by test_docs.py. The others need hours, a cluster, a network or files
of the reader, and would rot unseen.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import blocks as b
import pytest
import typer.main

from robassay import zoo
from robassay.cli import app
from robassay.studies import LISTED, PAPERS

ROOT = Path(__file__).parent.parent
PAGES = [*(ROOT / n for n in ("README.md", "CONTRIBUTING.md", "SECURITY.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [p for p in PAGES if p.relative_to(ROOT).parts[:2] != ("docs", "_build")]
INLINE = re.compile(r"(?<!`)`((?:robassay|make) [^`]+)`(?!`)")
YOURS = re.compile(r"[A-Z]+|.*\.py(?::\w+)?|my[-_]\w+|invented|mine|demo")
"""What stands for a study of the reader; and the demonstration."""


def shown(page: Path, program: str) -> list[str]:
    """The commands of a program on a page, without comments; those with … or alternatives are no commands, and a
    command's bare name in the prose (`robassay audit`) names it."""
    text = page.read_text(encoding="utf-8")
    told = [block.text.replace("\\\n", " ") for block in b.blocks(text) if block.language not in ("python", "text")]
    lines = [line.partition("#")[0] for block in told for line in block.split("\n")]
    found = [m[0] for line in lines for m in re.finditer(rf"(?<![\w./-]){program} [a-z-][^&;\n]*", line)]
    prose = INLINE.findall(b.FENCE.sub("", text))
    found += [
        f"{c} --help" if re.fullmatch(r"robassay \w+(?: --\w+)?", c) else c for c in prose if c[:4] == program[:4]
    ]
    return [" ".join(command.split()) for command in found if not re.search(r"[…|]", command)]


def parse(command: str) -> tuple[str, dict[str, object]]:
    """The subcommand and its parameters. Raises what click raises for a command that it does not understand."""
    main = typer.main.get_command(app)
    rest = shlex.split(command)[1:]
    asks = rest[-1] in ("--version", "--help")
    if asks and len(rest) < 3:  # of the whole, or of one command
        assert len(rest) == 1 or rest[0] in main.commands, command  # type: ignore[attr-defined]
        return rest[0], {}
    if asks:  # an option alone, as prose names it
        options = {o for p in main.commands[rest[0]].params for o in p.opts}  # type: ignore[attr-defined]
        assert rest[1] in options, command
        return rest[0], {}
    name, *given = rest
    assert name in main.commands, command  # type: ignore[attr-defined]
    return name, main.commands[name].make_context(name, given).params  # type: ignore[attr-defined]


def check(command: str) -> None:
    name, given = parse(command)
    if name == "list" and given:
        assert given["kind"] in (*LISTED, "KIND"), command
    target = str(given.get("target") or "")
    if target.startswith("zoo:") and target != "zoo:NAME":
        assert target.removeprefix("zoo:") in zoo.ENTRIES, command
    study = str(given.get("study") or "demo")
    assert YOURS.fullmatch(study) or study in PAPERS, command


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_command_line_understands_what_a_page_shows(page: Path) -> None:
    for command in shown(page, "robassay"):
        try:
            check(command)
        except Exception as error:
            pytest.fail(f"{page.name}: {command}: {getattr(error, 'message', error)}")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_make_has_the_targets_that_a_page_shows(page: Path) -> None:
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for command in shown(page, "make"):
        named = [word for word in shlex.split(command)[1:] if "=" not in word]
        assert named and set(named) <= targets, f"{page.name}: {command}"


def test_enough_is_found() -> None:
    found = {program: sum(len(shown(page, program)) for page in PAGES) for program in ("robassay", "make")}
    assert found["robassay"] > 80 and found["make"] > 10, found


@pytest.mark.parametrize(
    "command",
    ["robassay audti mine.py", "robassay audit", "robassay audit mine.py --eps 0.1", "robassay run tan2021",
     "robassay list attaks", "robassay audit zoo:none", "robassay run mine.py --gpu 2", "robassay run mine.py --ray",
     "robassay audti --help", "robassay audit --gpu --help"],
)  # fmt: skip
def test_a_command_that_does_not_exist_is_noticed(command: str) -> None:
    with pytest.raises(Exception, match=r"\w"):
        check(command)


def test_commands_are_found_where_they_stand(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Say `robassay list nets|attacks`, `robassay gc` or\n`robassay run --gpu`. `robassay` is none.\n\n"
        "```\nrobassay run a.py \\\n  --gpu 1   # robassay run b\nsrun x robassay status c.py &\n```\n\n"
        "```python\nrobassay audit\n```\n\n```console\n$ robassay plan …\n```\n"
    )
    assert shown(page, "robassay") == [
        "robassay run a.py --gpu 1", "robassay status c.py", "robassay gc --help", "robassay run --gpu --help",
    ]  # fmt: skip
