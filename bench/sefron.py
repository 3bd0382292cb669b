"""What a training step of MC-SEFRON costs, beside the same rule on an array with every weight at every time.

    python bench/sefron.py

"dense" is the rule as it is published: a NumPy array (synapses, 301, classes) of 90 MiB, potentials step by step, an
update of all classes, and a search of the whole array for numbers that are none. "dense, fused" is the best we can do
with such an array. All ways learn the same images from the same state. Every image is given a wrong label, so that
nearly every step has something to learn; a step that has not costs the dense ways no update.
"""

from __future__ import annotations

import numpy as np
import torch
from harness import Rivals, compare, save
from numpy.typing import NDArray
from torch import Tensor

from robassay.data import find, pixels
from robassay.nets.sefron import MCSefron, SefronClassifier, first_of_each, wanted_times
from robassay.nets.spike_times import PLASTICITY, WIDTH, WINDOW, contribution, firing_times, potential, response

IMAGES = 10
Numbers = NDArray[np.float64]
SLOTS = np.arange(301.0)


class Fused:
    """Every weight at every time, each array passed once."""

    def __init__(self, firsts: Tensor, rate: float) -> None:
        self.rate, self.steps = rate, torch.arange(401)
        share = contribution(firsts, 200)
        self.threshold = (share * response(200 - firsts)).sum(1)
        self.weights = torch.stack([self.kernel(t) * u[:, None] for u, t in zip(share, firsts, strict=True)], -1)

    def kernel(self, times: Tensor) -> Tensor:
        return (-((torch.from_numpy(SLOTS) - times[:, None]) ** 2) / (2 * WIDTH**2)).exp()

    def potential(self, times: Tensor) -> Tensor:
        return self.weights[torch.arange(len(times)), times - 1].T @ response(self.steps - times[:, None])

    def learn(self, times: Tensor, label: int) -> bool:
        fired = firing_times(self.potential(times)[None], self.threshold)[0]
        wanted = wanted_times(fired, label)
        if torch.equal(fired, wanted):
            return False
        now, then = fired[:, None] + 1, wanted[:, None] + 1
        share, old = contribution(times, then), contribution(times, now)
        height = self.threshold / (share * response(then - times)).sum(1)
        height -= self.threshold / (old * response(now - times)).sum(1)
        self.weights += self.kernel(times)[:, :, None] * (self.rate * height[:, None] * share).T[:, None, :]
        return True


class Dense:
    """The published rule in NumPy, operation by operation."""

    def __init__(self, begun: Fused) -> None:
        self.rate, self.threshold, self.weights = begun.rate, begun.threshold.numpy(), begun.weights.numpy().copy()

    def potential(self, times: NDArray[np.int64]) -> Numbers:
        read = self.weights[np.arange(len(times)), times - 1]
        return np.stack([(read * self.response(t - times)[:, None]).sum(0) for t in range(401)], 1)

    def response(self, lag: NDArray[np.int64]) -> Numbers:
        return np.where(lag > 0, lag / WINDOW * np.exp(1 - lag / WINDOW), 0.0)

    def share(self, times: NDArray[np.int64], post: int) -> Numbers:
        strength = np.exp(-np.abs(post - times) / PLASTICITY)
        before, after = strength * (times < post), strength * (times > post)
        return before / before.sum() - (after / after.sum() if after.any() else 0.0)

    def learn(self, times: NDArray[np.int64], label: int) -> bool:
        values = torch.from_numpy(self.potential(times))[None]
        fired = firing_times(values, torch.from_numpy(self.threshold))[0]
        wanted = wanted_times(fired, label)
        if torch.equal(fired, wanted):
            return False
        heights = np.empty((len(times), len(fired)))
        for c, (now, then) in enumerate(zip((fired + 1).tolist(), (wanted + 1).tolist(), strict=True)):
            share, old = self.share(times, then), self.share(times, now)
            reached, was = ((u * self.response(t - times)).sum() for u, t in ((share, then), (old, now)))
            heights[:, c] = self.rate * self.threshold[c] * (1 / reached - 1 / was) * share
        kernel = np.exp(-((SLOTS - times[:, None]) ** 2) / (2 * WIDTH**2))
        self.weights = self.weights + heights[:, None, :] * kernel[:, :, None]
        self.weights[np.isneginf(self.weights)] = np.inf
        self.weights[np.isnan(self.weights)] = np.inf
        return True


def main() -> None:
    torch.set_num_threads(1)
    data, net = find("mnist"), MCSefron()
    images = data.split("train")
    model = net.build(data.shape, data.classes).eval()
    assert isinstance(model, SefronClassifier)
    times = model.times(pixels(images.x[:1000]))
    firsts = times[torch.tensor(first_of_each(images.y[:1000], 10))]
    model.begin(firsts)
    fused = Fused(firsts, net.rate)
    dense = Dense(fused)
    chosen, labels = times[:IMAGES], ((images.y[:IMAGES] + 1) % 10).tolist()

    def ours() -> dict[str, float]:
        return {"updates": sum(model.learn(one, y) is not None for one, y in zip(chosen, labels, strict=True))}

    def with_dense() -> dict[str, float]:
        updates = sum(dense.learn(one.numpy(), y) for one, y in zip(chosen, labels, strict=True))
        mine = potential(chosen[:1].double(), model.state, model.factor)[0].numpy()
        return {"updates": updates, "apart": float(np.abs(mine - dense.potential(chosen[0].numpy())).max())}

    def with_fused() -> dict[str, float]:
        return {"updates": sum(fused.learn(one, y) for one, y in zip(chosen, labels, strict=True))}

    ways = {"rank 16": ours, "dense": with_dense, "dense, fused": with_fused}
    save(
        "sefron", [compare(f"{IMAGES} training steps on MNIST", ways, 3, Rivals("rank 16", ("dense", "dense, fused")))]
    )


if __name__ == "__main__":
    main()
