"""Figures 4 to 7 of Tan et al. 2020: logits and decisions, the constant c, the inference policy, attacked images."""

from __future__ import annotations

from robassay.cells import Examples
from robassay.clouds import Cloud, Section
from robassay.drawn import Plane, Scatter
from robassay.folds import Accuracy, Success
from robassay.leads import Boxes, PerPixel
from robassay.papers.tan_settings import RANDOM, Setting
from robassay.papers.victims import CONSTANTS, OFFERED, Victim
from robassay.study import Curves, Gallery, Item, Measure, Table

PAIR = ("ResNet18", "BSN-L")
"""Networks of Figure 4."""
SWEPT = ("BSN-L", "BSN-2")
"""Of these the first whose constants are tried is that of Figure 5."""
SHOWN = ("BIM 32/255", "CWL2", "ModCWL2", OFFERED, "Boundary")
FEW = 10
"""Test images below which pictures are tiny, too."""
Settings = dict[str, Setting]
Victims = dict[str, dict[str, Victim]]
"""By data set and network."""


def cloud(setting: Setting, name: str) -> Cloud:
    """Logits of training images, as many as the figure shows."""
    many = 2000 if setting.full else 500 if setting.usual.images > FEW else 60
    return Cloud(setting.nets[name].model, Examples(setting.data, "train", 0, many))


def logits(settings: Settings) -> list[Item]:
    """Figure 4: a map of the logits and a section through three images for each network; what their neighbours say.

    The text says that the maps are of MNIST, the caption that they are of CIFAR-10: both are here.
    """
    items: list[Item] = []
    entries = {}
    for data, setting in settings.items():
        for name in PAIR:
            made, id = cloud(setting, name), f"tan2020-fig4-{data}-{name}".lower()
            where = f"{name} on {data}"
            caption = f"Tan et al., Figure 4: t-SNE of the logits of {made.on.stop} training images, {where}"
            items.append(Scatter(f"{id}-map", caption, made, "first axis of t-SNE", "second axis of t-SNE"))
            grid, draws = (61, 100) if setting.full else (31, 30) if setting.usual.images > FEW else (5, 4)
            section = Section(made.target, Examples(setting.data, "train", 0, 60), grid, draws)
            items.append(
                Plane(f"{id}-section", f"Tan et al., Figure 4: decisions around three images, {where}", section)
            )
            entries[where, "accuracy of 10 neighbours"] = Measure(((made,),), Accuracy())
    caption = "Overlap of the classes in the logits of n training images: accuracy of the 10 nearest neighbours"
    rows = tuple(row for row, _ in entries)
    return [Table("tan2020-fig4", caption, rows, ("accuracy of 10 neighbours",), entries), *items]


def constants(victims: Victims) -> list[Curves]:
    """Figure 5: success and size over c."""
    items = []
    for data, those in victims.items():
        name = next((n for n in SWEPT if n in those and f"CWL2, c {CONSTANTS[0]:g}" in those[n].attacked), None)
        if name is None:
            continue
        one = those[name]
        kinds = [word for word in ("CWL2", "ModCWL2", OFFERED) if word in one.attacked]
        for part, unit in (("success", "rate"), ("size", "L2 per pixel × 1,000")):
            fold = Success() if unit == "rate" else PerPixel(one.values)
            series = {}
            for word in kinds:
                found = [one.attacked[word if c == CONSTANTS[-1] else f"{word}, c {c:g}"] for c in CONSTANTS]
                series[word] = tuple(Measure((e, one.clean[: len(e)]), fold) for e in found)
            caption = f"Tan et al., Figure 5: {part} over c, {name} on {data}"
            id = f"tan2020-fig5-{data}-{part}".lower()
            items.append(Curves(id, caption, "c", part, CONSTANTS, series, unit=unit))
    return items


def boxes(victims: Victims, told: str = "both") -> Measure:
    """Median and spread of success over all attacks on all random networks: average of ten passes against one."""
    evaluations, groups = [], []
    for i, those in enumerate(victims.values()):
        for name in RANDOM:
            for word, single in those[name].single.items() if name in those else ():
                evaluations += [those[name].attacked[word], single, those[name].clean[: len(single)]]
                groups.append(i)
    return Measure(tuple(evaluations), Boxes(tuple(groups), told))  # type: ignore[arg-type]


def policies(victims: Victims) -> list[Item]:
    """Figure 6: success under either policy, setting by setting, and what the boxes say."""
    entries = {}
    for data, those in victims.items():
        for name in RANDOM:
            for word, single in those[name].single.items() if name in those else ():
                row, clean = f"{data}, {name}, {word}", those[name].clean[: len(single)]
                entries[row, "average of 10"] = Measure((those[name].attacked[word], clean), Success())
                entries[row, "single pass"] = Measure((single, clean), Success())
    rows = tuple(dict.fromkeys(row for row, _ in entries))
    caption = "Tan et al., Figure 6: success where the mean of ten passes decides, and where one does; the same images"
    leads = {
        (f"{told} over these settings", "average less single"): boxes(victims, told) for told in ("median", "spread")
    }
    below = (
        "Figure 6 in two numbers: median of the average policy less that of the single one; range between quartiles of "
        "the single policy less that of the average one"
    )
    return [
        Table("tan2020-fig6", caption, rows, ("average of 10", "single pass"), entries),
        Table("tan2020-fig6-boxes", below, tuple(row for row, _ in leads), ("average less single",), leads),
    ]


def images(victims: dict[str, Victim]) -> list[Gallery]:
    """Figure 7: one image per network and attack, on MNIST."""
    found = []
    for name in ("ResNet18", "SNN_M", "MC-SEFRON", "BSN-2", "BSN-L", "BNN-D"):
        for word in SHOWN:
            if name in victims and word in victims[name].attacked:
                id = f"tan2020-fig7-{name}-{word}".lower().replace(" ", "-").replace("/", "-").replace(",", "")
                caption = f"Tan et al., Figure 7: {name} under {word}"
                found.append(Gallery(id, caption, victims[name].attacked[word][0], 1))
    return found
