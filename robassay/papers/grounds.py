"""Where the claims of Eustratiadis et al. 2020 are judged: networks, images and what is spent, at every scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from robassay.attacks.cw import CW
from robassay.attacks.gradient import PGD
from robassay.cell import Source
from robassay.cells import Examples
from robassay.data import at_hand, find
from robassay.defences.adversarial import AdversarialTraining
from robassay.models import Train
from robassay.nets.cnn import SmallCNN
from robassay.nets.lenet import LeNetPP
from robassay.pace import Pace
from robassay.papers.aligned import (
    BEST,
    COMPETITORS,
    MNIST_EPS,
    SMALL,
    SMALL_BOTTLENECK,
    TABLE7,
    Nets,
    Setting,
    Short,
    ablation,
    bottlenecks,
    competitors,
    competitors_of,
    competitors_on_mnist,
    controls,
    of_mnist,
)
from robassay.papers.assailed import Assailed, Spent
from robassay.papers.subjects import is_full
from robassay.recipe import Recipe
from robassay.threat import Threat

FEW, SEARCHING = 100, 20
"""Images at scale "small": of all networks but those of Table 5, and under C&W and the pixel attack."""


@dataclass(frozen=True)
class Ground:
    """Networks on one data set, under attack.

    Args:
        label: the data set in the headings.
        told: what is short, for captions.
        taught: how the networks of Table 6 that see adversarial images have learnt, for its caption.
        ablation: no defence and m1 to m5.
        controls: m5 and the networks of Table 6, with one seed.
        rivals: competitors and A2SNN on one backbone.
        drawn: the first so many images of the ablation are in Figure 1.
        searched: the first so many images are under C&W and the pixel attack.
        bounded: an ablation whose layers have interval bounds, for Theorem 1.
        planes: m2, m3 and m5 with two features, and the images to show.
        pace: what steps of the rivals' trainings cost.
    """

    label: str
    told: str
    taught: str
    ablation: Assailed
    controls: Assailed
    rivals: Assailed
    drawn: int
    searched: int
    bounded: Assailed
    planes: dict[str, Train]
    plane: Examples
    pace: Pace

    def one_seed(self) -> Assailed:
        """The ablation of Figure 1 and of criteria 3 and 5."""
        nets = {name: several[:1] for name, several in self.ablation.nets.items()}
        return replace(self.ablation, nets=nets).first(self.drawn)


def ground(scale: str, data_dir: Path | None) -> Ground:
    """Digits at "smoke"; MNIST at "small"; at "full" CIFAR-10, or MNIST where that is not at hand.

    Raises:
        UsageError: unknown scale, or no MNIST where it is needed.
    """
    if scale == "smoke":
        return _smoke()
    full = is_full(scale)
    colour = at_hand("cifar10", data_dir) if full else None
    return _small(data_dir) if not full else _full(colour or find("mnist", data_dir), data_dir)


def _pace(rivals: Nets, rounds: int, epoch: int = 0) -> Pace:
    names = ("A2SNN", *COMPETITORS)
    trainings = [one for name in names for one in rivals[name] if isinstance(one, Train)]
    nets, recipes = tuple(one.net for one in trainings), tuple(one.recipe for one in trainings)
    return Pace(trainings[0].data, names, nets, recipes, rounds, epoch=epoch)


def _smoke() -> Ground:
    data, eps = find("digits"), 0.1
    recipe = Recipe(epochs=2, batch=64, lr=5e-3, keep="last")
    nets = ablation(data, Setting(0.1, 0.5, eps, SmallCNN(), recipe), seeds=1)
    short = Short(Recipe(epochs=1, batch=64, lr=1e-3, keep="last"), 2, None, begin=True, independent=1)
    adversary = AdversarialTraining(PGD(steps=2, step=eps / 2, keep="last"), Threat("linf", eps))
    rivals = competitors_of(data, Recipe(epochs=1, batch=64, lr=5e-3, keep="last"), adversary)
    spent = Spent(2, 4, 2, 2, CW(search=1, steps=2, c0=1.0), 2, population=6, short=1, long=2, samples=10)
    on = Examples(data, "test", 0, 20)
    more = controls(nets[BEST][0], eps, short)
    planes = bottlenecks(data, SmallCNN(), recipe, None)
    return Ground(
        "digits",
        "; smoke: nothing but whether it runs",
        "",
        Assailed(nets, on, eps, spent),
        Assailed({BEST: nets[BEST], **more}, on, eps, spent),
        Assailed(rivals, on, eps, spent),
        20,
        6,
        Assailed(nets, on, eps, spent),
        planes,
        Examples(data, "test", 0, 100),
        _pace(rivals, 3),
    )


def _small(data_dir: Path | None) -> Ground:
    data = find("mnist", data_dir)
    nets, on, rivals = of_mnist(data, "small"), Examples(data, "test", 0, 200), competitors_on_mnist(data, "small")
    spent = Spent(cw=CW(search=3, steps=40, c0=1.0), careful=5, population=40, short=5, long=65, samples=500)
    told = (
        f"; MNIST at eps {MNIST_EPS}: LeNet++ of half width for 4 of 100 epochs; competitors and their A2SNN are "
        f"a small CNN for 3 epochs; {on.stop} images under Table 5, else {FEW}"
    )
    return Ground(
        "MNIST",
        told,
        "; AT and CT+AT: from the trained m5, 2 epochs on 10,000 images with PGD-5",
        Assailed(nets, on, MNIST_EPS, spent),
        Assailed({BEST: nets[BEST][:1], **controls(nets[BEST][0], MNIST_EPS, SMALL)}, on, MNIST_EPS, spent).first(FEW),
        Assailed(rivals, on, MNIST_EPS, spent).first(FEW),
        FEW,
        SEARCHING,
        Assailed(nets, on, MNIST_EPS, spent),
        bottlenecks(data, *SMALL_BOTTLENECK),
        Examples(data, "test", 0, 500),
        _pace(rivals, 30),
    )


def _full(data: Source, data_dir: Path | None) -> Ground:
    """As published. Adversarial training is as long as that of m5, from the start."""
    grey = data.name == "mnist"
    setting = TABLE7["fashion_mnist" if grey else "cifar10"]
    eps = MNIST_EPS if grey else setting.eps
    nets = of_mnist(data, "full") if grey else ablation(data, setting)
    rivals = competitors_on_mnist(data, "full") if grey else competitors(data, setting)
    recipe = setting.recipe
    short = Short(recipe, 10, None, begin=False, independent=recipe.epochs // 2)
    on, spent = Examples(data, "test", 0, 1000), Spent()
    few = find("mnist", data_dir) if grey else at_hand("fashion_mnist", data_dir) or data
    clothes = TABLE7["fashion_mnist"]
    planes = bottlenecks(few, LeNetPP(), clothes.recipe, None)
    grey_nets = nets if grey else ablation(few, clothes, 1)
    reach = eps if few.name == data.name else clothes.eps
    chain = Assailed(grey_nets, Examples(few, "test", 0, 1000), reach, spent)
    return Ground(
        "MNIST" if grey else "CIFAR-10",
        "",
        "; AT and CT+AT: PGD-10, from the start",
        Assailed(nets, on, eps, spent),
        Assailed({BEST: nets[BEST][:1], **controls(nets[BEST][0], eps, short)}, on, eps, spent),
        Assailed(rivals, on, eps, spent),
        1000,
        100,
        chain,
        planes,
        Examples(few, "test", 0, 500),
        _pace(rivals, 30, epoch=20),
    )
