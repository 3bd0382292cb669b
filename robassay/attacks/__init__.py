"""Attacks; importing this package registers them all."""

from robassay.attacks import apgd, gradient, noise, one_pixel, square

__all__ = ["apgd", "gradient", "noise", "one_pixel", "square"]
