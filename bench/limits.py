"""How far from the machine's limits: counted operations and bytes against measured peaks, one thread.

The floor of a task is the larger of its multiplications and additions at the speed of a large matrix product, and of
the bytes it cannot avoid to move at the speed of a large copy. What is shown is the task's time over that floor, and
over its bare passes: the first says what a perfect kernel would win, the second what this package adds.

Run:   python bench/limits.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from attacks import EPS, ours
from harness import Figures, compare, save
from subjects import cnn, images
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from robassay.access import White
from robassay.attacks.cw import CW
from robassay.attacks.gradient import PGD
from robassay.classifier import Classifier
from robassay.defences.a2snn import A2SNN
from robassay.estimators import Backprop
from robassay.nets.lenet import LeNetPP
from robassay.nets.neurons import neurons
from robassay.rng import Stream
from robassay.rules import Atan
from robassay.threat import Goal, Threat

RNG = Stream(("bench", "limits"))
SIDE, MIB = 1024, 64


def fastest(work: Callable[[], Any], times: int = 40) -> float:
    """Seconds of CPU of the fastest of many runs: a peak is what the machine can do undisturbed."""
    found = []
    for _ in range(times):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return min(found)


def peaks() -> dict[str, float]:
    """Operations per second of a matrix product, bytes per second of a copy (each byte read and written)."""
    a, b = torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE)
    source = torch.rand(MIB * 2**18)
    target = torch.empty_like(source)
    return {
        "flops": 2 * SIDE**3 / fastest(lambda: a @ b),
        "bytes": 2 * 4 * source.numel() / fastest(lambda: target.copy_(source)),
    }


def counted(work: Callable[[], Any]) -> float:
    """Multiplications and additions of products and convolutions, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def once(model: Classifier, x: Tensor, y: Tensor) -> None:
    """A pass forward and back to the image."""
    F.cross_entropy(model(x.clone().requires_grad_()), y, reduction="sum").backward()  # the counter knows no other way


def row(task: str, work: Callable[[], Figures], flops: float, moved: float, peak: dict[str, float]) -> dict[str, Any]:
    found = compare(task, {"ours": work}, 5)
    floor = max(flops / peak["flops"], moved / peak["bytes"])
    limited = "arithmetic" if flops / peak["flops"] >= moved / peak["bytes"] else "memory"
    found["limit"] = {"flops": flops, "bytes": moved, "floor": floor, "limited_by": limited}
    found["limit"]["times_floor"] = found["ways"]["ours"]["cpu"] / floor
    print(f"  floor {floor:.4g} s ({limited}); {found['limit']['times_floor']:.2f} times that")
    return found


def attacked(
    model: Classifier, x: Tensor, y: Tensor, attack: Any, threat: Threat
) -> tuple[Callable[[], Figures], float]:
    """The attack as a task, and the passes that it asks for, in images."""

    def run() -> Figures:
        _, spent = ours(attack, White(), model, x, y, threat)
        return {"gradients": float(spent.gradients.sum())}

    return run, run()["gradients"]


def main() -> None:
    torch.set_num_threads(1)
    peak = peaks()
    print(f"peak: {peak['flops'] / 1e9:.0f} GFLOP/s, {peak['bytes'] / 1e9:.1f} GB/s")
    model, (x, y) = cnn(), images(200, first=1000)
    per_image = counted(lambda: once(model, x, y)) / len(x)
    rows = [{"task": "peaks", "ways": {"this machine": {"gflops": peak["flops"] / 1e9, "gbytes": peak["bytes"] / 1e9}}}]

    def bare_pass() -> Figures:
        once(model, x, y)
        return {}

    rows.append(row("bare pass forward and back, small CNN, 200 images", bare_pass, per_image * 200, 0, peak))
    for name, attack, threat in (
        ("PGD-40, last iterate", PGD(steps=40, step=2.5 * EPS / 40, keep="last"), Threat("linf", EPS)),
        ("C&W 4 x 50", CW(search=4, steps=50), Threat("l2", None)),
    ):
        work, passes = attacked(model, x, y, attack, threat)
        rows.append(row(f"{name}, small CNN, 200 images", work, per_image * passes, 0, peak))
    with RNG.child("late").active():
        late = A2SNN(LeNetPP()).build((1, 28, 28), 10).eval().requires_grad_(False)
        batch, goal = torch.rand(64, 1, 28, 28), Goal(torch.arange(64) % 10)

    def eot() -> Figures:
        Backprop(50)(late, batch, goal.loss("ce"), RNG)
        return {}

    flops = counted(lambda: once(late, batch, goal.labels))
    rows.append(row("EoT-50, A2SNN on LeNet++, 64 images", eot, flops, 0, peak))
    size = (16, 32, 64, 32, 32)
    current, upon = torch.randn(size, requires_grad=True), torch.randn(size)

    def lif() -> Figures:
        torch.autograd.grad(neurons(current, 0.5, 1.0, "hard", Atan()), current, upon)
        return {}

    # forward reads the current and writes spikes; backward reads the current and what arrives, writes the gradient
    rows.append(row(f"LIF forward and back, {size}", lif, 0, 5 * 4 * current.numel(), peak))
    save("limits", rows)


if __name__ == "__main__":
    main()
