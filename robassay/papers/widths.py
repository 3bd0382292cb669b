"""Which surrogate gradients mask: one spiking network on MNIST under many, and the worst of them per image."""

from __future__ import annotations

from pathlib import Path

from robassay.access import White
from robassay.attacks.gradient import PGD
from robassay.attacks.noise import Uniform
from robassay.cells import Craft, Examples, Score
from robassay.data import find
from robassay.estimators import Backprop, Estimator, Ruled
from robassay.folds import Accuracy, WorstCase
from robassay.models import Train
from robassay.nets.encoders import Direct
from robassay.nets.mlp import MLP
from robassay.nets.spikes import Spikes
from robassay.nets.spiking import Spiking
from robassay.papers.subjects import is_full
from robassay.recipe import Recipe
from robassay.rules import Atan, FastSigmoid, Rectangle, Rule, Spread, Triangle
from robassay.study import Evaluation, Measure, Study, Table
from robassay.surrogates import Averaged, Extended, sweep
from robassay.threat import Threat

EPS, STEPS = 0.1, 20
SLICE = 100
COLUMN = "robust accuracy"
WORST = "worst of all, per image"

MORE: dict[str, Rule] = {
    **{f"triangle {w:g}": Triangle(w) for w in (0.02, 0.05, 4.0)},
    **{f"rectangle {w:g}": Rectangle(w) for w in (0.05, 0.5, 2.0, 4.0)},
    **{f"atan {a:g}": Atan(a) for a in (0.5, 128.0)},
    **{f"superspike {b:g}": FastSigmoid(b) for b in (1.0, 10.0, 25.0, 100.0)},
    "spread": Spread(),
}
"""Rules beside those that an audit tries, most of them too narrow or too wide."""


def estimators() -> dict[str, Estimator]:
    """All that the table has, by name, in its order."""
    found = {**sweep(), **{name: Ruled(rule, Backprop()) for name, rule in MORE.items()}}
    found |= {"average of three rules": Averaged(), "run for 32 steps": Extended(32)}
    families = ("own", "triangle", "rectangle", "atan", "superspike")
    place = {name: (families.index(f) if (f := name.split()[0]) in families else len(families)) for name in found}
    return {name: found[name] for name in sorted(found, key=lambda n: (place[n], _last(n) if place[n] < 5 else 0))}


def _last(name: str) -> float:
    word = name.rsplit(maxsplit=1)[-1]
    return float(word) if word[0].isdigit() else 0.0


def widths(scale: str, data_dir: Path | None) -> Study:
    """PGD-20 (cross-entropy, step 2.5 eps/20) under every estimator; leak .9, hard reset, 8 steps, constant input."""
    full = is_full(scale)
    data = find("mnist", data_dir)
    spikes = Spikes(steps=8, leak=0.9, reset="hard", encoder=Direct(), rule=Atan(2.0))
    recipe = Recipe(epochs=20 if full else 4, batch=128, lr=1e-3, step=8 if full else 2, gamma=0.3, keep="last")
    model = Train(Spiking(MLP((400, 200)), spikes), data, recipe)
    slices = Examples(data, "test", 0, 2000 if full else 200).slices(SLICE)
    threat = Threat("linf", EPS)

    def under(estimator: Estimator) -> Evaluation:
        attack = PGD(steps=STEPS, loss="ce")
        return tuple(Score(model, Craft((model,), s, attack, threat, White(estimator))) for s in slices)

    clean = tuple(Score(model, s) for s in slices)
    noise = tuple(Score(model, Craft((model,), s, Uniform(), threat, None)) for s in slices)
    attacked = {name: under(estimator) for name, estimator in estimators().items()}
    measures = {name: Measure((evaluation,), Accuracy()) for name, evaluation in attacked.items()}
    entries = {
        ("clean", COLUMN): Measure((clean,), Accuracy()),
        ("uniform noise", COLUMN): Measure((noise,), Accuracy()),
    }
    entries |= {(name, COLUMN): measure for name, measure in measures.items()}
    entries[WORST, COLUMN] = Measure((*attacked.values(), noise, clean), WorstCase())
    caption = f"LIF 784-400-200-10, trained with atan 2; PGD-{STEPS} at L∞ eps {EPS}, {slices[-1].stop} MNIST images"
    table = Table("widths", caption, tuple(row for row, _ in entries), (COLUMN,), entries)
    return Study("widths", f"Widths of surrogate gradients on MNIST ({scale})", (table,), scale=scale)
