"""Data sets from the Hugging Face hub, through the optional package `datasets`.

The only module that opens a network connection, and only for a name the user wrote as 'hub:…'. A copy
downloaded earlier is used without asking anybody.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from robassay import images
from robassay.errors import UsageError


@dataclass(frozen=True)
class HubPart:
    """One split of a `datasets.DatasetDict`, read without letting `datasets` decode the images."""

    title: str
    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def rows(self) -> Iterator[images.Row]:
        import datasets

        image, label = images.columns(self.dataset.column_names, self.title)
        chosen = self.dataset.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
        for i, row in enumerate(chosen):
            cell = row[image] or {}
            encoded = cell.get("bytes")
            if encoded is None and cell.get("path"):
                encoded = Path(cell["path"]).read_bytes()
            yield images.Row(f"{self.title}, row {i}", encoded, row[label])

    def sources(self) -> Iterator[tuple[str, Path]]:
        return (("", Path(file["filename"])) for file in self.dataset.cache_files)


def parts(name: str, given: str) -> dict[str, images.Part]:
    """The splits of 'owner/name' or 'owner/name:configuration'; those not called train, val or test are left out.

    `given` is what the user wrote, for messages. Raises UsageError, within about five seconds when offline, if
    `datasets` is not installed, the hub cannot be reached or does not give the data set.
    """
    try:
        import datasets
    except ImportError as err:
        raise UsageError(
            f"'{given}' needs the package datasets, which is not installed: pip install 'robassay[hub]'"
        ) from err
    ident, _, config = name.partition(":")
    try:
        found = _load(datasets, ident, config, offline=True)
    except Exception:  # no copy yet; what `datasets` raises for that differs between its versions
        _ask_first(given)
        try:
            found = _load(datasets, ident, config, offline=False)
        except Exception as err:
            reason = (str(err).splitlines() or [""])[0][:200]
            raise UsageError(
                f"'{given}' could not be loaded ({type(err).__name__}: {reason}): check the name on the hub; "
                "write the configuration, where it has several, as hub:owner/name:configuration"
            ) from err
    splits = {s: HubPart(f"{given} {word}", d) for word, d in found.items() if (s := images.split_name(word))}
    if not splits:
        raise UsageError(f"'{given}' has the splits {', '.join(found)}; needed is train, val or test")
    return {split: splits[split] for split in images.SPLITS if split in splits}


def _load(datasets: Any, ident: str, config: str, offline: bool) -> Any:
    # `datasets` retries for over 20 s without a network unless these are set; the environment is read once.
    modules: list[Any] = [m for m in (datasets.config, sys.modules.get("huggingface_hub.constants")) if m is not None]
    before = [m.HF_HUB_OFFLINE for m in modules]
    voice = logging.getLogger("datasets")
    level = voice.level
    try:
        if offline:  # it would warn that the hub does not know a set which is merely at hand already
            voice.setLevel(logging.ERROR)
        for module in modules:
            module.HF_HUB_OFFLINE = offline
        return datasets.load_dataset(ident, config or None)
    finally:
        voice.setLevel(level)
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def _ask_first(given: str) -> None:
    """UsageError if the hub must not or cannot be asked."""
    advice = (
        "connect and try again, or fetch its parquet files elsewhere and give their folder with --data-dir FOLDER "
        "or the environment variable ROBASSAY_DATA"
    )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise UsageError(f"'{given}' was never downloaded here and HF_HUB_OFFLINE forbids it now: unset it, {advice}")
    url = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if not _reachable(getproxies().get("https") or url):
        raise UsageError(f"'{given}' was never downloaded here and {url} cannot be reached: {advice}")


def _reachable(url: str, patience: float = 2.0) -> bool:
    target, answers = urlsplit(url if "://" in url else f"//{url}"), []

    def knock() -> None:
        port = target.port or (80 if target.scheme == "http" else 443)
        with contextlib.suppress(OSError), socket.create_connection((target.hostname, port), patience):
            answers.append(True)

    # A thread, because looking up a host's name obeys no timeout.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(patience + 1)
    return bool(answers)
