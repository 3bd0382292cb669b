"""Attacks; importing this package registers them all."""

from robassay.attacks import gradient

__all__ = ["gradient"]
