"""Defences; importing this package registers them all."""

from robassay.defences import (
    a2snn,
    adv_bnn,
    adversarial,
    distillation,
    dropout,
    l2p,
    magnet,
    pni,
    random_spiking,
    region,
    rse,
)

__all__ = [
    "a2snn",
    "adv_bnn",
    "adversarial",
    "distillation",
    "dropout",
    "l2p",
    "magnet",
    "pni",
    "random_spiking",
    "region",
    "rse",
]
