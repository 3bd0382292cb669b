"""Studies and parts by name, for the command line."""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from robassay.cell import without_cycles
from robassay.errors import UsageError, suggest
from robassay.study import Study

LISTED = ("nets", "attacks", "defences", "policies", "estimators", "augmentations", "data", "papers", "zoo")
SCALES = ("smoke", "small", "full")
PAPERS = {
    "papers": (
        "the papers above at once, whose cells share the workers, and a report of each",
        "Tan, Sharmin, Ge and Eustratiadis et al.",
    ),
    "tan2020": (
        "eight networks on MNIST and CIFAR-10 under four attacks, transfer, substitutes, mixtures; 16 claims judged",
        "Tan et al. 2020",
    ),
    "networks-tan": ("BSN and BNN on MNIST: accuracy beside the published figure", "Tan et al. 2020, Table I"),
    "networks-tan-cifar": (
        "ResNet18, BSN and BNN on CIFAR-10: accuracy beside the published figure",
        "Tan et al. 2020, Table I",
    ),
    "networks-plastic": (
        "MC-SEFRON and SNN_M on MNIST: accuracy beside the published figure",
        "Tan et al. 2020, Table I",
    ),
    "networks-ge": ("random spiking and other schemes on MNIST: accuracy", "Ge et al. 2020, Table 2"),
    "positions": ("random spiking behind later activations costs accuracy", "Ge et al. 2020, §4.2"),
    "deciders": ("MagNet and region-based classification on MNIST", "Ge et al. 2020, Table 2"),
    "networks-e": ("A2SNN and its competitors on MNIST: accuracy", "Eustratiadis et al. 2021"),
    "networks-s": ("VGG9 and VGG5 on MNIST: converted, spiking and hybrid networks", "Sharmin et al. 2019 and 2020"),
    "networks-s-cifar10": (
        "VGG9 and VGG5 on CIFAR-10: converted, spiking and hybrid networks",
        "Sharmin et al. 2019, Table I; Sharmin et al. 2020",
    ),
    "anisotropic": (
        "A2SNN's ablation m1 to m5 on MNIST: the paper's attack, and the worst of four losses",
        "Eustratiadis et al. 2021, Table 5",
    ),
    "widths": (
        "one spiking network on MNIST under surrogate gradients of many widths, and the worst of them per image",
        "after Ozdenizci and Legenstein 2024",
    ),
    "sharmin2019": (
        "converted and spiking networks against white and black boxes: all tables and figures, nine claims judged",
        "Sharmin et al. 2019",
    ),
    "sharmin2020": (
        "ANN, converted and hybrid spiking networks: levels of the input, time, leak, layers; eight claims judged",
        "Sharmin et al. 2020",
    ),
    "ge2020": (
        "nine schemes on MNIST, four on CIFAR-10: accuracy, attacks, stability, transfer; twelve claims judged",
        "Ge et al. 2020",
    ),
    "eustratiadis2020": (
        "A2SNN, its ablation and competitors on MNIST: every table beside the paper, its bound, 21 claims judged",
        "Eustratiadis et al. 2020",
    ),
    "protocols": (
        "the following protocols at once, whose cells share the workers, and a report of each",
        "Tan, Ge and Sharmin et al.",
    ),
    "protocols-transfer": (
        "who fools whom among five kinds of network on MNIST; who hurts converted and spiking ones",
        "Tan et al. 2020, Table III; Sharmin et al. 2019, Figure 4",
    ),
    "protocols-white": (
        "targeted CW on one network and on three at once, over its constants; four decision procedures",
        "Ge et al. 2020, Table 5; Tan et al. 2020",
    ),
    "protocols-mixtures": ("stochastic mixtures against their members", "Tan et al. 2020, §V and Figure 3"),
    "protocols-stability": ("decisions under Gaussian noise and JPEG", "Ge et al. 2020, Figure 2"),
    "protocols-cost": ("images broken over the decisions an attacker asks for", "after Brendel et al. 2018"),
    "protocols-substitutes": (
        "black box by substitute on MNIST: plain, stochastic and variance-mimicking substitutes",
        "Tan et al. 2020, Fig. 1, Fig. 2 and Table IV",
    ),
    "protocols-translucent": (
        "four schemes on MNIST against attacks on one and on eight surrogates, validated by others",
        "Ge et al. 2020, Fig. 3 and 4",
    ),
}
"""Studies of published results: summary and source."""
FIVE = ("tan2020", "sharmin2019", "sharmin2020", "ge2020", "eustratiadis2020")
"""The papers whose every table and figure a study shows."""


