"""The papers' networks, tables and figures as studies."""

from __future__ import annotations

from pathlib import Path

from robassay.study import Study


def study_of(name: str, scale: str, data_dir: Path | None) -> Study:
    """The study called ``name`` at a scale: "small" or "full", and "smoke" where the study has it."""
    from robassay.papers.anisotropic import anisotropic
    from robassay.papers.cifar import networks_tan_cifar
    from robassay.papers.eustratiadis2020 import eustratiadis2020
    from robassay.papers.ge2020 import ge2020
    from robassay.papers.networks import deciders, networks_e, networks_ge, networks_tan, positions
    from robassay.papers.plastic import networks_plastic
    from robassay.papers.protocols import (
        protocols_cost,
        protocols_mixtures,
        protocols_stability,
        protocols_transfer,
        protocols_white,
    )
    from robassay.papers.sharmin2019 import sharmin2019
    from robassay.papers.sharmin2020 import sharmin2020
    from robassay.papers.spiking import networks_s, networks_s_cifar10
    from robassay.papers.substitutes import protocols_substitutes
    from robassay.papers.tan2020 import tan2020
    from robassay.papers.translucent import protocols_translucent
    from robassay.papers.widths import widths

    studies = {
        "tan2020": tan2020,
        "networks-tan": networks_tan,
        "networks-tan-cifar": networks_tan_cifar,
        "networks-plastic": networks_plastic,
        "networks-ge": networks_ge,
        "networks-e": networks_e,
        "networks-s": networks_s,
        "networks-s-cifar10": networks_s_cifar10,
        "positions": positions,
        "deciders": deciders,
        "anisotropic": anisotropic,
        "widths": widths,
        "sharmin2019": sharmin2019,
        "sharmin2020": sharmin2020,
        "ge2020": ge2020,
        "eustratiadis2020": eustratiadis2020,
        "protocols-transfer": protocols_transfer,
        "protocols-white": protocols_white,
        "protocols-mixtures": protocols_mixtures,
        "protocols-stability": protocols_stability,
        "protocols-cost": protocols_cost,
        "protocols-substitutes": protocols_substitutes,
        "protocols-translucent": protocols_translucent,
    }
    return studies[name](scale, data_dir)
