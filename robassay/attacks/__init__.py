"""Attacks; importing this package registers them all."""

from robassay.attacks import apgd, gradient

__all__ = ["apgd", "gradient"]
