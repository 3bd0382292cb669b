"""An attack in one file, beside the package's own on an adversarially trained network of the zoo.

Run:   python examples/own_attack.py
Check: robassay check examples/own_attack.py
Cost:  a few seconds.

Prints:
    Halves(steps=2) leaves 70.0 %
    Halves(steps=10) leaves 69.5 %
    PGD, 40 steps, leaves 68.0 %
"""

from typing import Any

from torch import Tensor

import robassay as ra
from robassay import zoo
from robassay.attacks.gradient import PGD
from robassay.data import pixels


@ra.part(source="ours, for an example")
class Halves(ra.Attack):
    """Sign steps that share the radius.

    Args:
        steps: number of steps, of eps / steps each.
    """

    access = ra.GradientAccess
    steps: int = 2

    def __call__(self, access: Any, x: Tensor, goal: ra.Goal, threat: ra.Threat, rng: ra.Stream) -> Tensor:
        x_adv = x
        for i in range(self.steps):
            found = access.direction(x_adv, goal.cross_entropy, rng.child(i))
            x_adv = threat.project(x_adv + (threat.eps or 0.0) / self.steps * found.gradient.sign(), x)
        return x_adv


def main() -> None:
    """Attack 200 images three times."""
    images = ra.find("digits").split("test")
    x, y = pixels(images.x[:200]), images.y[:200]
    model, threat = zoo.network("hardened"), ra.Threat("linf", 0.15)
    for name, attack in ((f"{Halves()}", Halves()), (f"{Halves(10)}", Halves(10)), ("PGD, 40 steps,", PGD(steps=40))):
        x_adv = attack(ra.White().open([model], len(x)), x, ra.Goal(y), threat, ra.Stream(("example",)))
        print(f"{name} leaves {100 * (model(x_adv).argmax(1) == y).float().mean():.1f} %")


if __name__ == "__main__":
    main()
