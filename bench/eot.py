"""The gradient over many draws of a random network: ours against the loop and the batch that one writes by hand.

Three places for the noise: late (a noise head behind the whole backbone), early (on the input), and in the weights.
The same number of draws everywhere; strength is the cosine of the gradient with one from far more draws.

Run:   python bench/eot.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import foolbox
import torch
from harness import Figures, Rivals, Way, compare, peak_memory, save, show
from subjects import InputNoise
from torch import Tensor

from robassay.classifier import Classifier, Wrapped
from robassay.defences.a2snn import A2SNN
from robassay.defences.pni import PNI
from robassay.estimators import Backprop
from robassay.nets.cnn import SmallCNN
from robassay.nets.lenet import LeNetPP
from robassay.rng import Stream
from robassay.threat import Goal

SHAPE = (1, 28, 28)
IMAGES, DRAWS, MANY = 64, 20, 500
RNG = Stream(("bench", "eot"))


def subjects() -> dict[str, Classifier]:
    """Untrained networks: what a gradient costs does not depend on the weights."""
    with RNG.child("weights").active():
        noisy = Wrapped(InputNoise(SmallCNN().build(SHAPE, 10), 0.3), 10, stochastic=True)
        noisy.rows = "independent"
        found: dict[str, Classifier] = {
            "late noise (A2SNN on LeNet++)": A2SNN(LeNetPP()).build(SHAPE, 10),
            "early noise (input of a small CNN)": noisy,
            "weight noise (PNI on a small CNN)": PNI(SmallCNN()).build(SHAPE, 10),
        }
    return {name: net.eval().requires_grad_(False) for name, net in found.items()}


def ours(model: Classifier, x: Tensor, goal: Goal, draws: int = DRAWS, key: str = "ours") -> Tensor:
    return Backprop(draws)(model, x, goal.loss("ce"), RNG.child(key)).gradient


def loop(model: Classifier, x: Tensor, goal: Goal, draws: int = DRAWS) -> Tensor:
    """One whole pass per draw, forward and backward."""
    total = torch.zeros_like(x)
    with RNG.child("loop").active():
        for _ in range(draws):
            image = x.clone().requires_grad_()
            total += torch.autograd.grad(goal.cross_entropy(model(image)).sum(), image)[0]
    return total / draws


def batch(model: Classifier, x: Tensor, goal: Goal, draws: int = DRAWS) -> Tensor:
    """All draws as one batch of repeated images: one graph for all."""
    image = x.clone().requires_grad_()
    with RNG.child("batch").active():
        logits = model(image.repeat(draws, 1, 1, 1)).view(draws, len(x), -1)
        height = torch.stack([goal.cross_entropy(one) for one in logits]).mean(0).sum()
    return torch.autograd.grad(height, image)[0]


def with_foolbox(model: Classifier, x: Tensor, goal: Goal, draws: int = DRAWS) -> Tensor:
    """foolbox's wrapper, which averages logits; its cross-entropy is of their mean."""
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    averaged = foolbox.models.ExpectationOverTransformationWrapper(peer, n_steps=draws)
    image = x.clone().requires_grad_()
    with RNG.child("foolbox").active():
        return torch.autograd.grad(goal.cross_entropy(averaged(image)).sum(), image)[0]


def row(name: str, model: Classifier, x: Tensor, goal: Goal) -> dict[str, Any]:
    """Time, memory and the cosine with a gradient of many draws."""
    truth = ours(model, x, goal, MANY, "truth")

    def way(gradient: Callable[..., Tensor]) -> Way:
        def run() -> Figures:
            found = gradient(model, x, goal)
            return {"cosine": float(torch.cosine_similarity(found.flatten(1), truth.flatten(1)).mean())}

        return run

    ways: dict[str, Way] = {"one pass": way(lambda *given: ours(*given, draws=1))}
    ways |= {"ours": way(ours), "loop": way(loop), "foolbox": way(with_foolbox)}
    peers = ["loop", "foolbox"]
    if model.rows == "independent":  # a batch of repeated images shares one draw of the weights: no EoT at all
        ways["batch"] = way(batch)
        peers.append("batch")
    within = 1.2 if name.startswith("late") else None
    rivals = Rivals("ours", tuple(peers), "cosine", lower=False, slack=0.02, bare="one pass", within=within)
    return compare(f"EoT-{DRAWS}, {name}, {IMAGES} images", ways, 9, rivals, memory=True)


def memory_row(name: str, model: Classifier, x: Tensor, goal: Goal) -> dict[str, Any]:
    """The most memory for more and more draws: ours, and all graphs alive."""

    def peak(way: Callable[..., Tensor], draws: int) -> float:
        return peak_memory(lambda: way(model, x, goal, draws))

    ways = {
        f"{way}, {draws} draws": {"peak_mib": peak(gradient, draws)}
        for way, gradient in (("ours", ours), ("foolbox", with_foolbox))
        for draws in (1, 5, 20, 80)
    }
    found = {"task": f"memory over draws, {name}", "ways": ways}
    show(found)
    return found


def main() -> None:
    torch.set_num_threads(1)
    x, goal = torch.rand(IMAGES, *SHAPE, generator=RNG.child("x").generator("cpu")), Goal(torch.arange(IMAGES) % 10)
    nets = subjects()
    rows = [row(name, model, x, goal) for name, model in nets.items()]
    rows += [memory_row(name, model, x, goal) for name, model in nets.items()]
    save("eot", rows)


if __name__ == "__main__":
    main()
