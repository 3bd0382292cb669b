"""Defences; importing this package registers them all."""

from robassay.defences import a2snn, adv_bnn, adversarial, l2p, pni, rse

__all__ = ["a2snn", "adv_bnn", "adversarial", "l2p", "pni", "rse"]
