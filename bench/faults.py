"""A seeded campaign of faults against `robassay run`: real processes are killed, disks fill up, files are changed.

Every fault begins with a store in which a random part of a small study is finished. The fault is injected, then the
same command is given once more, and it must end well by itself. Counted are finished cells that were lost (gone, or
computed a second time), wrong results that were accepted (a stored byte or a reported number that differs from the
undisturbed run), and stores that needed a hand.

    python bench/faults.py                    # about 260 faults, ten minutes at most on an idle machine
    python bench/faults.py --share 0.1        # a tenth of them

Full and read-only disks are small file systems in memory where this process may mount one, otherwise a limit on the
size of files, and system calls that fail. Further kinds: a function in KINDS with its number (bench/ray_faults.py may
add the loss of a node).
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from robassay import checkpoint, cli
from robassay.cell import with_needs
from robassay.registry import load_name
from robassay.store import MARK, Store

HERE = Path(__file__).parent
STUDY = HERE / "fault_study.py"
PATIENCE = 900.0
"""Seconds after which a command counts as hanging; the machine may be busy."""
Setup = Callable[[], object]


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    said: str


class Failed(Exception):
    """The campaign found something."""


class Command:
    """`robassay run` in a process of its own, forked from this one, so that torch is not imported for each."""

    def __init__(self, store: Path, *words: str, workers: int = 0, setup: Setup | None = None) -> None:
        self.out, log = os.pipe()  # no file: its disk may be the one that is full
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid:
            os.close(log)
            os.set_blocking(self.out, False)
            return
        code = 70
        try:
            os.setpgid(0, 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            sys.argv = ["robassay", "run", str(STUDY), "--store", str(store), "--workers", str(workers), "-q", *words]
            if setup is not None:
                setup()
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def alive(self) -> bool:
        """Whether it is still at work; it is not waited for, so that :meth:`end` learns its code."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def send(self, number: int) -> bool:
        """A signal to the process alone; False when it had ended before."""
        if not self.alive():
            return False
        os.kill(self.pid, number)
        return True

    def workers(self) -> list[int]:
        """Its worker processes."""
        found = []
        for one in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parent = (one / "stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == self.pid and b"popen_loky" in (one / "cmdline").read_bytes():
                    found.append(int(one.name))
        return found

    def end(self) -> Ended:
        """Wait for it."""
        until = time.monotonic() + PATIENCE
        while self.alive():
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise Failed(f"it hangs; it said: {self._said()[-500:]}")
            time.sleep(0.005)
        _, status = os.waitpid(self.pid, 0)
        said = self._said()
        if "Traceback" in said:
            raise Failed(f"a traceback: {said[-1500:]}")
        return Ended(os.waitstatus_to_exitcode(status), said)

    def _said(self) -> str:
        raw = b""
        with contextlib.suppress(BlockingIOError):  # what its own workers may still say is not waited for
            while part := os.read(self.out, 65536):
                raw += part
        os.close(self.out)
        return raw.decode(errors="replace")


class World:
    """A store in which part of the study is finished, and what the undisturbed run had made."""

    def __init__(self, root: Path, whole: Store, rng: random.Random) -> None:
        self.root, self.whole, self.rng = root, whole, rng
        shutil.copytree(whole.root, root, dirs_exist_ok=True)
        self.store = Store(root)
        cells = with_needs(load_name(STUDY, "study")().needs())
        self.keys = [c.key for c in cells]
        self.wanted = {c.key for c in load_name(STUDY, "study")().needs()}
        self.trainings = [c.key for c in cells if type(c).__name__ == "Train"]
        self.damaged: set[str] = set()

    def remove(self, *keys: str) -> None:
        """As if these had not been computed yet."""
        for key in keys:
            if self.store.has(key):  # gone already: a run before this one did not want it
                shutil.rmtree(self.store.folder(key))

    def begin(self, most: int | None = None) -> None:
        """Leave a random part unfinished; without ``most`` at least one cell is finished."""
        count = self.rng.randint(3, most or len(self.keys) - 1)
        self.remove(*self.rng.sample(self.keys, count))

    def run(self, *words: str, workers: int = 0, setup: Setup | None = None) -> Command:
        return Command(self.root, *words, workers=workers, setup=setup)

    def finished(self) -> dict[str, int]:
        """Whole cells, each with what tells this copy from a second one."""
        done = [k for k in self.store.done() if self.store.fault(k) is None]
        return {k: (self.store.folder(k) / "out.safetensors").stat().st_ino for k in done}

    def some(self) -> str:
        """A finished cell."""
        return self.rng.choice(sorted(self.store.done()))

    def sleep(self, most: float) -> None:
        time.sleep(self.rng.uniform(0, most))


def content(store: Store) -> dict[str, bytes]:
    """Every finished cell's bytes."""
    return {key: (store.folder(key) / "out.safetensors").read_bytes() for key in store.done()}


def numbers(store: Store) -> Any:
    """What the report says."""
    from robassay.document import Document

    return Document(store.study("faults"), store).tables()


# ------------------------------------------------------------------------------------------------------- the faults


def _signalled(world: World, number: int, workers: int, *words: str) -> tuple[Ended, str]:
    """Send a signal at a random moment, sooner when the run was quicker."""
    most = 12.0 if workers else 1.2
    for _ in range(20):
        world.begin(len(world.store.done()))
        command, start = world.run(*words, workers=workers), time.monotonic()
        world.sleep(most)
        hit = command.send(number)
        ended = command.end()
        if hit:
            return ended, f"after {time.monotonic() - start:.2f} s"
        most *= 0.7
        for key in world.wanted:  # what only finished cells need is not computed again
            if not world.store.has(key):
                raise Failed(f"an undisturbed run did not finish: exit {ended.code}: {ended.said[-500:]}")
    raise Failed("the run was always quicker than the signal")


def kill_driver(world: World) -> str:
    ended, when = _signalled(world, signal.SIGKILL, 0)
    assert ended.code == -9
    return when


def kill_driver_of_workers(world: World) -> str:
    ended, when = _signalled(world, signal.SIGKILL, 2)
    assert ended.code == -9
    return when  # its workers notice within a second; the next run does not wait for that


def kill_worker(world: World) -> str:
    world.begin()
    world.remove(*(k for k in world.store.done()))
    command, killed = world.run(workers=2), 0
    until = time.monotonic() + 60
    while command.alive() and not killed and time.monotonic() < until:
        busy = list((world.root / "scratch").glob("*/running.json")) if (world.root / "scratch").is_dir() else []
        for worker in command.workers() if busy else []:
            with contextlib.suppress(OSError):
                if not killed:
                    os.kill(worker, signal.SIGKILL)
                    killed += 1
        time.sleep(world.rng.uniform(0.005, 0.05))
    ended = command.end()
    expect(ended, {0})
    if not killed:
        raise Failed("no worker was seen")
    return "one worker, the run went on and ended"


def interrupt(world: World) -> str:
    ended, when = _signalled(world, signal.SIGINT, 0)
    # Before the command line is at work, and after its last cell, Python or typer say it in their own way.
    expect(ended, {130, 1, 0}, None)
    return f"{when}: exit {ended.code}"


def terminate(world: World) -> str:
    grace = world.rng.choice(["0", "0.05", "20"])
    ended, when = _signalled(world, signal.SIGTERM, 0, "--grace", grace)
    expect(ended, {143, -15, 0}, None)
    return f"{when}, grace {grace} s: exit {ended.code}"


def disk_full(world: World) -> str:
    world.begin()
    if MOUNTED:
        spare = world.rng.randint(0, 24) * 4096
        held = world.root / ".ballast"
        with contextlib.suppress(OSError), open(held, "wb") as ballast:
            while True:
                os.write(ballast.fileno(), b"x" * 4096)
        os.truncate(held, max(0, held.stat().st_size - spare))
        ended = world.run().end()
        held.unlink()
        how = f"{spare // 1024} KiB left on a real file system"
    else:
        after = world.rng.randint(0, 8)
        ended = world.run(setup=lambda: refuse(errno.ENOSPC, after)).end()
        how = f"fsync number {after} fails"
    expect(ended, {0, 1, 2}, None if ended.code == 0 else "the disk is full")
    return f"{how}: exit {ended.code}"


def size_limit(world: World) -> str:
    import resource

    world.begin()
    most = world.rng.choice([0, 100, 600, 3000])

    def setup() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    ended = world.run("--report", os.devnull, setup=setup).end()
    expect(ended, {1, 2, 0}, None)
    return f"files of at most {most} bytes: exit {ended.code}"


def read_only(world: World) -> str:
    world.begin()
    if MOUNTED:
        early = world.rng.random() < 0.3
        command = None if early else world.run()
        if command is not None:
            world.sleep(0.5)
        mount = str(MOUNTED)
        until = time.monotonic() + 5
        while (code := subprocess.call(["mount", "-o", "remount,ro", mount], stderr=subprocess.DEVNULL)) and (
            time.monotonic() < until
        ):
            time.sleep(0.002)
        ended = (command or world.run()).end()
        subprocess.check_call(["mount", "-o", "remount,rw", mount])
        how = f"{'before' if early else 'during'} the run" + (", not possible" if code else "")
    else:
        ended = world.run(setup=lambda: refuse(errno.EROFS, world.rng.randint(0, 6))).end()
        how = "fsync fails"
    expect(ended, {0, 1, 2}, None if ended.code == 0 else "cannot be written")
    return f"{how}: exit {ended.code}"


def refuse(code: int, after: int) -> None:
    """In the command's own process: fsync fails from the call number ``after`` on."""
    calls = []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) > after:
            raise OSError(code, os.strerror(code))

    os.fsync = fsync  # type: ignore[assignment]


