"""Tan et al. 2020, Exploring the Back Alleys: Analysing The Robustness of Alternative Neural Network Architectures.

Reproduced: Tables I, II, III, IV, X and XI with every printed figure; Figures 1 to 7; the audit of BSN-2; claims t01 to
t16. Tables V to IX are recipes (:mod:`robassay.papers.subjects`, ``cifar``, ``plastic``). Quoted, not built: the
attacks that the paper names only in passing (JSMA, DeepFool, SparseFool), and Foolbox itself.

Command: ``robassay run tan2020 --scale small``. Cost: "smoke" half a minute, on digits with tiny networks, which say
nothing; "small" on two cores half an hour beside the networks, which it shares with "networks-tan",
"networks-tan-cifar", "networks-plastic" and "protocols-mixtures"; "full" is for GPUs.

Deviations, at all scales: the first test images are attacked, and those that the network gets wrong are left out of
every rate; in the paper 500 and 100 right ones were gathered. CWL2 and ModCWL2 map the box to a curve with a margin
(:class:`~robassay.attacks.cw.CW`), and the boundary attack has adaptive steps, so that it spends fewer questions.
Sizes are over images of which at least one launch is fooled. ResNet18 begins at random weights everywhere.
MC-SEFRON is attacked in the form whose gradient does not end at silent neurons; the row "latch" has the one whose does.

"small" has narrow networks on fewer images, named in the rows; no SNN_M and no mixtures on CIFAR-10; BSN-2 as the
stochastic substitute in BSN-L's place, grown from 150 images by two augmentations, and variance mimicking of the oracle
BSN-2 alone; mixtures of a small CNN, BSN-2 and BNN-S on MNIST; the constants of the C&W attacks on BSN-2 and BSN-4.
The cells that this leaves out say "full only".

PCam's networks are described at "full" alone. The paper's SNN_M had a constant output there, so that its accuracy is
the share of one class and no attack means anything; its cells say so.

Found here: the published ModCWL2 is explained by Foolbox's books. As written (eq. 3) a small c finds nothing: the mean
loss of the turned copies pulls an image less far than its distance pulls it back. Foolbox 1.8 remembers every image
that it is asked about, turned copies too, and returns the closest that is misclassified. With ``offered`` copies
(column "ModCWL2, copies"; the printed figures stand once, in column "ModCWL2") BSN-2 has success .91, .91, .55, .74 at
c = .01, .1, 1, 10 where .86, .79, .47, .81 are printed, at sizes 9.9, 9.5, 2.5, 2.3 (printed 8.6, 8.0, 2.5, 2.3): what
succeeds there is a turned digit, not a small change. So do the large changes of ModCWL2 on deterministic networks come
about (ResNet18 10.1, printed 5.9, which is the closest of many more copies), and "larger c gives lower L2" of t14; "in
general higher ASR" holds neither here nor in the paper's own BSN-2.

Claims without a "-union": t05, t07, t09 and t14 compare attacks with each other, in whose place no union can stand; t13
is about all attacks at once; t16 about none. Rates of transfer and of substitutes are over images that both networks
get right when clean: the printed .01 onto a network of accuracy .37 cannot be meant otherwise.

Where "small" disagrees with the paper, beyond its intervals. BNN-S is hardly broken on MNIST (BIM .08, printed .59):
its attacks are the shortest, of 10 steps and 3 passes, and PGD on the margin reaches .33; t01 fails by it alone, and
still does with the worst of all in BIM's place. MC-SEFRON is broken by BIM (.98, latch 1.00, printed .29); the printed
attack follows a gradient that ends at silent neurons. CWL2 and ModCWL2 break SNN_M less (.32 and .37, printed .62 and
1.00): 15 steps, and for the latter the copies. ResNet18 is broken less at 8/255 and 16/255 on MNIST (.03 and .38,
printed .19 and .80), open: it is narrower and has learnt for less long. Boundary needs twice the printed size on it on
MNIST, six times on CIFAR-10: 600 and 300 questions. On CIFAR-10 the C&W changes of random networks are three to five
times as large, their success at small c higher (CWL2 on BSN-2 .54 at c = .01, printed .12): these networks have
accuracy .45, n is 8 to 11, and an image next to the boundary falls by itself. Substitutes agree with their oracles on
50 to 75 % of images after 150 of their own, and what fools ResNet18 fools neither BSN-L nor BNN-S (0, printed .39 and
.42). t12: the mixture of the plain network and BNN-S is no harder than BNN-S alone, which is hardly broken; under the
worst of BIM and PGD the claim fails, and a mixture falls as often as its stronger member. t13: the median is higher
with averages (by 9 points), but so is the spread (by 31): weak attacks fail more surely. The audit finds BIM's robust
accuracy of BSN-2 overstated by 12 points: it stops too early.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from robassay.auditing import describe_audit
from robassay.cells import Examples
from robassay.folds import Success
from robassay.leads import PerPixel, Union
from robassay.models import Learn
from robassay.papers.networks import MEAN, SINGLE, table_of
from robassay.papers.plastic import SEFRON
from robassay.papers.published import table
from robassay.papers.subjects import Subject
from robassay.papers.tan_blackbox import (
    Copied,
    copied,
    mixed,
    no_mixtures,
    no_transfer,
    substitute_tables,
    transfer,
    transfer_table,
)
from robassay.papers.tan_claims import (
    checks,
    flat,
    mixture_claims,
    overlap,
    policy_claim,
    ranking,
    substitute_claims,
    transfer_claims,
    undecided,
)
from robassay.papers.tan_pictures import Settings, Victims, constants, images, logits, policies
from robassay.papers.tan_settings import LATCH, WHOLE, Setting, settings
from robassay.papers.victims import CONSTANTS, IN_BALL, OFFERED, RADII, Victim, victim
from robassay.study import Audit, Item, Measure, Study, Table
from robassay.threat import Threat

COLUMNS = ("BIM", "CWL2", "ModCWL2", "Boundary")
CONSTANT = "constant output there: the share of a class"
T07 = {
    "t07": "transfer from ResNet18: BIM is highest, grows with eps, C&W and Boundary are low",
    "t08": "transfer from ResNet18 is highest onto BNN-S",
    "t08-union": "transfer of the worst within L∞ 32/255 of ResNet18 is highest onto BNN-S",
}
"""Claims that need CIFAR-10."""


def tan2020(scale: str, data_dir: Path | None) -> Study:
    """All tables and figures with results, the claims, and the audit of BSN-2."""
    known = settings(scale, data_dir)
    there: Settings = {name: one for name, one in known.items() if isinstance(one, Setting)}
    victims: Victims = {
        name: {net: victim(net, one) for net in one.nets if net not in one.spared} for name, one in there.items()
    }
    items: list[Item] = [*_accuracies(known)]
    for name, one in known.items():
        items += _attacks(name, one, victims.get(name, {}))
    black, further = _black(known, there, victims, scale)
    items += [*black, *logits(there), *constants(victims), *policies(victims), *images(victims["MNIST"])]
    items += [*checks(flat(victims), further | policy_claim(victims) | overlap(there)), audit(there["MNIST"], scale)]
    title = f"Tan et al. 2020 ({scale})"
    return Study("tan2020", title, tuple(items), "Exploring the Back Alleys", scale, ("Tan et al. 2020",),
                 f"robassay run tan2020 --scale {scale}")  # fmt: skip


def audit(setting: Setting, scale: str) -> Audit:
    """BSN-2 under the paper's BIM as the claim; a launch of the audit is one pass."""
    on = Examples(setting.data, "test", 0, {"full": 500, "small": 100, "smoke": 10}[scale])
    steps, draws = {"full": (100, 100), "small": (100, 20), "smoke": (2, 12)}[scale]
    claim = f"bim:steps={steps},step=0.05,early=true,draws=10,average=logits"
    model, threat = setting.nets["BSN-2"].model, Threat("linf", RADII["32/255"])
    made = describe_audit(model, on, threat, "quick", draws, name="tan2020-audit", claimed=claim,
                          command=f"robassay run tan2020 --scale {scale}")  # fmt: skip
    return replace(made, title="BSN-2 under BIM 32/255")


