"""Defences; importing this package registers them all."""

from robassay.defences import a2snn, adversarial, pni, rse

__all__ = ["a2snn", "adversarial", "pni", "rse"]
