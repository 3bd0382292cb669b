"""Our attacks against foolbox's and pyautoattack's: same network, same images, in turn, one thread.

Run:   make bench        (ROBASSAY_DATA names the folder with MNIST; without it the digits are used)
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import foolbox
import torch
import torch.nn.functional as F
from harness import Figures, Rivals, among, compare, save, show
from pyautoattack import AutoAttack
from pyautoattack.autopgd_base import APGDAttack
from pyautoattack.square import SquareAttack
from subjects import cnn, images, random_nets
from torch import Tensor

from robassay.access import Access, Attack, Decisions, Scores, White
from robassay.attacks.apgd import APGD
from robassay.attacks.boundary import Boundary
from robassay.attacks.cw import CW
from robassay.attacks.gradient import FGSM, PGD
from robassay.attacks.hopskipjump import HopSkipJump
from robassay.attacks.square import Square
from robassay.classifier import Classifier
from robassay.estimators import Backprop, ClosedForm
from robassay.rng import Stream
from robassay.threat import Goal, Threat

EPS = 0.1
SLACK = 0.01
"""Robust accuracy by which two attacks may differ and still be called equally strong: two of 200 images."""
RNG = Stream(("bench",))
warnings.filterwarnings("ignore", module="foolbox")


def ours(attack: Attack, access: Access, model: Classifier, x: Tensor, y: Tensor, threat: Threat) -> tuple[Tensor, Any]:
    """Adversarial images and what was spent."""
    opened = access.open([model], len(x))
    return attack(opened, x, Goal(y), threat, RNG), opened.spent


@torch.no_grad()
def robust(model: Classifier, x: Tensor, y: Tensor, draws: int = 1) -> float:
    """Accuracy over fresh draws."""
    logits = model.sample(model.prefix(x), draws, RNG.child("judge"))
    return float((logits.argmax(-1) == y).float().mean())


def distance(model: Classifier, x_adv: Tensor, x: Tensor, y: Tensor) -> Figures:
    """Share of images that are broken, and the mean L2 of those."""
    broken = model(x_adv).argmax(1) != y
    size = (x_adv - x).flatten(1).norm(dim=1)[broken]
    return {"success": float(broken.float().mean()), "l2": float(size.mean()) if len(size) else float("nan")}


def gradient_rows(model: Classifier, x: Tensor, y: Tensor) -> list[dict[str, Any]]:
    """FGSM and PGD against the bare passes and foolbox; APGD against its authors'."""
    threat, steps = Threat("linf", EPS), 40
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")

    def bare(n: int) -> Figures:
        image = x.clone().requires_grad_()
        for _ in range(n):
            torch.autograd.grad(F.cross_entropy(model(image), y, reduction="sum"), image)
        return {"robust": robust(model, x, y)}  # every way pays for judging its images

    def mine(attack: Attack) -> Callable[[], Figures]:
        def run() -> Figures:
            x_adv, spent = ours(attack, White(), model, x, y, threat)
            passes = {"passes": float(spent.gradients.sum()) / len(x)}
            return {"robust": robust(model, x_adv, y), **passes}

        return run

    def theirs(attack: Any) -> Callable[[], Figures]:
        return lambda: {
            "robust": robust(model, attack.run(peer, x, foolbox.criteria.Misclassification(y), epsilon=EPS), y)
        }

    def apgd(loss: str) -> Figures:
        found = APGDAttack(model, n_iter=50, n_restarts=1, norm="Linf", eps=EPS, loss=loss, device="cpu", seed=0)
        return {"robust": robust(model, found.perturb(x, y), y), "passes": 51.0}

    step = 2.5 * EPS / steps
    pgd = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=steps)
    rows = [
        compare(
            "FGSM",
            {"bare passes": lambda: bare(1), "ours": mine(FGSM()), "foolbox": theirs(foolbox.attacks.FGSM())},
            9,
            Rivals("ours", ("foolbox",), "robust", slack=SLACK, bare="bare passes", within=1.1),
        ),
        compare(
            f"PGD-{steps}, last iterate",
            {
                "bare passes": lambda: bare(steps),
                "ours": mine(PGD(steps=steps, step=step, keep="last")),
                "ours, best iterate": mine(PGD(steps=steps, step=step)),
                "foolbox": theirs(pgd),
            },
            9,
            Rivals("ours", ("foolbox",), "robust", slack=SLACK, bare="bare passes", within=1.1),
        ),
    ]
    for loss in ("ce", "dlr"):
        pair = {"ours": mine(APGD(steps=50, loss=loss)), "pyautoattack": lambda loss=loss: apgd(loss)}  # type: ignore[arg-type,misc]
        rows.append(
            compare(f"APGD-{loss}, 50 steps", pair, 5, Rivals("ours", ("pyautoattack",), "robust", slack=SLACK))
        )
    return rows