def clock(world: World) -> str:
    world.begin()
    jump = world.rng.choice([-1, 1]) * 10 ** world.rng.uniform(1, 8.5)
    after = world.rng.randint(0, 20)

    def setup() -> None:
        real, gm, calls = time.time, time.gmtime, [0]

        def now() -> float:
            calls[0] += 1
            return real() + (jump if calls[0] > after else 0)

        time.time, time.gmtime = now, lambda s=None: gm(now() if s is None else s)  # type: ignore[assignment]

    for file in world.rng.sample(sorted(world.root.rglob("*")), 5):
        os.utime(file, (max(0, time.time() + jump),) * 2)
    ended = world.run(setup=setup).end()
    expect(ended, {0})
    return f"by {jump:.0f} s"


def _damage(world: World, change: Callable[[Path], object]) -> None:
    key = world.some()
    world.damaged.add(key)
    change(world.store.folder(key))
    if world.store.fault(key) is None:
        raise Failed(f"the change of {key} is not noticed")


def bit_flip(world: World) -> str:
    world.begin()
    name = world.rng.choice(["out.safetensors", "out.safetensors", "cell.json"])

    def change(folder: Path) -> None:
        raw = bytearray((folder / name).read_bytes())
        if name == "cell.json":  # a bit of what is said; one of the layout may change nothing
            at = world.rng.choice([i for i, byte in enumerate(raw) if chr(byte).isalnum()])
        else:
            at = world.rng.randrange(len(raw))
        raw[at] ^= 1 << world.rng.randrange(8)
        (folder / name).write_bytes(raw)

    for _ in range(world.rng.randint(1, 3)):
        _damage(world, change)
    return f"{len(world.damaged)} cells, {name}"


