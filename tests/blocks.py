"""Runs the code blocks of a documentation page, in order, in an empty folder.

- ``python`` whose first line is ``# name.py``: written to that file. Any other: executed; blocks share their names.
- ``console``: lines that begin with ``$ `` are commands (``robassay …``, ``python FILE``, ``cd``, ``ls``).
- ``text`` right behind one of them: what it prints. ``…`` in it stands for anything.
- ``yaml``, ``toml``: parsed; every robassay command in it must be one of the page's console commands.
- a comment ``% not run: REASON`` in front of a block says why it is left out.

Words are compared as they are. Training differs in its last bits between kinds of processors: so a percentage may
differ by 6 points, another number with a decimal point by a tenth; whole numbers are exact.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

POINTS, SHARE = 6.0, 0.1
LANGUAGES = ("python", "console", "text", "yaml", "toml", "json", "bash")
FENCE = re.compile(
    r"^(?:% not run: (?P<why>[^\n]+)\n+)?(?P<tick>`{3,})(?P<lang>[\w{}-]*)[^\n]*\n(?P<body>.*?)^(?P=tick)$", re.M | re.S
)
_NUMBER = re.compile(r"(?<![\w.-])-?\d+(?:\.\d+)?(?![\w-])")


class Block(NamedTuple):
    """A fenced block: its language, text, line in the page, and why it is not run (empty when it is)."""

    language: str
    text: str
    line: int
    why: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, directives such as ``{toctree}`` left out."""
    found = []
    for match in FENCE.finditer(page):
        if not match["lang"].startswith("{"):
            line = page.count("\n", 0, match.start()) + 1
            found.append(Block(match["lang"], match["body"], line, match["why"] or ""))
    return found


class Ran(NamedTuple):
    """What was run of a page."""

    run: int
    compared: int
    left_out: list[Block]


def run_page(page: str, name: str, folder: Path) -> Ran:
    """Run all blocks in ``folder``. Raises AssertionError, with the line, for output that is not as stated."""
    names: dict[str, Any] = {"__name__": "__main__"}
    printed: str | None = None
    run = compared = 0
    left_out = []
    commands: list[str] = []
    with _inside(folder):
        for block in blocks(page):
            where = f"{name}:{block.line}"
            assert block.language in LANGUAGES, f"{where}: '{block.language}' blocks are not known"
            if block.why:
                left_out.append(block)
                printed = None
                continue
            if block.language == "text":
                assert printed is not None, f"{where}: there is nothing in front of it that prints"
                same(block.text, printed, where)
                compared += 1
                printed = None
                continue
            printed = _run(block, where, names, commands)
            run += 1
            if block.language == "console":
                compared += printed is not None and block.text.count("\n") > len(re.findall(r"^\$ ", block.text, re.M))
    return Ran(run, compared, left_out)


def _run(block: Block, where: str, names: dict[str, Any], commands: list[str]) -> str | None:
    """What the block printed; None for one that runs nothing."""
    if block.language in ("yaml", "toml", "json"):
        _parsed(block, where, commands)
        return None
    if block.language == "console":
        return _console(block.text, where, commands)
    assert block.language == "python", f"{where}: a bash block cannot be run here; write console, or say '% not run: …'"
    named = re.match(r"# (\w+\.py)\n", block.text)
    if named:
        Path(named[1]).write_text(block.text, encoding="utf-8")
        return None
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile("\n" * block.line + block.text, where.partition(":")[0], "exec"), names)
    return out.getvalue()


def _console(text: str, where: str, commands: list[str]) -> str:
    """Run the commands of a block, and compare what stands under each with what it prints."""
    said = ""
    for piece in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, _, expected = _continued(piece)
        commands.append(command)
        said = _command(command, where)
        if expected.strip():
            same(expected, said, f"{where} ($ {command})")
    return said


def _continued(piece: str) -> tuple[str, str, str]:
    return re.sub(r"\\\n\s*", "", piece).partition("\n")


def _command(command: str, where: str) -> str:
    """Standard output of a command; ``; echo $?`` at its end appends the exit code, otherwise that must be 0."""
    command, asks, _ = command.partition("; echo $?")
    program, *arguments = shlex.split(command, comments=True)
    if program == "cd":
        os.chdir(arguments[0])
        return ""
    if program == "ls":
        return "\n".join(sorted(os.listdir(arguments[0] if arguments else ".")))
    if program == "cat":
        return Path(arguments[0]).read_text(encoding="utf-8")
    assert program in ("robassay", "python"), f"{where}: '{program}' is not run by this test"
    if program == "robassay":
        code, out = _robassay(arguments)
    else:
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
        code, out = done.returncode, done.stdout + (done.stderr if done.returncode else "")
    assert asks or code == 0, f"{where}: '{command}' ended with {code}:\n{out}"
    return out + (f"{code}\n" if asks else "")


def _robassay(arguments: list[str]) -> tuple[int, str]:
    """Exit code and output of a command, in this process: another would import torch again."""
    from robassay.cli import main

    out, errors = io.StringIO(), io.StringIO()
    saved = sys.argv
    sys.argv = ["robassay", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    finally:
        sys.argv = saved
    return code, out.getvalue() + (errors.getvalue() if code else "")


def _parsed(block: Block, where: str, commands: list[str]) -> None:
    if block.language == "toml":
        tomllib.loads(block.text)
    elif block.language == "json":
        json.loads(block.text)
    else:
        with contextlib.suppress(ModuleNotFoundError):  # comes with the extra docs
            __import__("yaml").safe_load(block.text)
    for asked in re.findall(r"\brobassay [^\n]+", block.text):
        assert asked.strip() in commands, f"{where}: '{asked}' is run in no console block of this page"


def same(expected: str, printed: str, where: str) -> None:
    """Compare as the module's docstring says."""
    want, have = " ".join(expected.split()), " ".join(printed.split())
    pattern = "".join(".*?" if piece == "…" else _pattern(piece) for piece in re.split(r"(…)", want))
    found = re.fullmatch(pattern, have)
    assert found, f"{where}: it says\n{expected}\nand it prints\n{printed}"
    numbers = [n for piece in want.split("…") for n in _NUMBER.finditer(piece)]
    for stated, got in zip(numbers, found.groups(), strict=True):
        _close(stated, got, f"{where}: {stated[0]} is stated, {got} printed:\n{printed}")


def _pattern(piece: str) -> str:
    """A regular expression for a piece: its words, and a group for each of its numbers."""
    return r"(-?\d+(?:\.\d+)?)".join(re.escape(words) for words in _NUMBER.split(piece))


def _close(stated: re.Match[str], got: str, message: str) -> None:
    value, other = float(stated[0]), float(got)
    if "." not in stated[0]:
        assert stated[0] == got, message
        return
    line = stated.string
    percent = line[stated.end() :].startswith(" %") or bool(re.match(r"[\d., -]*\]", line[stated.end() :]))
    assert abs(value - other) <= (POINTS if percent else max(SHARE * abs(value), 0.05)), message


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before, path = Path.cwd(), list(sys.path)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = path