def distance_rows(model: Classifier, x: Tensor, y: Tensor) -> list[dict[str, Any]]:
    """C&W and boundary against foolbox."""
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    free = Threat("l2", None)

    def mine(attack: Attack, access: Access) -> Callable[[], Figures]:
        def run() -> Figures:
            x_adv, spent = ours(attack, access, model, x, y, free)
            return {**distance(model, x_adv, x, y), "queries": float(spent.queries.sum()) / len(x)}

        return run

    def theirs(attack: Any, more: dict[str, Tensor] | None = None) -> Callable[[], Figures]:
        def run() -> Figures:
            found = attack.run(peer, x, foolbox.criteria.Misclassification(y), **(more or {}))
            return distance(model, found, x, y)

        return run

    cw = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=9, steps=200)
    whole = CW(search=9, steps=200, abort_early=False)
    rows = [
        compare(
            "C&W L2",
            {
                "foolbox 9 x 200": theirs(cw),
                "ours 9 x 200, no stopping": mine(whole, White()),
                "ours 9 x 200": mine(CW(), White()),
                "ours 4 x 50": mine(CW(search=4, steps=50), White()),
            },
            3,
            Rivals("ours 9 x 200", ("foolbox 9 x 200",), "l2", slack=0.01),
        )
    ]
    x, y = x[:50], y[:50]
    # foolbox's own start fails the whole batch when it fails for one image: it gets another digit to start from.
    other = torch.stack([x[(model(x).argmax(1) != label).nonzero()[0, 0]] for label in y])
    walk = foolbox.attacks.BoundaryAttack(steps=2090)

    @torch.no_grad()
    def forwards() -> Figures:
        for _ in range(1150):
            model(x.repeat(2, 1, 1, 1))
        return {"queries": 2300.0}

    begun = {"starting_points": other}
    rows.append(
        compare(
            "Boundary, about 2,300 queries",
            {
                "foolbox": theirs(walk, begun),
                "ours": mine(Boundary(queries=2300), Decisions()),
                "ours, a third of the queries": mine(Boundary(queries=766), Decisions()),
                "ours, 400 queries": mine(Boundary(queries=400), Decisions()),
                "bare forwards, 2,300 in pairs": forwards,
                "ours, HopSkipJump": mine(HopSkipJump(queries=2300), Decisions()),
            },
            3,
            # Of equal strength: with a third of the questions it is still closer than foolbox with all of them.
            Rivals("ours, a third of the queries", ("foolbox",), "l2", slack=0.01),
        )
    )
    return rows


def score_rows(model: Classifier, x: Tensor, y: Tensor) -> list[dict[str, Any]]:
    """Square against its authors'."""
    threat = Threat("linf", EPS)

    def mine() -> Figures:
        x_adv, spent = ours(Square(queries=1000), Scores(), model, x, y, threat)
        return {"robust": robust(model, x_adv, y), "queries": float(spent.queries.sum()) / len(x)}

    def theirs() -> Figures:
        found = SquareAttack(model, norm="Linf", n_queries=1000, eps=EPS, n_restarts=1, device="cpu", seed=0)
        return {"robust": robust(model, found.perturb(x, y), y)}

    rivals = Rivals("ours", ("pyautoattack",), "robust", slack=SLACK)
    return [compare("Square, 1,000 queries", {"pyautoattack": theirs, "ours": mine}, 5, rivals)]


def random_rows(x: Tensor, y: Tensor) -> list[dict[str, Any]]:
    """On random networks: what a tool claims, and the mean over 100 fresh draws of the images it returns."""
    rows = []
    threat = Threat("linf", EPS)
    for name, model in random_nets().items():
        peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        averaged = foolbox.models.ExpectationOverTransformationWrapper(peer, n_steps=20)
        found = foolbox.attacks.LinfPGD(steps=40, rel_stepsize=2.5 / 40).run(
            averaged, x, foolbox.criteria.Misclassification(y), epsilon=EPS
        )
        told = {"foolbox EoT-20": (1 - float(averaged(found).argmax(1).ne(y).float().mean()), found)}
        rand = AutoAttack(model, norm="Linf", eps=EPS, version="rand", seed=0, device="cpu")
        rand.apgd.n_iter = 50
        with RNG.child("rand").active():
            # Its claim is its own bookkeeping: the label that it saw when an image broke, else the right one.
            best, seen = rand.run_standard_evaluation(x, y, batch_size=len(x))
        told["pyautoattack rand (CE, DLR)"] = (float((seen == y).float().mean()), best)
        candidates = [
            ours(APGD(steps=50, loss=loss), White(Backprop(20)), model, x, y, threat)[0]  # type: ignore[arg-type]
            for loss in ("ce", "margin")
        ]
        ways: dict[str, dict[str, float]] = {
            tool: {"claimed": claim, "delivered": robust(model, images, y, 100)}
            for tool, (claim, images) in told.items()
        }
        ways["ours (CE, margin)"] = _ours_delivered(model, candidates, y)
        if model.gaussian(model.prefix(x)) is not None:
            exact = ours(APGD(steps=50, loss="margin"), White(ClosedForm()), model, x, y, threat)[0]
            ways["ours, closed form alone"] = _ours_delivered(model, [exact], y)
        rows.append({"task": f"random: {name}", "ways": ways})
        show(rows[-1])
    return rows


@torch.no_grad()
def _ours_delivered(model: Classifier, candidates: list[Tensor], y: Tensor) -> dict[str, float]:
    """Per image the candidate that is worst on one set of draws; claimed on a second set, delivered on a third."""

    def right(which: str) -> Tensor:
        draws = [model.sample(model.prefix(c), 100, RNG.child(which)) for c in candidates]
        return torch.stack([(d.argmax(-1) == y).float().mean(0) for d in draws])

    worst = right("choose").argmin(0)[None]
    claimed, delivered = (float(right(k).gather(0, worst).mean()) for k in ("claim", "deliver"))
    return {"claimed": claimed, "delivered": delivered}


def main() -> None:
    """All rows, or those named on the command line, the others as they were: gradient distance score random."""
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or ["gradient", "distance", "score", "random"]
    model, (x, y) = cnn(), images(200, first=1000)  # settings were chosen on the first images
    rows: list[dict[str, Any]] = []
    if "gradient" in wanted:
        rows += gradient_rows(model, x, y)
    if "distance" in wanted:
        rows += distance_rows(model, x[:100], y[:100])
    if "score" in wanted:
        rows += score_rows(model, x, y)
    if "random" in wanted:
        rows += random_rows(x[:100], y[:100])
    save("attacks", among("attacks", rows) if sys.argv[1:] else rows)


if __name__ == "__main__":
    main()
