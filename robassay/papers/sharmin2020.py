"""Sharmin et al. 2020: Inherent Adversarial Robustness of Deep Spiking Neural Networks (ECCV, arXiv 2003.10399).

Reproduced: ANN, converted (SNN-conv) and backpropagated (SNN-BP, hybrid) networks under white and black boxes; levels
of the input × time steps, each point with one draw per gradient, as published, and with EoT, since the noise of few
steps alone hides gradients; the leak; how a perturbation passes the layers; the claims u01 to u08, and u01 to u07 once
more with every image's worst attack ("u01-union"): single and averaged gradients, those of the twin of ReLU, and the
images of second networks. u08 is about no attack's strength and has no union. The audit of SNN-BP has the fewest time
steps of the study, which the paper holds to be the most robust.

The paper's tables are not at hand. Nothing is published beside ours: what is compared is the order that its text
states. The clean accuracies of Rathi et al. 2020, from which it takes its training, are quoted nowhere here, either.

``robassay run sharmin2020 --scale small``: VGG5 of an eighth of the width on MNIST, one table also on CIFAR-10: about
half an hour on one core beside the networks of "networks-s" and "networks-s-cifar10". "smoke": a minute, on digits.
"full": VGG5 and ResNet20 on CIFAR-10, VGG11 on CIFAR-100 where it is at hand, T from 50 to 250: days on one GPU.

Deviations. Black boxes make their images on second networks of another seed, which see unrounded pixels; the paper's
code holds two seeds, too. Gradients pass the rounding as if it were none. At "small" SNN-BP of another time or leak is
the trained network after one more epoch of 5,000 images with that time or leak, not a training from the conversion; the
reference has had that epoch, too; the second SNN-BP has one epoch. SNN-conv runs for 50 steps (CIFAR-10: 100) of 2,000,
in the sweep for 25 to 100, and is attacked there along its twin of ReLU alone, whose gradient knows no noise, so that
one draw is as many; with 25 steps it is wrong on a quarter of the clean images, so that u06 is judged from 50 on.
"Comparable", "≈" and "no effect" mean within 5 points, "depends" that SNN-BP's lead over the ANN changes by more than 5
points from one attack to another, "linearly" that half the perturbation arrives as half within a tenth.

Where "small" disagrees with the paper, on 50 images and fewer, most of which L∞ .1 hardly hurts: u08 fails, since the
perturbation grows from layer to layer relative to the activity, in LIF neurons more than in ReLU, and the more they
leak (half of it arrives as about half in both); in absolute rates, of which a figure of the paper may be, it may well
shrink, as those of the last layers are low. u04 and u07 lean the other way: SNN-BP of 10 steps, five of which pass
before the first output comes, loses 11 points more than that of 25. Both open. u01 and u02 are undecided, and so is
u03, which leans its way: with the paper's single draws SNN-BP is 10 points ahead of the ANN, under the worst attack 2.
The audit finds the same on 16 images: along the gradient of cross-entropy .86 are left, along the margin's .64.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from robassay.auditing import describe_audit
from robassay.battery import Known
from robassay.cells import Examples
from robassay.contrasts import Sizes
from robassay.converted import Timed
from robassay.data import at_hand, find
from robassay.folds import Accuracy, WorstCase
from robassay.nets.published import VGG11, ResNet20
from robassay.papers.boxes import (
    ALL,
    EOT,
    ONE_STEP,
    OWN,
    PAPERS,
    SINGLE,
    SWEPT,
    TWIN,
    Sweeps,
    Target,
    assault,
    sweeps,
    targets,
)
from robassay.papers.hybrid_claims import WORST, judge
from robassay.papers.hybrids import KINDS, SPANS, Span, Trio, deeper, trio
from robassay.papers.subjects import is_full
from robassay.propagation import Layer, Propagation
from robassay.study import Audit, Check, Curves, Item, Measure, Study, Table
from robassay.threat import Threat

ACCURACY = "accuracy"
LAYERS = 5
"""Of VGG5 with neurons behind them."""
TENTH = 0.1
SPIKING = Known(spiking=True, ruled=True, quiets=True)
"""What is known of SNN-BP: the probe of an untrained one, which is silent, would find no gradient to attack with."""


def sharmin2020(scale: str, data_dir: Path | None) -> Study:
    """Networks, boxes, levels × time, leak, layers, the audit and the eight claims.

    Raises:
        UsageError: another scale than "smoke", "small" and "full".
    """
    full, span = scale != "smoke" and is_full(scale), SPANS.get(scale, SPANS["small"])
    dataset, title = {"smoke": ("digits", "digits"), "small": ("mnist", "MNIST")}.get(scale, ("cifar10", "CIFAR-10"))
    data = find(dataset, data_dir)
    first = trio(f"VGG5, {title}", data, scale)
    images, few = (Examples(data, "test", 0, count) for count in (span.images, span.few))
    main = targets(first, images, span, {} if full else {"SNN-conv": ALL[:-1]})
    boxes = {first.name: main} | _others(first, scale, data_dir, span)
    swept = sweeps(first, few, span, full)
    where = f"{first.name}, L∞ {span.eps:.3g}"
    items: tuple[Item, ...] = (
        _networks(boxes, scale),
        _boxes(boxes, scale, f"L∞ {span.eps:.3g}; CIFAR at 8/255"),
        _grid("bp", "SNN-BP", swept.steps, SWEPT, f"{where}, {span.few} images"),
        _grid("conv", "SNN-conv", swept.long, SWEPT, f"{where}, {span.few} images"),
        _rounded(swept.ann, f"{where}, {span.few} images"),
        _over_steps(swept, where),
        _over_leak(swept.leaks, where),
        *_layers(first, swept, few, span),
        _audit(first, span, full),
        *judge(boxes, swept, where),
    )
    return Study("sharmin2020", f"Sharmin et al. 2020 ({scale})", items,
                 "Inherent adversarial robustness of deep spiking neural networks", scale, ("Sharmin et al. 2020",),
                 f"robassay run sharmin2020 --scale {scale}")  # fmt: skip


ELSEWHERE = ("VGG5, CIFAR-10", "ResNet20, CIFAR-10", "VGG11, CIFAR-100")


def _others(first: Trio, scale: str, data_dir: Path | None, span: Span) -> dict[str, dict[str, Target]]:
    """More networks: at "small" those of VGG5 on CIFAR-10, at "full" two deeper ones."""
    if scale == "smoke":
        return {}
    colour = find("cifar10", data_dir)
    if scale == "small":
        five = trio(ELSEWHERE[0], colour, scale, hybrid_too=False)
        converted = five.own["SNN-conv"]
        assert isinstance(converted, Timed)
        five = replace(five, own={**five.own, "SNN-conv": replace(converted, steps=100)})
        short = {"SNN-conv": (TWIN,), "SNN-BP": (ONE_STEP, SINGLE, EOT, TWIN)}
        near = replace(span, eps=8 / 255)
        return {five.name: targets(five, Examples(colour, "test", 0, span.few), near, short)}
    found = {ELSEWHERE[1]: deeper(ELSEWHERE[1], ResNet20(), first, colour)}
    fine = at_hand("cifar100", data_dir)
    if fine is not None:
        found[ELSEWHERE[2]] = deeper(ELSEWHERE[2], VGG11(), first, fine)
    return {
        name: targets(nets, Examples(nets.hybrid.data, "test", 0, span.images), span) for name, nets in found.items()
    }


def _why(name: str, scale: str) -> str:
    """Why a network is not here."""
    if scale == "full":
        return f"no data here: robassay run sharmin2020 --scale full --data-dir FOLDER ({name})"
    if name == ELSEWHERE[0]:
        return "small and full only: robassay run sharmin2020 --scale small"
    return "full only: robassay run sharmin2020 --scale full --data-dir FOLDER"


def _networks(boxes: dict[str, dict[str, Target]], scale: str) -> Table:
    """Accuracy without an attack, with every network of the paper."""
    cols = tuple(dict.fromkeys((*boxes, *ELSEWHERE)))
    entries = {(kind, name): Measure((one.clean(),), Accuracy()) for name, nets in boxes.items()
               for kind, one in nets.items()}  # fmt: skip
    absent = {(kind, name): _why(name, scale) for name in cols if name not in boxes for kind in KINDS}
    caption = "Accuracy without an attack, on the images that are attacked"
    return Table("sharmin2020-networks", caption, KINDS, cols, entries, absent=absent)


def _boxes(boxes: dict[str, dict[str, Target]], scale: str, where: str) -> Table:
    """Accuracy under all attacks."""
    names = tuple(dict.fromkeys((*boxes, *ELSEWHERE)))
    black = [(source, attack) for source in KINDS if source != "SNN-conv" for attack in PAPERS]
    told = {(source, attack): f"by another {source}: {attack}" for source, attack in black}
    cols = ("clean", *(f"{OWN}: {name}" for name in ALL), *told.values(), "black box: worst", WORST)
    entries, absent = dict[tuple[str, str], Measure](), dict[tuple[str, str], str]()
    for name in names:
        for kind in KINDS:
            row, one = f"{name}: {kind}", boxes.get(name, {}).get(kind)
            if one is None:
                absent |= {(row, col): _why(name, scale) for col in cols}
                continue
            found = {f"{OWN}: {attack}": one.attacked(OWN, attack) for attack in one.attacks}
            found |= {told[by]: one.attacked(*by) for by in black if by[0] in one.second}
            entries |= {(row, col): Measure((e,), Accuracy()) for col, e in {"clean": one.clean(), **found}.items()}
            entries[row, cols[-2]] = Measure(one.black(), WorstCase())
            entries[row, cols[-1]] = Measure(one.worst(), WorstCase())
            absent |= {(row, col): "none: no noise" if kind == "ANN" and col in _of_noise() else "full only"
                       for col in cols if (row, col) not in entries}  # fmt: skip
    caption = f"Accuracy under white and black boxes, {where}"
    rows = tuple(f"{name}: {kind}" for name in names for kind in KINDS)
    return Table("sharmin2020-boxes", caption, rows, cols, entries, absent=absent)


def _of_noise() -> tuple[str, ...]:
    """Columns in which an ANN has nothing to show: what they would average over or replace it does not have."""
    return (f"{OWN}: {EOT}", f"{OWN}: {TWIN}")


def _seen(one: Target) -> dict[str, Measure]:
    """Clean, black box, white box by name, worst."""
    found = {"clean": one.clean(), "black box: PGD": one.attacked("ANN", SINGLE)}
    found |= {name: one.attacked(OWN, name) for name in one.attacks}
    return {name: Measure((e,), Accuracy()) for name, e in found.items()} | {WORST: Measure(one.worst(), WorstCase())}


def _grid(id: str, kind: str, grid: dict[int, dict[int, Target]], attacks: tuple[str, ...], where: str) -> Table:
    """Levels × time."""
    shown = ("clean", "black box: PGD", *attacks, WORST)
    rows = tuple(f"T = {steps}: {name}" for steps in grid for name in shown)
    cols = tuple(f"{levels} levels" for levels in next(iter(grid.values())))
    entries = {
        (f"T = {steps}: {name}", f"{levels} levels"): measure
        for steps, line in grid.items()
        for levels, one in line.items()
        for name, measure in _seen(one).items()
    }
    absent = {(row, col): "full only" for row in rows for col in cols if (row, col) not in entries}
    caption = f"{kind} behind pixels of few levels, over its time steps T: accuracy; {where}"
    return Table(f"sharmin2020-levels-{id}", caption, rows, cols, entries, absent=absent)


def _rounded(line: dict[int, Target], where: str) -> Table:
    """The same of the ANN, which has no time."""
    cols = tuple(f"{levels} levels" for levels in line)
    entries = {(name, f"{levels} levels"): m for levels, one in line.items() for name, m in _seen(one).items()}
    rows = tuple(dict.fromkeys(row for row, _ in entries))
    return Table("sharmin2020-levels-ann", f"ANN behind pixels of few levels: accuracy; {where}", rows, cols, entries)


def _over_steps(swept: Sweeps, where: str) -> Curves:
    """SNN-BP over T, per number of levels: EoT, and one draw dashed."""
    lines, dashed = {}, []
    for levels in swept.ann:
        for attack, word in ((EOT, "EoT"), (SINGLE, "one draw")):
            name = f"{levels} levels, {word}"
            lines[name] = tuple(Measure((line[levels].attacked(OWN, attack),), Accuracy())
                                for line in swept.steps.values())  # fmt: skip
            dashed += [name] if attack == SINGLE else []
    axis = tuple(map(float, swept.steps))
    caption = f"SNN-BP under PGD over its time steps: {where}"
    return Curves("sharmin2020-over-steps", caption, "time steps", ACCURACY, axis, lines, tuple(dashed))


def _over_leak(leaks: dict[float, Target], where: str) -> Curves:
    seen = [_seen(one) for one in leaks.values()]
    lines = {name: tuple(one[name] for one in seen) for name in seen[0]}
    caption = f"SNN-BP over its leak, the factor on the membrane from step to step: {where}"
    return Curves("sharmin2020-leak", caption, "leak", ACCURACY, tuple(leaks), lines, (SINGLE,))


def _layers(nets: Trio, swept: Sweeps, images: Examples, span: Span) -> tuple[Item, ...]:
    """How a black box's perturbation passes the layers, and u08."""
    crafts = assault(SINGLE, "ANN", span).on((nets.second["ANN"],), images)
    models = {"ReLU": nets.own["ANN"]} | {f"LIF, leak {leak:g}": one.model for leak, one in swept.leaks.items()}

    def size(name: str, layer: int, share: float = 1.0) -> tuple[Layer, ...]:
        return tuple(Layer(Propagation(models[name], craft, share, span.passes), layer) for craft in crafts)

    places = range(LAYERS + 1)
    lif = f"LIF, leak {span.leaks[-2]:g}"
    shares = [(name, 1.0, name) for name in models] + [(name, 0.5, f"{name}, half of it") for name in ("ReLU", lif)]
    lines = {told: tuple(Measure((size(name, k, share),), Sizes()) for k in places) for name, share, told in shares}
    caption = (
        f"Size of a perturbation in the layers relative to their activity, mean of {images.stop} images; layer 0 is "
        f"the input. PGD at {span.eps:.3g} on a second ANN; {nets.name}, means over the encoder's noise"
    )
    drawn = Curves("sharmin2020-layers", caption, "layer", "relative L2", tuple(map(float, places)), lines,
                   tuple(told for *_, told in shares[-2:]), "relative L2")  # fmt: skip
    sizes = (size("ReLU", LAYERS), size("ReLU", LAYERS, 0.5), size(lif, 0), size(lif, LAYERS))
    parts = {
        "ReLU: 1.1 · twice what half of it leaves − the whole": (-1.0, 2 + 2 * TENTH, 0.0, 0.0),
        "ReLU: the whole − 0.9 · twice what half of it leaves": (1.0, -2 + 2 * TENTH, 0.0, 0.0),
        "LIF: at the input − in the last layer": (0.0, 0.0, 1.0, -1.0),
        "in the last layer, ReLU − LIF": (1.0, 0.0, 0.0, -1.0),
    }
    entries = {(part, "difference"): Measure(sizes, Sizes(weights)) for part, weights in parts.items()}
    shown = Table("sharmin2020-u08", f"What u08 is made from ({lif})", tuple(parts), ("difference",), entries,
                  unit="relative L2")  # fmt: skip
    evidence = Measure(sizes, Sizes(tuple(w for weights in parts.values() for w in weights)))
    return drawn, shown, Check("u08", "perturbation passes ReLU linearly and shrinks through LIF", evidence)


def _audit(nets: Trio, span: Span, full: bool) -> Audit:
    """The audit of SNN-BP; the claim is the paper's attack."""
    model, steps = nets.at(steps=span.steps[0], fresh=full), span.steps[0]
    on = Examples(nets.hybrid.data, "test", 0, span.audited)
    claim = f"pgd:steps=7,step={span.eps / 4:.10g},draws=1"
    threat = Threat("linf", span.eps)
    found = describe_audit(model, on, threat, name="sharmin2020-audit", known=SPIKING, claimed=claim)
    return replace(found, title=f"SNN-BP, T = {steps}")
