"""Why an attacker's draws never judge: the share of attacked images that survive the attack's own draw, and fresh ones.

Run:   python examples/draws_of_the_attacker.py
Cost:  a few seconds.

Prints:
    the attacker's own draw 37.5 %
    fresh draws 49.4 % [44.8, 54.0] (n=200)
"""

import torch
from torch import nn

import robassay as ra
from robassay import zoo
from robassay.data import pixels
from robassay.folds import rate

EPS = 0.1


def main() -> None:
    """Attack a random network of the zoo under one fixed noise, judge it twice."""
    images = ra.find("digits").split("test")
    x, y = pixels(images.x[:200]), images.y[:200]
    model = zoo.network("random-spiking")
    x_adv = x
    for _ in range(20):
        x_adv = x_adv.detach().requires_grad_()
        torch.manual_seed(0)
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(model(x_adv), y), x_adv)
        x_adv = (x_adv + EPS / 5 * slope.sign()).clamp(x - EPS, x + EPS).clamp(0, 1).detach()
    torch.manual_seed(0)
    print(f"the attacker's own draw {100 * (model(x_adv).argmax(1) == y).float().mean():.1f} %")
    fresh = model.sample(model.prefix(x_adv), 100, ra.Stream(("judge",))).argmax(-1) == y
    print("fresh draws", rate(fresh.double().numpy()))


if __name__ == "__main__":
    main()
