"""robassay: tells whether a classifier's adversarial robustness is real.

Public names are resolved on first use, so that reading a report needs neither torch nor the user's code.
"""

from __future__ import annotations

from typing import Any

from robassay.version import __version__

_PUBLIC = {
    "Access": "access",
    "adapt": "adapters",
    "Attack": "access",
    "DecisionAccess": "access",
    "Decisions": "access",
    "GradientAccess": "access",
    "ScoreAccess": "access",
    "Scores": "access",
    "White": "access",
    "Classifier": "classifier",
    "Mixture": "classifier",
    "Net": "classifier",
    "Quiet": "classifier",
    "Wrapped": "classifier",
    "RobassayError": "errors",
    "UsageError": "errors",
    "Augmented": "estimators",
    "Backprop": "estimators",
    "Differences": "estimators",
    "Estimator": "estimators",
    "Ruled": "estimators",
    "Moments": "moments",
    "Precise": "precise",
    "Averaged": "surrogates",
    "Extended": "surrogates",
    "Twin": "surrogates",
    "sweep": "surrogates",
    "MeanOf": "policy",
    "Once": "policy",
    "Policy": "policy",
    "Rejecting": "policy",
    "VoteOf": "policy",
    "part": "registry",
    "Stream": "rng",
    "Goal": "threat",
    "Threat": "threat",
    "audit": "auditing",
    "Craft": "cells",
    "Examples": "cells",
    "Learn": "models",
    "Mixed": "models",
    "Quieted": "models",
    "Score": "cells",
    "Train": "models",
    "find": "data",
    "Accuracy": "folds",
    "WorstCase": "folds",
    "Success": "folds",
    "Seeds": "seeds",
    "images_for": "intervals",
    "Estimate": "intervals",
    "frame": "frames",
    "Comparison": "comparison",
    "Audit": "study",
    "Check": "study",
    "Curves": "study",
    "Gallery": "study",
    "Measure": "study",
    "Study": "study",
    "Table": "study",
    "Trainings": "study",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'robassay' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"robassay.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
