"""How costs grow: seconds against examples, draws, steps, time steps, models in an ensemble, and cells.

Every size is measured in turn, round after round; the slope is that of log seconds over log size: 1 is linear, 0 costs
nothing more. The slope between the two largest sizes stands beside that over all: where it is larger, something bends.

Run:   python bench/growth.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from eot import ours as gradient
from eot import subjects
from harness import Figures, compare, save
from scale import study
from subjects import cnn, images
from torch import Tensor

from robassay.access import White
from robassay.attacks.gradient import PGD
from robassay.classifier import Classifier
from robassay.estimators import Backprop
from robassay.nets.neurons import neurons
from robassay.plan import plan
from robassay.rng import Stream
from robassay.rules import Atan
from robassay.threat import Goal, Threat

RNG = Stream(("bench", "growth"))
ROUNDS = 5


def grown(task: str, sizes: Sequence[int], work: Callable[[int], object], wanted: float) -> dict[str, Any]:
    """Seconds per size and slopes; ``wanted`` is the slope that is expected at most."""

    def way(size: int) -> Callable[[], Figures]:
        def run() -> Figures:
            work(size)
            return {}

        return run

    found = compare(f"growth: {task}", {str(size): way(size) for size in sizes}, ROUNDS)
    least = [min(w["cpus"]) for w in found["ways"].values()]  # the least disturbed round of each size
    logs, logt = np.log(sizes), np.log(least)
    slope = float(np.polyfit(logs, logt, 1)[0])
    last = float((logt[-1] - logt[-2]) / (logs[-1] - logs[-2]))
    found["slope"] = {"all": slope, "last": last, "wanted": wanted}
    print(f"  slope {slope:.2f}, between the two largest {last:.2f}; wanted: at most {wanted:g}")
    return found


def attacked(models: list[Classifier], x: Tensor, y: Tensor, steps: int) -> None:
    opened = White(Backprop()).open(models, len(x))
    PGD(steps=steps, step=0.01, keep="last")(opened, x, Goal(y), Threat("linf", 0.1), RNG)


def spiking(steps: int) -> None:
    current = torch.randn(steps, 200_000, requires_grad=True)
    torch.autograd.grad(neurons(current, 0.5, 1.0, "hard", Atan()).sum(), current)


def main() -> None:
    torch.set_num_threads(1)
    model, (x, y) = cnn(), images(1600)
    nets = subjects()
    late, early, weights = nets.values()
    few, goal = x[:64], Goal(y[:64])
    rows = [
        grown("examples (PGD-10)", (50, 100, 200, 400, 800, 1600), lambda n: attacked([model], x[:n], y[:n], 10), 1.0),
        grown("steps (PGD, 100 images)", (5, 10, 20, 40, 80), lambda n: attacked([model], x[:100], y[:100], n), 1.0),
        grown(
            "models of an ensemble (PGD-10)", (1, 2, 4, 8), lambda n: attacked([model] * n, x[:100], y[:100], 10), 1.0
        ),
        grown("draws, noise on the input", (4, 8, 16, 32, 64), lambda n: gradient(early, few, goal, n), 1.0),
        grown("draws, noise in the weights", (4, 8, 16, 32, 64), lambda n: gradient(weights, few, goal, n), 1.0),
        grown("draws, noise behind the backbone", (4, 16, 64, 256), lambda n: gradient(late, few, goal, n), 0.5),
        grown("time steps (LIF, 200,000 neurons)", (4, 8, 16, 32, 64), spiking, 1.0),
        grown("cells of a plan", (1000, 4000, 16_000, 64_000), lambda n: plan(study(n).needs(), None), 1.0),
    ]
    save("growth", rows)


if __name__ == "__main__":
    main()