# ------------------------------------------------------------------------------------------- accuracy and white boxes


def _accuracies(known: dict[str, Setting | str]) -> list[Table]:
    """Table I, one table per data set; a network that is not run keeps its row."""
    found, printed = [], table("tan2020", "I")
    for name, one in known.items():
        id = "tan2020-i" if name == "MNIST" else f"tan2020-i-{name.lower()}"
        subjects = _listed(one) if isinstance(one, Setting) else {}
        caption = f"Tan et al., Table I: accuracy on {name}"
        made = table_of(id, caption, one.data, subjects, "logits") if isinstance(one, Setting) else None
        gone = [net for net in printed.rows if net not in subjects]
        rows = made.rows if made else ()
        averaged = {net: MEAN if net.startswith("BSN") or net == "BNN-S" else SINGLE for net in printed.rows}
        beside = {(net, averaged[net]): f.value for net in gone if (f := printed.figures.get((net, name))) is not None}
        why = {
            (net, averaged[net]): CONSTANT
            if (net, name) == ("SNN_M", "PCam")
            else one
            if isinstance(one, str)
            else WHOLE
            for net in gone
        }
        entries, ours = (made.entries, made.published) if made else ({}, {})
        found.append(Table(id, caption, (*rows, *gone), (SINGLE, MEAN), entries, {**ours, **beside}, absent=why))
    return found