def members(name: str) -> tuple[str, ...]:
    """The studies that ``name`` stands for when run at once: "papers", "protocols"; of any other none."""
    if name == "papers":
        return tuple(one for one in FIVE if one in PAPERS)
    return tuple(one for one in PAPERS if one.startswith("protocols-")) if name == "protocols" else ()


@without_cycles
def load_study(name: str, scale: str, data_dir: Path | None) -> Study:
    """The study that ``name`` stands for: "demo", or "file.py" / "file.py:name" of the user's.

    In a file the name (default ``study``) is a Study, or a function that returns one and may take ``scale``.

    Raises:
        UsageError: unknown name or scale, or a file without a study.
    """
    if scale not in SCALES:
        raise UsageError(f"--scale {scale} is not known. {suggest(scale, list(SCALES))}")
    if ".py" in name:
        return _from_file(name, scale)
    if name == "demo":
        from robassay.data import find
        from robassay.demo import demo_study

        return demo_study(find("digits", data_dir), None)
    if name in PAPERS:
        from robassay.papers import study_of

        parts = {one: study_of(one, scale, data_dir) for one in members(name)}
        return together(name, parts, scale) if parts else study_of(name, scale, data_dir)
    known = ["demo", *PAPERS]
    raise UsageError(f"No study is called '{name}'. {suggest(name, known)} Or write FILE.py with a function study().")


def together(name: str, parts: dict[str, Study], scale: str) -> Study:
    """Several studies as one, so that what is long in one leaves the other workers to the rest.

    Items whose ids collide are called after their study, too.
    """
    often = Counter(item.id for part in parts.values() for item in part.items)
    items = tuple(
        replace(item, id=f"{study}-{item.id}") if often[item.id] > 1 else item  # type: ignore[type-var]
        for study, part in parts.items()
        for item in part.items
    )
    cites = tuple(dict.fromkeys(cite for part in parts.values() for cite in part.cites))
    return Study(
        name, f"All {name} ({scale})", items, scale=scale, cites=cites, command=f"robassay run {name} --scale {scale}"
    )


def _from_file(name: str, scale: str) -> Study:
    from robassay.registry import load_name

    file, _, attribute = name.partition(".py")
    found = load_name(file + ".py", attribute.lstrip(":") or "study")
    if callable(found) and not isinstance(found, Study):
        found = found(scale) if inspect.signature(found).parameters else found()
    if not isinstance(found, Study):
        raise UsageError(f"{name} is a {type(found).__name__}, not a Study. Return robassay.Study(name, title, items).")
    return found


def listing(kind: str) -> list[dict[str, str]]:
    """Name, summary and source of every part of a kind.

    Raises:
        UsageError: unknown kind.
    """
    if kind not in LISTED:
        raise UsageError(f"There is no list of '{kind}'. {suggest(kind, list(LISTED))}")
    if kind == "papers":
        return [{"name": n, "summary": PAPERS[n][0], "source": PAPERS[n][1]} for n in (*members("papers"), *_others())]
    if kind == "data":
        from robassay.data import NAMES

        return [{"name": n.name, "summary": n.summary, "source": n.source} for n in NAMES.values()]
    if kind == "zoo":
        return _animals()
    return [{"name": e.name, "summary": e.summary, "source": e.source} for e in _entries(kind)]


def _others() -> list[str]:
    """What is listed after the five papers."""
    return [name for name in PAPERS if name not in FIVE]


def _animals() -> list[dict[str, str]]:
    """The networks of the zoo with their truth."""
    from robassay.zoo import ENTRIES

    told = {True: "masked", False: "honest"}
    return [
        {"name": e.name, "summary": f"{told[e.masked]}: {e.summary}", "source": e.claimed, "truth": told[e.masked]}
        for e in ENTRIES.values()
    ]


def _entries(kind: str) -> list[Any]:
    import robassay.attacks
    import robassay.augment
    import robassay.defences
    import robassay.estimators
    import robassay.models
    import robassay.moments
    import robassay.nets
    import robassay.policy
    import robassay.precise
    import robassay.surrogates  # noqa: F401
    from robassay.registry import entries

    return entries(kind)