def truncated(world: World) -> str:
    world.begin()
    name = world.rng.choice(["out.safetensors", "cell.json"])

    def change(folder: Path) -> None:
        size = (folder / name).stat().st_size
        os.truncate(folder / name, world.rng.randrange(size))

    _damage(world, change)
    return name


def missing(world: World) -> str:
    world.begin()
    name = world.rng.choice(["out.safetensors", "cell.json", "both"])
    files = ["out.safetensors", "cell.json"] if name == "both" else [name]
    _damage(world, lambda folder: [(folder / one).unlink() for one in files])
    return name


def exchanged(world: World) -> str:
    world.begin(len(world.keys) - 4)
    first, second = world.rng.sample(sorted(world.store.done()), 2)
    world.damaged |= {first, second}
    whole = world.rng.random() < 0.5
    for name in ("out.safetensors", "cell.json") if whole else ("out.safetensors",):
        one, other = world.store.folder(first) / name, world.store.folder(second) / name
        a, b = one.read_bytes(), other.read_bytes()
        one.write_bytes(b)
        other.write_bytes(a)
    same = (world.store.folder(first) / "out.safetensors").read_bytes() == content(world.whole)[first]
    if not same and (world.store.fault(first) is None or world.store.fault(second) is None):
        raise Failed("an exchange is not noticed")
    return "whole cells" if whole else "results"


