"""A zoo of small networks on digits, honest and masked in pairs, whose truth is known by construction.

It is for evaluators, not for models: whoever says how robust a network is can be asked about these.
"""

from robassay.zoo.entries import ENTRIES, SEEDS, Entry
from robassay.zoo.nets import EPS
from robassay.zoo.registry import PREFIX, Kept, asked, index, known, model, network

__all__ = ["ENTRIES", "EPS", "PREFIX", "SEEDS", "Entry", "Kept", "asked", "index", "known", "model", "network"]
