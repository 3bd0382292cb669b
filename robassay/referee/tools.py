"""Evaluators that the referee can ask: each says how robust a network is, and hands over its images."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robassay.classifier import Classifier
from robassay.errors import UsageError
from robassay.threat import Threat

EOT = 20
"""Passes that foolbox averages of a random network."""
STEPS, QUERIES = 50, 1000
"""Of pyautoattack's attacks at budget quick, where its own defaults are 100 and 5,000."""


class Stated(NamedTuple):
    """What a tool returns."""

    right: Tensor
    """Per image (N,), bool: whether the tool counts it as robust."""
    images: Tensor
    """(N, C, H, W) in [0,1]: what it would show as its strongest images."""
    warned: bool = False
    """Whether it says that its own figure may be unreliable."""


Tool = Callable[[Classifier, Tensor, Tensor, Threat, str], Stated]
"""(network, images, labels, threat, budget) → what is stated; under the generator in force."""


def foolbox(model: Classifier, x: Tensor, y: Tensor, threat: Threat, budget: str) -> Stated:
    """FGSM, PGD-40 and DeepFool, the worst per image as foolbox counts it; EoT over 20 passes of a random network."""
    fb = _imported("foolbox")
    steps = 40 if budget == "quick" else 100
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = fb.PyTorchModel(model, bounds=(0, 1), device="cpu")
        if model.stochastic:
            peer = fb.models.ExpectationOverTransformationWrapper(peer, n_steps=EOT)
        attacks = [fb.attacks.FGSM(), fb.attacks.LinfPGD(steps=steps, rel_stepsize=2.5 / steps)]
        attacks.append(fb.attacks.LinfDeepFoolAttack(steps=steps))
        images, right = x.clone(), torch.ones(len(x), dtype=torch.bool)
        for attack in attacks:
            _, found, broken = attack(peer, x, y, epsilons=threat.eps)
            found = threat.project(found.detach().nan_to_num(nan=0.0), x)
            # What breaks first is kept; where nothing does, the last attack's images are as good as any.
            images = torch.where((right & (broken | (images == x).flatten(1).all(1))).view(-1, 1, 1, 1), found, images)
            right &= ~broken
    return Stated(right, images)


def pyautoattack(model: Classifier, x: Tensor, y: Tensor, threat: Threat, budget: str) -> Stated:
    """AutoAttack: its standard ensemble, "rand" for a random network. At budget quick with fewer steps and queries."""
    peer = _imported("pyautoattack")
    version = "rand" if model.stochastic else "standard"
    with warnings.catch_warnings(), _listening("auto-attack") as said:
        warnings.simplefilter("ignore")
        whole = peer.AutoAttack(model, norm="Linf", eps=threat.eps, version=version, seed=None, device="cpu")
        if budget == "quick":
            _shorten(whole)
        # Its own bookkeeping: the label that it saw when an image broke, at first or under attack, else the right one.
        images, seen = whole.run_standard_evaluation(x, y, batch_size=len(x))
    return Stated(seen == y, threat.project(images.detach(), x), bool(said))


@contextmanager
def _listening(logger: str) -> Iterator[list[str]]:
    """What a library's logger says inside, instead of on the terminal."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger(logger)
    before, spreads = log.handlers, log.propagate
    log.handlers, log.propagate = [handler], False
    try:
        yield said
    finally:
        log.handlers, log.propagate = before, spreads


def _shorten(whole: Any) -> None:
    for name in ("apgd", "apgd_targeted", "fab"):
        getattr(whole, name).n_iter = STEPS
    whole.square.n_queries = QUERIES


TOOLS: dict[str, Tool] = {"foolbox": foolbox, "pyautoattack": pyautoattack}
"""Evaluators of others, by name. Ours is asked through its cells."""
NAMES = ("ours", *TOOLS)


def check(tool: str) -> None:
    """Raise UsageError for a tool that is not known, or whose package is missing."""
    if tool not in NAMES:
        raise UsageError(f"--tool {tool} is not known. Write one of {', '.join(NAMES)}.")
    if tool in TOOLS:
        _imported(tool)


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"--tool {name} needs the package {name}. Write: pip install 'robassay[bench]'") from error
