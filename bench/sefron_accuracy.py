"""MC-SEFRON on all 60,000 training images of MNIST: accuracy on the test images after every pass, time of a pass.

    python bench/sefron_accuracy.py [PASSES]

Published: .861 (Tan et al. 2020, Table I).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from harness import save

from robassay.data import Images, find, pixels
from robassay.nets.sefron import MCSefron, SefronClassifier, crossings, firing_times
from robassay.rng import Stream

WEIGHTS = Path("robassay-store-bench") / "sefron.pt"


def accuracies(model: SefronClassifier, images: Images) -> dict[str, float]:
    """Share of right decisions by either tie rule, and of images for which no neuron fires."""
    right = {"lowest": 0, "interpolate": 0}
    silent = 0
    for x, y in zip(images.x.split(500), images.y.split(500), strict=True):
        values = model.potentials(pixels(x))
        fired = firing_times(values, model.threshold)
        spoke = fired.amin(1) < 399
        silent += int((~spoke).sum())
        right["lowest"] += int(((fired.argmin(1) == y) & spoke).sum())
        right["interpolate"] += int(((crossings(values, fired, model.threshold).argmin(1) == y) & spoke).sum())
    return {name: n / len(images.y) for name, n in {**right, "silent": silent}.items()}


def main() -> None:
    torch.set_num_threads(1)
    data, net = find("mnist"), MCSefron()
    parts = [data.split("train"), data.split("val")]
    images = Images(torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts]))
    model = net.build(data.shape, data.classes).eval()
    assert isinstance(model, SefronClassifier)
    rows = []
    for number in range(int(sys.argv[1]) if len(sys.argv) > 1 else 2):
        cpu, wall = time.process_time(), time.perf_counter()
        net.present(model, images, number, Stream(("bench",)), lambda done, total: None)
        spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        rows.append({"pass": number + 1, **spent, **accuracies(model, data.split("test"))})
        WEIGHTS.parent.mkdir(exist_ok=True)
        torch.save(model.state_dict(), WEIGHTS)
        print(rows[-1], flush=True)
        save("sefron_accuracy", [{"task": f"{len(images.y)} images, published .861", **row} for row in rows])


if __name__ == "__main__":
    main()
