"""A spiking network under surrogate gradients of several widths, and the worst of them per image.

Run:   python examples/spiking_surrogates.py
Cost:  a few seconds.

Prints:
    its own surrogate leaves 87.0 %
    Triangle(width=0.05, height=1.0) leaves 10.0 %
    Triangle(width=0.5, height=1.0) leaves 3.5 %
    Atan(alpha=2.0) leaves 3.5 %
    the worst per image leaves 3.0 %
"""

import torch

import robassay as ra
from robassay import zoo
from robassay.attacks.gradient import PGD
from robassay.data import pixels
from robassay.rules import Atan, Triangle


def main() -> None:
    """Attack 200 images under each rule."""
    images = ra.find("digits").split("test")
    x, y = pixels(images.x[:200]), images.y[:200]
    model, threat = zoo.network("lif-narrow"), ra.Threat("linf", 0.2)
    survived = torch.ones(len(x), dtype=torch.bool)
    for rule in (None, Triangle(0.05), Triangle(0.5), Atan(2.0)):
        access = ra.White(ra.Backprop() if rule is None else ra.Ruled(rule)).open([model], len(x))
        x_adv = PGD(steps=40)(access, x, ra.Goal(y), threat, ra.Stream(("example",)))
        right = model(x_adv).argmax(1) == y
        survived &= right
        print(rule or "its own surrogate", f"leaves {100 * right.float().mean():.1f} %")
    print(f"the worst per image leaves {100 * survived.float().mean():.1f} %")


if __name__ == "__main__":
    main()
