"""The referee: how well an evaluator tells real robustness from masked, on networks whose truth is known.

It is a benchmark of evaluators. Every tool is asked about the same networks of the zoo and the same images: how robust
is each? What its images leave is then measured by the referee on fresh draws.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robassay.auditing import Budget, plan_audit
from robassay.cell import Model
from robassay.cells import Disturbed, Examples, Score
from robassay.classifier import Classifier
from robassay.data import find, pixels
from robassay.document import Document
from robassay.errors import RobassayError, UsageError
from robassay.folds import rows
from robassay.intervals import Estimate, Matrix, rate
from robassay.plan import plan
from robassay.referee.account import Answer, from_json, settle
from robassay.referee.tools import NAMES, TOOLS, check
from robassay.rng import Stream
from robassay.run import carry_out
from robassay.run.worker import LocalContext
from robassay.store import Store
from robassay.study import Audit, Study
from robassay.threat import Threat
from robassay.zoo import ENTRIES, SEEDS, index, known, model

DRAWS = 100
"""Fresh draws by which an image is judged, by our audit and by the referee."""
DELTA = 0.05


def referee(
    tool: str,
    store: Store,
    budget: Budget = "quick",
    nets: Sequence[str] = (),
    seeds: int = SEEDS,
    images: int = 200,
    workers: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Ask ``tool`` about networks of the zoo and settle the account of all tools that the store has answers of.

    Args:
        tool: "ours", "foolbox" or "pyautoattack".
        store: keeps every answer, so that an interrupted run goes on and tools can be compared.
        budget: "quick", "standard" or "thorough"; of another's tool, quick or its own defaults.
        nets: names of the zoo; none for all.
        seeds: training seeds of each, 1 to 3.
        images: test images, from the first on.
        workers: processes for our own cells; other tools run in this one.
        quiet: no progress.

    Returns:
        See :func:`~robassay.referee.account.settle`; with the threat, the budget and n.

    Raises:
        UsageError: an unknown tool, net or budget; a package that is missing; more seeds or images than there are.
        RobassayError: an attack failed.
    """
    check(tool)
    if not 1 <= seeds <= SEEDS:
        raise UsageError(f"--seeds {seeds}: the zoo has {SEEDS} training seeds. Write --seeds 1 to {SEEDS}.")
    entries = [known(name) for name in nets] if nets else list(ENTRIES.values())
    wanted = [(entry.name, seed) for entry in entries for seed in range(seeds)]
    on = Examples(find("digits"), "test", 0, images)
    on.load()
    folder = Answers(Path(store.root) / "referee", budget, images)
    if tool == "ours":
        _ask_ours(wanted, on, budget, store, workers, quiet, folder)
    else:
        _ask_other(tool, wanted, on, budget, store, quiet, folder)
    given = {name: folder.read(name, wanted) for name in NAMES}
    whole = {name: answers for name, answers in given.items() if len(answers) == len(wanted)}
    left = {key: np.array(index()["truth"][key[0]][key[1]]["left"][:images]) / 100 for key in wanted}
    result = settle(whole, {key: shares for key, shares in left.items() if len(shares) == images})
    for one in result["tools"].values():
        for row in one["nets"]:
            row["eps"] = ENTRIES[row["net"]].eps
    return {**result, "asked": tool, "budget": budget, "n": images}


def threat_of(name: str) -> Threat:
    """The threat that a network of the zoo is asked under."""
    return Threat("linf", ENTRIES[name].eps)