def _listed(setting: Setting) -> dict[str, Subject]:
    """The rows of Table I: all, and MC-SEFRON with all images where the attacked one has learnt fewer on MNIST."""
    model = setting.nets["MC-SEFRON"].model
    assert isinstance(model, Learn)
    if model.limit is None or setting.data.name != "mnist":
        return setting.nets
    whole = replace(setting.nets["MC-SEFRON"], model=Learn(SEFRON["mnist"].net, model.data), note="2 passes")
    return {**setting.nets, "MC-SEFRON, all images": whole}


def success(victim: Victim, attack: str) -> Measure:
    """The paper's ASR."""
    found = victim.attacked[attack]
    return Measure((found, victim.clean[: len(found)]), Success())


def size(victim: Victim, attack: str) -> Measure:
    """The paper's mean L2 per pixel, times 1,000."""
    found = victim.attacked[attack]
    return Measure((found, victim.clean[: len(found)]), PerPixel(victim.values))


def _attacks(name: str, setting: Setting | str, victims: dict[str, Victim]) -> list[Table]:
    """Tables II, X and XI on one data set."""
    main = {word: (f"{name}, {word}", "BIM 32/255" if word == "BIM" else word) for word in COLUMNS}
    radii = {word: (f"{name}, {word}", f"BIM {word}") for word in RADII}
    rates, sizes = _both("II", name, setting, victims, {**main, OFFERED: (f"{name}, ModCWL2", OFFERED)})
    if victims:
        union = "worst within L∞ 32/255"
        worst = {
            (v.row, union): Measure((*(v.attacked[a] for a in IN_BALL), v.clean), Union()) for v in victims.values()
        }
        rates = replace(rates, cols=(*rates.cols, union), entries={**rates.entries, **worst})
    return [rates, sizes, *_both("X", name, setting, victims, radii), *_constants(name, setting, victims)]


