"""Attacks; importing this package registers them all."""

from robassay.attacks import apgd, boundary, cw, gradient, hopskipjump, noise, one_pixel, snn_crafted, square

__all__ = ["apgd", "boundary", "cw", "gradient", "hopskipjump", "noise", "one_pixel", "snn_crafted", "square"]
