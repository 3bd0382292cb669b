"""What a running audit has found so far: the attack that leaves the least. NumPy only."""

from __future__ import annotations

from collections.abc import Iterable

from robassay.errors import printable
from robassay.folds import rows
from robassay.store import Store
from robassay.study import Audit, Item


class Lowest:
    """Told of every finished cell, the lowest robust accuracy under one attack of the audits among some items.

    It is of the images judged so far, and no verdict: the worst case of each image over all attacks may be lower.

    Args:
        items: of a study; those that are no audits are left out.
        store: where the cells lie.
    """

    def __init__(self, items: Iterable[Item], store: Store) -> None:
        self._store = store
        self._names: dict[str, str] = {}
        self._right: dict[str, tuple[float, int]] = {}
        audits = [item for item in items if isinstance(item, Audit)]
        for audit in audits:
            attacks = {"claimed": audit.claimed, "adequate": audit.adequate, **audit.battery}
            for name, evaluation in attacks.items():
                for score in evaluation:
                    self._names.setdefault(score.key, f"{audit.title}: {name}" if len(audits) > 1 else name)

    def __call__(self, key: str) -> str:
        """The finding in words after the cell ``key`` was finished; empty while there is none.

        Raises:
            LostCell: it is damaged.
        """
        name = self._names.pop(key, None)  # each is counted once
        if name is not None:
            survived = rows([self._store.read(key)]).survives().mean(0)
            right, n = self._right.get(name, (0.0, 0))
            self._right[name] = right + float(survived.sum()), n + len(survived)
        if not self._right:
            return ""
        share, least = min((right / n, which) for which, (right, n) in self._right.items())
        told = f"lowest robust accuracy so far {100 * share:.1f} % ({least}, n = {self._right[least][1]})"
        return printable(told)
