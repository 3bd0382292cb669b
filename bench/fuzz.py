"""Feeding broken and hostile files and arguments to every reader of what others may have made.

Stored cells, studies and marks, weights, folders of weights, parquet files and results of audits are mutated; the
command line gets arguments by hypothesis, in this process and 200 times in one of its own. A case is a finding if it
ends in anything but success or one of our own errors, hangs, runs code, or leaves a file outside of the store.

    python bench/fuzz.py               # 11,000 cases, about fifteen minutes on an idle machine
    python bench/fuzz.py --share 0.01
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from robassay import cli
from robassay.errors import RobassayError
from robassay.safe import sealed
from robassay.store import Store

HERE = Path(__file__).parent
STUDY = HERE / "fault_study.py"
PATIENCE = 300
"""Seconds after which a case counts as hanging; the machine may be busy."""
CANARY = "canary"
"""A file that is there once foreign code has run."""


class Finding(NamedTuple):
    """A case that ended as none may."""

    target: str
    case: str
    what: str


class Late(BaseException):
    """Not an OSError, such as TimeoutError, which would become a message."""


class Runs:
    """Unpickled it leaves a file behind: what must never happen."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


class Place:
    """The files that are mutated, as they were when whole; and a folder around them that must not change."""

    def __init__(self, root: Path) -> None:
        self.root, self.work = root, root / "work"
        self.outside = root / "outside"
        self.outside.mkdir(parents=True)
        (self.outside / "thesis.tex").write_text("mine")
        self.whole = root / "whole"
        os.environ.update(FAULT_TRACE=str(root / "trace"), ROBASSAY_CACHE=str(root / "cache"))
        _quietly("run", str(STUDY), "--store", str(self.whole / "store"), "--workers", "0", "-q")
        self.keys = sorted(Store(self.whole / "store").done())
        _quietly("weights", str(STUDY), str(self.whole / "weights"), "--store", str(self.whole / "store"))
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        save_file(self.net.state_dict(), self.whole / "net.safetensors")
        torch.save(self.net.state_dict(), self.whole / "net.pt")
        self._parquet(self.whole / "test.parquet")
        rate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}
        audit = {"schema": 1, "title": "t", "verdict": "holds", "threat": {"norm": "linf", "eps": 0.1}}
        rates = {name: rate for name in ("clean", "claimed", "robust", "gap")}
        (self.whole / "audit.json").write_text(json.dumps({**audit, **rates}))

    def _parquet(self, file: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq
        from PIL import Image

        rows = []
        for i in range(12):
            packed = io.BytesIO()
            Image.fromarray(np.full((6, 6), 20 * i, np.uint8)).save(packed, "PNG")
            rows.append({"bytes": packed.getvalue(), "path": None})
        pq.write_table(pa.table({"image": rows, "label": [i % 3 for i in range(12)]}), file)

    def fresh(self, *names: str) -> Path:
        """A copy to work on."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        for name in names:
            source = self.whole / name
            if source.is_dir():
                shutil.copytree(source, self.work / name)
            else:
                shutil.copy(source, self.work / name)
        return self.work

    def untouched(self) -> str:
        """What has happened outside; nothing, if all is well."""
        if [p.name for p in self.outside.rglob("*")] != ["thesis.tex"] or (self.outside / CANARY).exists():
            return f"outside: {[p.name for p in self.outside.rglob('*')]}"
        strange = {p.name for p in self.root.iterdir()} - {"work", "outside", "whole", "trace", "cache"}
        return f"beside the store: {sorted(strange)}" if strange else ""


def _quietly(*words: str) -> tuple[int, str]:
    """The command line in this process: exit code, and what it said."""
    said, argv = io.StringIO(), sys.argv
    sys.argv = ["robassay", *words]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            cli.main()
    except SystemExit as stop:
        return (stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1), said.getvalue()
    finally:
        sys.argv = argv
    return 0, said.getvalue()


# ---------------------------------------------------------------------------------------------------------- mutations


def mutated(raw: bytes, rng: random.Random) -> bytes:
    """Bytes that were changed as files are: cut, flipped, doubled, overwritten, or their numbers made absurd."""
    text = bytearray(raw)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        if not text:
            break
        at, how = rng.randrange(len(text)), rng.randrange(9)
        span = slice(at, at + rng.randint(1, 16))
        if how == 0:
            del text[at:]
        elif how == 1:
            text[at] ^= 1 << rng.randrange(8)
        elif how == 2:
            text[span] = rng.randbytes(rng.randint(0, 20))
        elif how == 3:
            text[at:at] = text[: rng.randint(1, 200)]
        elif how == 4:
            text[span] = rng.choice(
                [b"\0" * 8, b"\xff" * 8, b"../../", b"\x1b[31m", b"[" * 3000, b"-1", b"1e999", b"null"]
            )
        elif how == 5:
            text[:8] = rng.choice([2**63 - 1, 2**40, 0, 7]).to_bytes(8, "little")
        elif how == 6:
            del text[span]
        elif how == 7:
            digits = [i for i, byte in enumerate(text[:4000]) if 48 <= byte <= 57]
            if digits:
                text[rng.choice(digits)] = rng.choice(b"0123456789")
        else:
            other = rng.randrange(len(text))
            text[at], text[other] = text[other], text[at]
    return bytes(text)


JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 3, 1e308, float("nan"), float("inf"), 10**30, "", "x", "../../outside/evil", "\x1b]0;x\x07",
    "\ud800", "<script>alert(1)</script>", [], [[]], [None], {}, {"a": 1}, "a" * 5000, ["../../../outside"], "0" * 16,
)  # fmt: skip


def reworded(value: Any, rng: random.Random) -> Any:
    """A JSON value with something in it replaced, taken away or added; keys of cells and links among them."""
    if rng.random() < 0.15 or not isinstance(value, (dict, list)) or not value:
        return rng.choice(JUNK)
    made: Any = dict(value) if isinstance(value, dict) else list(value)
    at = rng.choice(list(made)) if isinstance(made, dict) else rng.randrange(len(made))
    how = rng.random()
    if how < 0.15:
        made.pop(at)
    elif how < 0.25 and isinstance(made, dict):
        made[rng.choice(["id", "kind", "name", "x"])] = rng.choice(JUNK)
    else:
        made[at] = reworded(made[at], rng)
    return made


# ------------------------------------------------------------------------------------------------------------ targets


def cell(place: Place, rng: random.Random) -> str:
    """A stored cell is changed, resealed now and then, as somebody would on purpose; then everything reads it."""
    root = place.fresh("store") / "store"
    store, key = Store(root), rng.choice(place.keys)
    name = rng.choice(["out.safetensors", "cell.json", "log.txt", "STORE"])
    file = root / "STORE" if name == "STORE" else store.folder(key) / name
    if name == "cell.json" and rng.random() < 0.6:
        told = reworded(json.loads(file.read_text()), rng)
        file.write_text(json.dumps(sealed(told) if isinstance(told, dict) else told))
    elif name == "out.safetensors" and rng.random() < 0.5:
        from robassay.safe import digest

        raw = mutated(file.read_bytes(), rng)
        file.write_bytes(raw)
        about = json.loads((store.folder(key) / "cell.json").read_text())
        (store.folder(key) / "cell.json").write_text(json.dumps(sealed({**about, "sha256": digest(raw)})))
    else:
        file.write_bytes(mutated(file.read_bytes(), rng))
    with contextlib.suppress(RobassayError):
        store = Store(root)
        store.fault(key)
        store.read(key)
    return _said(*_any_reader(root, rng))


def study(place: Place, rng: random.Random) -> str:
    """A stored study is changed and mostly resealed."""
    root = place.fresh("store") / "store"
    file = root / "studies" / "faults.json"
    if rng.random() < 0.3:
        file.write_bytes(mutated(file.read_bytes(), rng))
    else:
        told = json.loads(file.read_text())
        for _ in range(rng.randint(1, 3)):
            told = reworded(told, rng) if isinstance(told, dict) else told
        file.write_text(json.dumps(sealed(told) if isinstance(told, dict) else told))
    return _said(*_any_reader(root, rng))


def layout(place: Place, rng: random.Random) -> str:
    """Files and folders of a store become links, pipes, files or folders."""
    root = place.fresh("store") / "store"
    victims = sorted(p for p in root.rglob("*") if "out" in p.name or p.is_dir() or p.suffix == ".json")
    for _ in range(rng.randint(1, 3)):
        victim = rng.choice(victims)
        if not os.path.lexists(victim) or not victim.parent.is_dir() or victim.parent.is_symlink():
            continue
        shutil.rmtree(victim) if victim.is_dir() and not victim.is_symlink() else victim.unlink()
        how = rng.randrange(6)
        if how == 0:
            victim.symlink_to(place.outside, target_is_directory=True)
        elif how == 1:
            victim.symlink_to(place.outside / "thesis.tex")
        elif how == 2:
            os.mkfifo(victim)
        elif how == 3:
            victim.write_bytes(b"x")
        elif how == 4:
            victim.mkdir()
        else:
            victim.symlink_to(victim)
    return _said(*_any_reader(root, rng))


def _any_reader(root: Path, rng: random.Random) -> tuple[str, ...]:
    """A command that reads a store, or deletes from it."""
    to = str(root.parent / "to")
    return rng.choice(
        [
            ("report", str(root)),
            ("report", str(root), "--out", to),
            ("status", "--store", str(root)),
            ("export", "faults", "--store", str(root), "--to", to),
            ("gc", "--store", str(root), *rng.choice([(), ("--yes",)])),
        ]
    )


def weights(place: Place, rng: random.Random) -> str:
    """Weights are changed, or a pickle that runs code."""
    from robassay.given import load_weights

    name = rng.choice(["net.safetensors", "net.pt"])
    file = place.fresh(name) / name
    raw = mutated(file.read_bytes(), rng)
    if rng.random() < 0.1:
        canary = place.outside / CANARY
        raw = pickle.dumps(Runs(canary)) if rng.random() < 0.5 else _zipped(Runs(canary))
    file.write_bytes(raw)
    try:
        load_weights(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), file)
    except RobassayError as error:
        return _worded(error)
    return ""


def _zipped(value: object) -> bytes:
    packed = io.BytesIO()
    torch.save({"w": value}, packed)
    return packed.getvalue()


def adopted(place: Place, rng: random.Random) -> str:
    """A folder of weights of others is changed, then adopted."""
    from robassay.adopt import adopt
    from robassay.studies import load_study

    folder = place.fresh("weights") / "weights"
    file = rng.choice(sorted(folder.iterdir()))
    if file.name == "index.json" and rng.random() < 0.6:
        file.write_text(json.dumps(reworded(json.loads(file.read_text()), rng)))
    else:
        file.write_bytes(mutated(file.read_bytes(), rng))
    try:
        adopt(load_study(str(STUDY), "small", None).needs(), Store(place.work / "new"), folder)
    except RobassayError as error:
        return _worded(error)
    return ""


def parquet(place: Place, rng: random.Random) -> str:
    """A parquet file is changed, or the images in it are."""
    from robassay.data import find

    file = place.fresh("test.parquet") / "test.parquet"
    raw = file.read_bytes()
    # The end says where everything lies: there a change does most.
    keep = len(raw) - 600 if rng.random() < 0.5 else 0
    file.write_bytes(raw[:keep] + mutated(raw[keep:], rng))
    try:
        find(str(file)).split("test")
    except RobassayError as error:
        return _worded(error)
    return ""


def audit(place: Place, rng: random.Random) -> str:
    """The result of an audit, of somebody else, is compared."""
    file = place.fresh("audit.json") / "audit.json"
    raw = file.read_bytes()
    if rng.random() < 0.4:
        file.write_bytes(mutated(raw, rng))
    else:
        file.write_text(json.dumps(reworded(json.loads(raw), rng)))
    both = [str(place.whole / "audit.json"), str(file)]
    rng.shuffle(both)
    return _said("compare", *both, *rng.choice([(), ("--json",), ("--fail-if-worse",)]))


def full(place: Place, rng: random.Random) -> str:
    """A store on a full disk: no file may become larger than so many bytes."""
    root = place.fresh("store") / "store"
    store, most = Store(root), rng.choice([0, 1, 50, 400])
    for key in rng.sample(place.keys, 3):
        shutil.rmtree(store.folder(key))
    words = rng.choice([("run", str(STUDY), "--workers", "0", "-q", "--store", str(root)), _any_reader(root, rng)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        return _said(*words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def unwritable(place: Place, rng: random.Random) -> str:
    """A store that may only be read: system calls that write are refused, as the owner's rights do not bind root."""
    root = place.fresh("store") / "store"
    real_open, real_mkdir, real_rename = os.open, os.mkdir, os.rename
    number = rng.choice([13, 30, 28, 5])

    def refused(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number), str(root))

    def opened(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        return refused() if flags & (os.O_WRONLY | os.O_RDWR) else real_open(path, flags, *rest, **more)

    words = rng.choice([("run", str(STUDY), "--workers", "0", "-q", "--store", str(root)), _any_reader(root, rng)])
    for key in rng.sample(place.keys, 2):
        shutil.rmtree(Store(root).folder(key))
    real_file = io.open

    def file(path: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        mine = isinstance(path, (str, Path)) and str(path).startswith(str(root)) and set(mode) & set("wxa+")
        return refused() if mine else real_file(path, mode, *rest, **more)

    os.open, os.mkdir, os.rename, os.replace = opened, refused, refused, refused  # type: ignore[assignment]
    io.open = builtins.open = file  # type: ignore[assignment]
    try:
        return _said(*words)
    finally:
        os.open, os.mkdir, os.rename, os.replace = real_open, real_mkdir, real_rename, _REPLACE
        io.open = builtins.open = real_file


_REPLACE = os.replace
WORDS = (
    "demo", "audit", "referee", "compare", "check", "plan", "run", "status", "report", "export", "weights", "list",
    "verify", "gc", "--help", "--version",
)  # fmt: skip
OPTIONS = (
    "--store", "--data", "--data-dir", "--linf", "--l2", "--examples", "--draws", "--budget", "--delta", "--claimed",
    "--split", "--json", "--report", "--seed", "--card", "--fail-on", "--workers", "--quiet", "--scale", "--sample",
    "--set-aside", "--yes", "--out", "--study", "--to", "--results", "--most", "--adopt", "--grace", "--tool", "--nets",
    "--seeds", "--images", "--weights", "--fail-if-worse", "-q", "--",
)  # fmt: skip
VALUES = (
    "", "0", "-1", "1e999", "nan", "8/255", "8/0", "1/", "digits", "minst", "hub:", "none.py", "none.py:build",
    "zoo:plain", "zoo:", "attacks", "papers", ".", "..", "../outside", "/dev/null", "/proc/self/mem", "a" * 300, "ü∞",
    "\x1b[31m", "%s%n", "$(touch canary)", "; touch canary", "pgd:steps=2", "pgd:steps=x", "pgd:=", ":", "small",
    "full", "quick", "\udcff", "demo", "tan2020",
)  # fmt: skip
COSTLY = {"demo", "audit", "referee", "check"}
"""What may train or attack: these get a word that stops them."""


def arguments() -> Any:
    """Command lines, by hypothesis."""
    from hypothesis import strategies as st

    value = st.one_of(st.sampled_from(VALUES), st.text(max_size=12).filter(lambda t: "\0" not in t))
    pair = st.one_of(st.tuples(st.sampled_from(OPTIONS), value), st.tuples(st.sampled_from(OPTIONS)), st.tuples(value))
    command = st.one_of(st.sampled_from(WORDS), st.sampled_from(WORDS), value)
    return st.builds(lambda c, rest: [c, *(w for p in rest for w in p)], command, st.lists(pair, max_size=5))


def harmless(words: list[str]) -> list[str]:
    """The same, but without what would truly compute for minutes or read a network."""
    if words and words[0] in COSTLY | {"run", "plan", "verify", "weights", "status"}:
        words = [w for w in words if w not in ("demo", "tan2020", "full", "small")]
        if words and words[0] in COSTLY:
            words = [*words, "--store", "/dev/null/store"]
    if len(words) == 1 and words[0] in COSTLY:
        words = [*words, "--nonsense"]
    return [w for w in words if not w.startswith("hub:")]


def _said(*words: str) -> str:
    """What is wrong with how a command ended; empty if all is well."""
    code, said = _quietly(*words)
    if "Traceback" in said:
        return f"a traceback: {said[-400:]}"
    if code not in (0, 1, 2, 3):
        return f"exit {code}: {said[-300:]}"
    if code in (1, 2) and not said.strip() and words[0] != "check":
        return f"exit {code} without a message"
    return "an escape sequence reached the terminal" if "\x1b]0;" in said else ""


def _worded(error: RobassayError) -> str:
    return "" if len(str(error)) > 20 else f"says only '{error}'"


TARGETS: dict[Callable[[Place, random.Random], str], int] = {
    cell: 2600,
    study: 1800,
    layout: 700,
    weights: 2000,
    adopted: 400,
    parquet: 1200,
    audit: 600,
    full: 100,
    unwritable: 100,
}
LINES, PROCESSES = 1500, 200
"""Command lines in this process, and in one of their own."""


@contextlib.contextmanager
def patience(seconds: int) -> Iterator[None]:
    """A case that takes longer is one that hangs."""

    def late(*_: object) -> None:
        raise Late(f"hangs for {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def tried(place: Place, target: str, case: str, work: Callable[[], str]) -> Finding | None:
    """One case; None if it ended as it should."""
    try:
        with patience(PATIENCE), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            what = work()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        what = f"{type(error).__name__}: {str(error)[:300]}"
    what = what or place.untouched()
    return Finding(target, case, what) if what else None


def files(place: Place, share: float, seed: int) -> Iterator[tuple[str, Finding | None]]:
    """All mutations of files."""
    for target, count in TARGETS.items():
        for i in range(max(1, round(count * share))):
            rng = random.Random(f"{target.__name__} {seed} {i}")
            case = f"{seed} {i}"
            yield target.__name__, tried(place, target.__name__, case, lambda t=target, r=rng: t(place, r))  # type: ignore[misc]


def lines(place: Place, share: float, seed: int) -> Iterator[tuple[str, Finding | None]]:
    """Command lines in this process, drawn by hypothesis."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    drawn: list[list[str]] = []

    @seeded(seed)
    @settings(
        max_examples=max(2, round(LINES * share)), database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(arguments())
    def draw(words: list[str]) -> None:
        drawn.append(harmless(words))

    draw()
    here = Path.cwd()
    os.chdir(place.fresh())
    try:
        for words in drawn:
            yield "arguments", tried(place, "arguments", json.dumps(words), lambda w=words: _said(*w))  # type: ignore[misc]
    finally:
        os.chdir(here)
    rng = random.Random(seed)
    for _ in range(round(PROCESSES * share)):
        words = [w for w in rng.choice(drawn) if "\0" not in w]
        yield "process", tried(place, "process", json.dumps(words), lambda w=words: _process(place, w))  # type: ignore[misc]


def _process(place: Place, words: list[str]) -> str:
    line = [
        sys.executable,
        "-m",
        "robassay.cli",
        *(os.fsencode(w) if w.isascii() else w.encode("utf-8", "surrogateescape") for w in words),
    ]
    done = subprocess.run(line, cwd=place.fresh(), capture_output=True, timeout=PATIENCE, check=False)
    said = (done.stdout + done.stderr).decode(errors="replace")
    if "Traceback" in said or done.returncode not in (0, 1, 2, 3):
        return f"exit {done.returncode}: {said[-400:]}"
    return "" if done.returncode == 0 or said.strip() else f"exit {done.returncode} without a message"


def main() -> None:
    """Run all cases and write bench/results/fuzz.json."""
    asked = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    asked.add_argument("--share", type=float, default=1.0)
    asked.add_argument("--seed", type=int, default=0)
    words = asked.parse_args()
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    findings: list[Finding] = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="robassay-fuzz-") as folder:
        place = Place(Path(folder))
        for cases in (files(place, words.share, words.seed), lines(place, words.share, words.seed)):
            for target, finding in cases:
                counts[target] += 1
                if finding is not None:
                    findings.append(finding)
                    print(json.dumps(finding._asdict()), flush=True)
                if counts.total() % 500 == 0:
                    print(f"{counts.total()} cases, {len(findings)} findings", flush=True)
    told = {"cases": counts.total(), "findings": len(findings), "targets": dict(counts)}
    print(json.dumps({**told, "minutes": round((time.monotonic() - start) / 60, 1)}, indent=1))
    if words.share >= 1:
        listed = [f._asdict() for f in findings]
        (HERE / "results" / "fuzz.json").write_text(
            json.dumps({**told, "list": listed}, indent=1) + "\n", encoding="utf-8"
        )
    if findings:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
