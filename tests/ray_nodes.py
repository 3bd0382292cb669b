"""A Ray cluster of several nodes on this computer, started by hand as docs/cluster.md says, for tests and benches.

Every node is a session of processes of its own, so that it can be killed without touching any other: `ray stop` would
end every Ray process of the computer.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE = 60.0
STORE_BYTES = 100_000_000


class Nodes:
    """A head and whatever is added to it; all on the loopback device, with a token."""

    def __init__(self, head_cpus: int = 0, environment: dict[str, str] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: sockets lie in it
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="ascii")
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            **(environment or {}),
        }
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.nodes: list[subprocess.Popen[bytes]] = []
        port = self.address.rpartition(":")[2]
        self._start(head_cpus, "--head", f"--port={port}", "--include-dashboard=false")

    def add(self, cpus: int = 1, before: tuple[str, ...] = ()) -> int:
        """Start another node, its command behind ``before``; returns its place in the list."""
        return self._start(cpus, f"--address={self.address}", before=before)

    def _start(self, cpus: int, *options: str, before: tuple[str, ...] = ()) -> int:
        log = self.folder / f"node{len(self.nodes)}.log"
        command = [
            *before,
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
            *("--node-ip-address=127.0.0.1", "--include-log-monitor=false", f"--num-cpus={cpus}"),
            *(f"--object-store-memory={STORE_BYTES}", f"--temp-dir={self.folder}", *options),
        ]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                env=self.environment,
                start_new_session=True,
                stdout=out,
                stderr=out,
            )
        self.nodes.append(process)
        until = time.monotonic() + PATIENCE
        while b"Ray runtime started" not in log.read_bytes():
            if process.poll() is not None or time.monotonic() > until:
                self.close()
                raise RuntimeError(f"a Ray node did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        return len(self.nodes) - 1

    def kill(self, place: int) -> None:
        """What a power cut does to a node: all its processes end at once."""
        node = self.nodes[place]
        for pid in session(node.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()

    def close(self) -> None:
        """End all nodes, the head last."""
        for place in reversed(range(len(self.nodes))):
            self.kill(place)
        shutil.rmtree(self.folder, ignore_errors=True)


def session(leader: int) -> list[int]:
    """The processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == leader:
                found.append(int(stat.parent.name))
    return found


@contextlib.contextmanager
def nodes(head_cpus: int = 0, environment: dict[str, str] | None = None) -> Iterator[Nodes]:
    """A cluster that is gone at the end, however it ends."""
    made = Nodes(head_cpus, environment)
    try:
        yield made
    finally:
        made.close()