def half_checkpoint(world: World) -> str:
    how = world.rng.choice(["cut", "bit", "version", "empty", "garbage", "temporary"])
    key = world.rng.choice(world.trainings)
    world.remove(*world.trainings)
    folder = world.store.scratch(key)
    command, until = world.run(), time.monotonic() + 30
    while not (folder / "checkpoint.pt").exists() and command.alive() and time.monotonic() < until:
        time.sleep(0.001)
    command.send(signal.SIGKILL)
    command.end()
    file = folder / "checkpoint.pt"
    if not file.exists():  # the training was over before the signal came
        folder.mkdir(exist_ok=True)
        checkpoint.save(folder, {"state": {}})
    raw = bytearray(file.read_bytes())
    if how == "bit":
        raw[world.rng.randrange(len(raw))] ^= 1
    changed = {
        "cut": raw[: world.rng.randrange(len(raw))],
        "bit": raw,
        "version": raw.replace(b"torch 2", b"torch 1", 1),
        "empty": b"",
        "garbage": world.rng.randbytes(500),
        "temporary": raw,
    }[how]
    (folder / (".checkpoint.pt.1-ab" if how == "temporary" else "checkpoint.pt")).write_bytes(changed)
    return how


def version(world: World) -> str:
    world.begin()
    what = world.rng.choice(["later store", "torn mark", "no seal", "first format"])
    mark, study = world.root / "STORE", world.root / "studies" / "faults.json"
    if what == "later store":
        before = content(world.store)
        mark.write_bytes(b"robassay store, format 99\n")
        ended = world.run().end()
        expect(ended, {2}, "another version of the store")
        if content(opened(world.root)) != before:
            raise Failed("a store of another version was changed")
        mark.write_bytes(MARK)  # the store was never broken; the newer program would go on with it
    elif what == "torn mark":
        os.truncate(mark, world.rng.randrange(len(MARK) - 2))
    elif what == "no seal":
        told = json.loads(study.read_text())
        study.write_text(json.dumps({**told, "format": 0, "title": "older"}))
    else:
        mark.write_bytes(b"robassay store, format 1\n")
    return what


def opened(root: Path) -> Store:
    """The store whatever its mark says."""
    made = object.__new__(Store)
    made.root = root
    return made


def two_drivers(world: World) -> str:
    world.begin()
    both = [world.run(), world.run()]
    for command in both:
        expect(command.end(), {0})
    return "both ended well"


def leftovers(world: World) -> str:
    world.begin()
    key = world.rng.choice(world.keys)
    half = world.store.folder(key).parent / f".{key}-x1y2"
    half.mkdir(parents=True)
    (half / "out.safetensors").write_bytes(world.rng.randbytes(50))
    (world.root / ".STORE.1-ab").write_bytes(b"robass")
    (world.root / "studies" / ".faults.json.1-ab").write_bytes(b"{")
    if not world.store.has(key):
        world.store.folder(key).mkdir()  # an empty folder under the final name
        world.damaged.add(key)
    return "a half-written cell, study and mark"


def study_file(world: World) -> str:
    world.begin()
    file = world.root / "studies" / "faults.json"
    raw = bytearray(file.read_bytes())
    if world.rng.random() < 0.5:
        raw[world.rng.choice([i for i, byte in enumerate(raw) if chr(byte).isalnum()])] ^= 1
        file.write_bytes(raw)
        return "one bit"
    os.truncate(file, world.rng.randrange(len(raw)))
    return "cut"


KINDS: dict[Callable[[World], str], int] = {
    kill_driver: 30,
    kill_driver_of_workers: 5,
    kill_worker: 6,
    interrupt: 20,
    terminate: 24,
    disk_full: 24,
    size_limit: 8,
    read_only: 14,
    clock: 16,
    bit_flip: 28,
    truncated: 18,
    missing: 10,
    exchanged: 10,
    half_checkpoint: 18,
    version: 14,
    two_drivers: 10,
    leftovers: 8,
    study_file: 8,
}
MOUNTED: Path | None = None


