"""Black box by substitute on MNIST: a plain substitute, a stochastic one, and one that mimics the variance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from robassay.attacks.accept import MeanOfDraws
from robassay.attacks.cw import CW, ModCW
from robassay.attacks.gradient import BIM
from robassay.cells import Examples
from robassay.classifier import Net
from robassay.data import find
from robassay.nets.bsn import BSN, BSNL
from robassay.nets.cnn import SmallCNN
from robassay.nets.resnet import ResNet18
from robassay.papers.subjects import Subject, is_full, mnist_subjects
from robassay.policy import MeanOf
from robassay.protocols.parts import Means
from robassay.protocols.substitutes import AVERAGED, LAUNCHES, SURE, by_substitute, tables
from robassay.recipe import Recipe
from robassay.study import Study, Table
from robassay.substitute import Substitute
from robassay.threat import Threat

ORACLES = {"small": ("BSN-2",), "full": ("BSN-L", "BNN-S")}
COPIES = 10
POLICY = MeanOf(10, "logits")


def protocols_substitutes(scale: str, data_dir: Path | None) -> Study:
    """Tan et al. 2020, Fig. 1, Fig. 2 and Table IV: success on the oracle over what fools the substitute."""
    full = is_full(scale)
    data = find("mnist", data_dir)
    subjects = mnist_subjects(data, scale)
    assaults, items = _assaults(full), list[Table]()
    own = Examples(data, "test", 0, 2000 if full else 200)
    on = Examples(data, "test", own.stop, own.stop + (500 if full else 100))
    for name in ORACLES[scale]:
        made = substitutes(subjects[name], own, full)
        outcomes = {row: by_substitute(one, on, assaults, slices=50) for row, one in made.items()}
        caption = _caption(name, own, on, next(iter(made.values())))
        items += tables(f"substitutes-{name.lower()}", caption, outcomes)
    title = f"Black box by substitute on MNIST ({scale})"
    return Study("protocols-substitutes", title, tuple(items), scale=scale, cites=("Tan et al. 2020",))


def substitutes(subject: Subject, own: Examples, full: bool) -> dict[str, Substitute]:
    """The substitutes of one oracle by name; the published recipe says neither optimiser nor batch."""
    short = Recipe(epochs=10, batch=128, optimizer="sgd", lr=0.01, keep="last")
    long = replace(short, epochs=20)
    plain: Net = ResNet18() if full else SmallCNN()
    random: Net = BSNL() if full else BSN()
    if not full:
        short = Recipe(epochs=10, batch=32, lr=2e-3, keep="last")
        long = short

    def of(net: Net, recipe: Recipe, mimic: int = 0) -> Substitute:
        return Substitute(net, subject.model, own, recipe, POLICY, rounds=5 if full else 3, mimic=mimic)

    names = ("ResNet18", "BSN-L") if full else ("small CNN", "BSN-2")
    return {
        f"{names[0]}, plain": of(plain, short),
        f"{names[1]}, plain": of(random, long),
        f"{names[1]}, plain, as many steps": of(random, replace(long, epochs=long.epochs * (COPIES + 1))),
        f"{names[1]}, variance mimicking": of(random, long, COPIES),
    }


def _assaults(full: bool) -> dict[str, Means]:
    bim = Means(BIM(steps=100, step=0.05, early=True), Threat("linf", 32 / 255), AVERAGED)
    cw, mod = CW(search=1, c0=10.0, accept=MeanOfDraws(10)), ModCW(search=1, c0=10.0, accept=MeanOfDraws(10))
    if not full:
        return {"BIM 32/255": bim, "CW, c = 10": Means(cw, Threat("l2"), AVERAGED)}
    cw, mod = replace(cw, lr=5e-3, steps=1000), replace(mod, lr=5e-3, steps=1000)
    return {
        "BIM 32/255": bim,
        "CW, c = 10": Means(cw, Threat("l2"), AVERAGED),
        "ModCW, c = 10": Means(mod, Threat("l2"), AVERAGED),
    }


def _caption(name: str, own: Examples, on: Examples, first: Substitute) -> str:
    images = own.stop - own.start
    return (
        f"Oracle {name}, mean logits of 10 draws, asked for labels only. Success on it in {LAUNCHES} launches, over "
        f"those of {on.stop - on.start} test images that fool the substitute in more than {SURE:.0%} of {LAUNCHES} "
        f"draws. Substitutes have grown from {images} other test images ({images - first.learnt} of them held) by "
        f"{first.rounds} augmentations. Variance mimicking takes {COPIES + 1} steps per batch, each with labels asked "
        f"anew; 'as many steps' has {COPIES + 1} times the epochs instead and asks no more than the plain one."
    )