def _both(
    number: str, name: str, setting: Setting | str, victims: dict[str, Victim], columns: dict[str, tuple[str, str]]
) -> list[Table]:
    """Success and size; of a column the row of the printed table, which stands on its side here, and the attack."""
    found, told = [], setting.told if isinstance(setting, Setting) else ""
    for part, fold, unit in (("a", success, "rate"), ("b", size, "L2 per pixel × 1,000")):
        printed = table("tan2020", number + part)
        rows = {net: victims[net].row if net in victims else net for net in printed.cols}
        ours = [victims[net].row for net in victims if net not in rows]
        entries = {
            (one.row, col): fold(one, attack)
            for one in victims.values()
            for col, (_, attack) in columns.items()
            if attack in one.attacked
        }
        figures = {
            (rows[net], col): printed.figures.get((row, net)) for net in rows for col, (row, _) in columns.items()
        }
        # Once: beside the attack as the paper writes it.
        beside = {cell: f.value for cell, f in figures.items() if f is not None and cell[1] != OFFERED}
        why = setting if isinstance(setting, str) else WHOLE
        gone = {
            (rows[net], col): CONSTANT if (net, name) == ("SNN_M", "PCam") else why
            for net in rows
            for col in columns
            if (rows[net], col) not in entries
        }
        caption = f"Tan et al., Table {number}{part}, {name}: {printed.title.split(' (')[0]}{told}"
        id = f"tan2020-{number}{part}".lower() + ("" if name == "MNIST" else f"-{name.lower()}")
        found.append(Table(id, caption, (*rows.values(), *ours), tuple(columns), entries, beside, unit, absent=gone))
    return found


def _constants(name: str, setting: Setting | str, victims: dict[str, Victim]) -> list[Table]:
    """Tables XIa and XIb on one data set, and beside them ModCWL2 with copies as answers."""
    found, told = [], setting.told if isinstance(setting, Setting) else ""
    columns = {f"c {c:g}": f", c {c:g}" if c != CONSTANTS[-1] else "" for c in CONSTANTS}
    for part, fold, unit in (("a", success, "rate"), ("b", size, "L2 per pixel × 1,000")):
        printed = table("tan2020", f"XI{part}")
        sources = {row: row for row in printed.cols}
        sources |= {f"{row}, copies": row for row in printed.cols if row.endswith("ModCWL2")}
        rows = sorted(sources, key=lambda row: list(printed.cols).index(sources[row]))
        entries = {
            (row, col): fold(victims[net], attack + at)
            for row in rows
            for net, attack in [row.split(", ", 1)]
            for col, at in columns.items()
            if net in victims and attack + at in victims[net].attacked
        }
        figures = {(row, col): printed.figures.get((f"{name}, {col}", row)) for row in printed.cols for col in columns}
        beside = {cell: figure.value for cell, figure in figures.items() if figure is not None}
        why = setting if isinstance(setting, str) else WHOLE
        gone = {(row, col): why for row in rows for col in columns if (row, col) not in entries}
        caption = f"Tan et al., Table XI{part}, {name}: {printed.title}{told}"
        id = f"tan2020-xi{part}" + ("" if name == "MNIST" else f"-{name.lower()}")
        found.append(Table(id, caption, tuple(rows), tuple(columns), entries, beside, unit, absent=gone))
    return found


# -------------------------------------------------------------------------------------------------------- black boxes


def _black(
    known: dict[str, Setting | str], there: Settings, victims: Victims, scale: str
) -> tuple[list[Item], dict[str, tuple[str, Measure]]]:
    """Tables III and IV, Figures 1 to 3, and claims t07 to t12 and t15."""
    digits, colour = there["MNIST"], known["CIFAR-10"]
    near = transfer(digits, ("BIM 32/255",))
    copies: dict[str, Copied | str] = {"MNIST": copied(digits, scale)}
    if isinstance(colour, Setting):
        far = transfer(colour)
        items: list[Item] = [transfer_table(colour, far)]
        further = transfer_claims(far)
        copies["CIFAR-10"] = WHOLE if scale == "small" else copied(colour, scale)
    else:
        items, further = [no_transfer(colour)], undecided(T07, colour)
        copies["CIFAR-10"] = colour
    items += [transfer_table(digits, near), *substitute_tables(copies, digits.told)]
    for name in ("MNIST", "CIFAR-10"):
        one = known[name]
        if isinstance(one, Setting) and (name == "MNIST" or scale != "small"):
            shown, compared = mixed(one, scale)
            items += [shown, compared]
            further |= mixture_claims(shown, name) if name == "MNIST" else {}
        else:
            items.append(no_mixtures(name, one if isinstance(one, str) else WHOLE))
    own = copies["MNIST"]
    assert isinstance(own, Copied)
    return items, further | substitute_claims(own) | ranking(flat(victims), near, own)


__all__ = ["LATCH", "audit", "size", "success", "tan2020"]
