"""`robassay check FILE`: every part a user's file registers, and every network it builds, through its exam."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from robassay.access import Attack
from robassay.adapters import recognised
from robassay.cells import Examples
from robassay.classifier import Classifier, Net
from robassay.data import find, pixels
from robassay.errors import RobassayError, UsageError, tell
from robassay.estimators import Estimator
from robassay.probe import as_classifier, probe
from robassay.registry import Entry, all_entries, load_file, load_name
from robassay.testing import check_attack, check_classifier, check_estimator


class Pace:
    """Says on standard error how far an exam is, where one takes long.

    Args:
        every: seconds between two lines, and before the first.
    """

    def __init__(self, every: float) -> None:
        self.every, self.part = every, ""
        self.began = self.told = time.monotonic()

    def __call__(self, part: str, done: int, total: int, promise: str) -> None:
        now = time.monotonic()
        if part != self.part or not done:
            self.part, self.began = part, now
        if now - self.told > self.every:
            self.told = now
            spent = now - self.began
            left = f", about {spent / done * (total - done):.0f} s left" if done else ""
            tell(f"robassay: {part}: {done} of {total} promises in {spent:.0f} s{left}; now: {promise}")


def examine(target: str) -> list[dict[str, Any]]:
    """Results of all exams: ``{part, promise, ok, detail}``.

    Args:
        target: "file.py" for all its parts, or "file.py:build" for the network that ``build()`` returns.

    Raises:
        UsageError: nothing to examine, or a file that cannot be run.
    """
    file, _, build = target.partition(".py")
    file, build = file + ".py", build.lstrip(":")
    if build:
        module = load_name(file, build)()
        return _rows(build, check_classifier, *_with_images(module))
    name = load_file(file).__name__
    found: list[dict[str, Any]] = []
    for entry in all_entries():
        if entry.cls.__module__ == name:
            found += _one(entry)
    if not found:
        raise UsageError(f"'{file}' registers no part. Mark a class with @robassay.part, or write {file}:build.")
    return found


def _one(entry: Entry) -> list[dict[str, Any]]:
    if issubclass(entry.cls, Attack):
        return _rows(entry.name, check_attack, entry.cls())
    if issubclass(entry.cls, Estimator):
        return _rows(entry.name, check_estimator, entry.cls())
    if issubclass(entry.cls, Net):
        data = find("digits")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = entry.cls().build(data.shape, data.classes).eval()
        return _rows(entry.name, check_classifier, *_with_images(model))
    return [{"part": entry.name, "promise": "is registered", "ok": True, "detail": f" ({entry.kind})"}]


def _with_images(module: nn.Module) -> tuple[Classifier, torch.Tensor]:
    """The classifier and images it can take: digits, or random ones of the size its first layer asks for."""
    if not isinstance(module, nn.Module):
        raise UsageError(f"build() returned a {type(module).__name__}, not a torch.nn.Module.")
    x = pixels(Examples(find("digits"), "test", 0, 16).load().x)
    first = next((m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d)), 1)
    module = recognised(module)
    tried = [x, *(torch.rand(16, first, side, side) for side in (28, 32, 64, 96, 224))]
    module = module.eval()
    for images in tried:
        try:
            found = probe(module, images)
        except UsageError:
            continue
        return as_classifier(module, found, images), images
    raise UsageError("the network takes none of the image sizes 8, 28, 32, 64, 96, 224; audit it with --data instead.")


def _rows(part: str, exam: Any, *arguments: Any) -> list[dict[str, Any]]:
    try:
        results = exam(*arguments)
    except RobassayError as error:
        results = getattr(error, "results", None)
        if results is None:
            return [{"part": part, "promise": "passes its exam", "ok": False, "detail": f": {error}"}]
    return [
        {"part": part, "promise": r.promise, "ok": r.ok, "detail": f": {r.detail}" if r.detail else ""} for r in results
    ]
