"""Defences; importing this package registers them all."""

from robassay.defences import a2snn, adversarial, dropout, magnet, random_spiking, region

__all__ = ["a2snn", "adversarial", "dropout", "magnet", "random_spiking", "region"]