class Answers:
    """Answers on disk, a file for each tool and network: named by the weights, so that another zoo has others."""

    def __init__(self, folder: Path, budget: str, images: int) -> None:
        self.folder, self.budget, self.images = folder, budget, images

    def file(self, tool: str, name: str, seed: int) -> Path:
        return self.folder / tool / f"{name}-{seed}-{self.budget}-{self.images}-{model(name, seed).key}.json"

    def has(self, tool: str, name: str, seed: int) -> bool:
        return self.file(tool, name, seed).is_file()

    def write(self, tool: str, answer: Answer) -> None:
        file = self.file(tool, answer.net, answer.seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.write_text(json.dumps(answer.as_json()) + "\n", encoding="utf-8")
        os.replace(temporary, file)

    def read(self, tool: str, wanted: Sequence[tuple[str, int]]) -> list[Answer]:
        """The answers of a tool that are there, in the order of ``wanted``: names with training seeds."""
        files = [self.file(tool, name, seed) for name, seed in wanted]
        return [from_json(json.loads(f.read_text(encoding="utf-8"))) for f in files if f.is_file()]


# --------------------------------------------------------------------------------------------------------- asking ours


def _ask_ours(
    wanted: Sequence[tuple[str, int]],
    on: Examples,
    budget: Budget,
    store: Store,
    workers: int,
    quiet: bool,
    folder: Answers,
) -> None:
    items = {f"{name}-{seed}": bare_audit(name, seed, on, budget, store) for name, seed in wanted}
    study = Study("referee", "Referee", tuple(items.values()), scale="audit")
    failed = carry_out(study.needs(), store, workers, quiet=quiet).failed
    if failed:
        raise RobassayError(next(iter(failed.values())))
    results = {one["title"]: one for one in Document(study.freeze(), store).audits()}
    for name, seed in wanted:
        target, title = model(name, seed), f"{name}-{seed}"
        found, stated = results[title], results[title]["robust"]
        answer = Answer(
            name,
            seed,
            ENTRIES[name].masked,
            Estimate(*(stated[k] for k in ("value", "low", "high", "n"))),
            judged("ours", target, strongest(items[title], target, on, store), on, threat_of(name), store),
            flagged(found),
            found["verdict"] + (f" ({found['cause']})" if found["cause"] else ""),
            _seconds(items[title], store),
        )
        folder.write("ours", answer)


def bare_audit(name: str, seed: int, on: Examples, budget: Budget, store: Store, delta: float = DELTA) -> Audit:
    """Our audit of a network of the zoo, without the curves that are shown beside a verdict and decide nothing."""
    target, claimed = model(name, seed), ENTRIES[name].claimed
    item = plan_audit(target, on, threat_of(name), budget, DRAWS, delta, store, f"{name}-{seed}", claimed=claimed)
    return dataclasses.replace(item, evidence=())


def flagged(found: dict[str, Any]) -> bool:
    """Whether an audit's result says that the claim is masked, and not only that it took too few steps."""
    return found["verdict"] == "artefact" or (
        found["verdict"] == "overstated" and found["cause"] in ("masking", "both")
    )


def strongest(item: Audit, target: Model, on: Examples, store: Store) -> Tensor:
    """Per image of ``on`` what an audit's attacks made of it, (N, C, H, W): that with the lowest share of right draws.

    Images as they are belong to them. Where some were judged by more draws than others, only those count: the least of
    many shares of few draws is luck. The referee judges by draws of its own.
    """
    originals = pixels(on.load().x)
    images = originals.clone()
    least = torch.full((len(images),), 2.0, dtype=torch.float64)
    every = [c for c in plan(item.needs(), None).order if isinstance(c, Score) and c.target == target]
    scores = [c for c in every if not isinstance(c.on, Disturbed)]  # noise is drawn more often than a net that has none
    judged_by = {score: rows([store.read(score.key)]).survives() for score in scores}
    most = max(map(len, judged_by.values()))
    for score, right in judged_by.items():
        if len(right) < most:
            continue
        part = slice(score.examples.start - on.start, score.examples.stop - on.start)
        share, on_what = torch.from_numpy(right.mean(0)), score.on
        assert not isinstance(on_what, Disturbed)
        made = originals[part] if isinstance(on_what, Examples) else torch.from_numpy(store.read(on_what.key)["x_adv"])
        # Curves over eps belong to an audit, too: what leaves the ball does not count.
        better = (share < least[part]) & item.threat.holds(made, originals[part])
        least[part] = torch.where(better, share, least[part])
        images[part] = torch.where(better.view(-1, 1, 1, 1), made, images[part])
    return images


def _seconds(item: Audit, store: Store) -> float:
    return sum(float(store.about(c.key).get("seconds", 0.0)) for c in plan(item.needs(), None).order)


# ------------------------------------------------------------------------------------------------------ asking others


def _ask_other(
    tool: str,
    wanted: Sequence[tuple[str, int]],
    on: Examples,
    budget: str,
    store: Store,
    quiet: bool,
    folder: Answers,
) -> None:
    images = on.load()
    x, y = pixels(images.x), images.y
    for name, seed in wanted:
        if folder.has(tool, name, seed):
            continue
        target, begun = model(name, seed), time.perf_counter()
        net = opened(target, store)
        with Stream(("referee", tool, "asks", target.key)).active():
            stated = TOOLS[tool](net, x, y, threat_of(name), budget)
        seconds = time.perf_counter() - begun
        robust = rate(stated.right.numpy().astype(np.float64)[None])
        right = judged(tool, target, stated.images, on, threat_of(name), store)
        words = "warns" if stated.warned else ""
        folder.write(tool, Answer(name, seed, ENTRIES[name].masked, robust, right, verdict=words, seconds=seconds))
        if not quiet:
            print(f"{tool}: {name} {seed}: {robust}, delivered {100 * float(np.mean(right)):.1f} %, {seconds:.0f} s")


def opened(target: Model, store: Store) -> Classifier:
    """The classifier of a stored model, on the CPU."""
    return LocalContext(target, store, torch.device("cpu")).open(target)


# ------------------------------------------------------------------------------------------------------------ judging


@torch.no_grad()
def judged(tool: str, target: Model, images: Tensor, on: Examples, threat: Threat, store: Store) -> tuple[float, ...]:
    """Per image the share of :data:`DRAWS` fresh draws that are right on ``images`` (N, C, H, W) in [0,1].

    Raises:
        RobassayError: an image is farther from its original than the threat allows.
    """
    originals = on.load()
    outside = int((~threat.holds(images, pixels(originals.x))).sum())
    if outside:
        raise RobassayError(f"{tool} returned a larger change than {threat} in {outside} of {len(images)} images.")
    net = opened(target, store)
    logits = net.sample(net.prefix(images), DRAWS, Stream(("referee", tool, "judges", target.key)))
    right: Matrix = (logits.argmax(-1) == originals.y).double().mean(0).numpy()
    return tuple(float(share) for share in right)