def expect(ended: Ended, codes: set[int], words: str | None = None) -> None:
    """A command must end with one of these codes, and say these words."""
    if ended.code not in codes:
        raise Failed(f"exit {ended.code} instead of {sorted(codes)}: {ended.said[-800:]}")
    if words is not None and words not in ended.said:
        raise Failed(f"it did not say '{words}': {ended.said[-800:]}")
    if ended.code not in (0, -9, -15, 130) and "robassay: " not in ended.said and "Aborted" not in ended.said:
        raise Failed(f"exit {ended.code} without a message: {ended.said[-300:]}")


def judged(kind: Callable[[World], str], seed: int, place: Path, whole: Store) -> dict[str, Any]:
    """Inject one fault, give the command once more, and look at what came of it."""
    row: dict[str, Any] = {"kind": kind.__name__, "seed": seed, "lost": 0, "wrong": 0, "manual": 0, "finding": ""}
    start = time.monotonic()
    world = World(place / f"{kind.__name__}-{seed}", whole, random.Random(f"{kind.__name__} {seed}"))
    try:
        row["fault"] = kind(world)
        before = {k: i for k, i in world.finished().items() if k not in world.damaged}
        ended = world.run().end()
        if ended.code != 0:
            row |= {"manual": 1, "finding": f"exit {ended.code}: {ended.said[-500:]}"}
        after = world.finished()
        row["lost"] = sum(after.get(key) != inode for key, inode in before.items())
        reference = content(whole)
        row["wrong"] = sum(raw != reference[key] for key, raw in content(world.store).items())
        row["wrong"] += ended.code == 0 and (not world.wanted <= after.keys() or numbers(world.store) != numbers(whole))
        row["kept"] = len(before)
    except Failed as found:
        row["finding"] = str(found)
    shutil.rmtree(world.root, ignore_errors=True)
    row["seconds"] = round(time.monotonic() - start, 2)
    return row


def campaign(kinds: dict[Callable[[World], str], int], share: float, seed: int, place: Path) -> list[dict[str, Any]]:
    """All faults, in an order that the seed gives."""
    os.environ["FAULT_TRACE"] = str(place / "trace")
    whole = Store(place / "whole")
    ended = Command(whole.root).end()
    if ended.code:
        raise SystemExit(f"the undisturbed run failed: {ended.said}")
    faults = [(kind, seed * 1000 + i) for kind, count in kinds.items() for i in range(max(1, round(count * share)))]
    random.Random(seed).shuffle(faults)
    rows = []
    for number, (kind, own) in enumerate(faults, 1):
        rows.append(judged(kind, own, place, whole))
        bad = rows[-1]["lost"] or rows[-1]["wrong"] or rows[-1]["manual"] or rows[-1]["finding"]
        if bad or number % 20 == 0:
            print(f"{number} of {len(faults)}" + (f": {json.dumps(rows[-1])}" if bad else ""), flush=True)
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The outcome, in all and by kind."""
    kinds = Counter(row["kind"] for row in rows)
    total = {name: sum(row[name] for row in rows) for name in ("lost", "wrong", "manual")}
    findings = sum(bool(row["finding"]) for row in rows)
    return {"faults": len(rows), **total, "findings": findings, "kinds": dict(sorted(kinds.items()))}


def main() -> None:
    """Run the campaign and write bench/results/faults.json."""
    global MOUNTED  # noqa: PLW0603
    asked = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    asked.add_argument("--share", type=float, default=1.0, help="of the number of faults of each kind")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--only", default="", help="kinds, separated by commas")
    words = asked.parse_args()
    torch.set_num_threads(1)
    chosen = {k: n for k, n in KINDS.items() if not words.only or k.__name__ in words.only.split(",")}
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="robassay-faults-") as folder:
        place = Path(folder) / "disk"
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)]
        if shutil.which("mount") and subprocess.call(mount, stderr=subprocess.DEVNULL) == 0:
            MOUNTED = place
        try:
            rows = campaign(chosen, words.share, words.seed, place)
        finally:
            if MOUNTED:
                subprocess.call(["umount", "-l", str(place)])
    told = {**summary(rows), "minutes": round((time.monotonic() - start) / 60, 1), "real_disks": bool(MOUNTED)}
    print(json.dumps(told, indent=1))
    if not words.only and words.share >= 1:
        file = HERE / "results" / "faults.json"
        file.write_text(json.dumps({**told, "list": rows}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if told["lost"] or told["wrong"] or told["manual"] or told["findings"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
