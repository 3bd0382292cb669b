"""The audit's controls: every network of the zoo, thresholds chosen on one half of the families, tested on the other.

Run:   python bench/controls.py [STORE] [--seeds 3] [--images 200] [--budget quick] [--workers 0]

With --proofs PYTHON the proof of every flagged network is run by that interpreter, which needs nothing but torch.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robassay.auditing import Budget
from robassay.cells import Examples
from robassay.data import find
from robassay.document import Document
from robassay.intervals import Estimate, rate
from robassay.proof import write_proof
from robassay.referee import bare_audit, flagged
from robassay.run import carry_out
from robassay.store import Store
from robassay.study import Study
from robassay.verdict import FLAGS
from robassay.zoo import ENTRIES, SEEDS

DIGIT = 0.0005
"""What is lost in a figure that is printed with one digit of a per cent."""
DELTAS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15)
Net = tuple[str, int]
Results = Mapping[Net, dict[str, Any]]


def halves() -> tuple[list[str], list[str]]:
    """Every second family in the order of the alphabet, and the rest: names of networks."""
    families = sorted({e.family for e in ENTRIES.values()})
    first, second = set(families[0::2]), set(families[1::2])
    return tuple([e.name for e in ENTRIES.values() if e.family in half] for half in (first, second))  # type: ignore[return-value]


def audited(store: Store, seeds: int, images: int, budget: Budget, workers: int) -> dict[float, Results]:
    """The audits' results by δ; the attacks are the same for each."""
    on = Examples(find("digits"), "test", 0, images)
    found: dict[float, Results] = {}
    for delta in DELTAS:
        items = {
            (name, seed): bare_audit(name, seed, on, budget, store, delta) for name in ENTRIES for seed in range(seeds)
        }
        study = Study("controls", "Controls", tuple(items.values()), scale="audit")
        failed = carry_out(study.needs(), store, workers, silent=delta != DELTAS[0]).failed
        if failed:
            raise SystemExit(f"{len(failed)} cells failed. The first: {next(iter(failed.values()))}")
        told = {one["title"]: one for one in Document(study.freeze(), store).audits()}
        found[delta] = {key: told[item.title] for key, item in items.items()}
    return found


def proven(store: Store, results: Results, images: int, budget: Budget, python: Path) -> list[dict[str, Any]]:
    """What the proof of every flagged network says when ``python`` runs it, and whether that is what the audit said."""
    on, folder, rows = Examples(find("digits"), "test", 0, images), Path(store.root) / "proofs", []
    for (name, seed), one in results.items():
        if not flagged(one):
            continue
        file = folder / f"{name}-{seed}.py"
        write_proof(bare_audit(name, seed, on, budget, store), one, file, store)
        line = [str(python), "-I", str(file)]
        done = subprocess.run(line, capture_output=True, text=True, check=False, env={"OMP_NUM_THREADS": "1"})
        said = (done.stdout or done.stderr.strip()).splitlines()[0]
        low, high = (float(v) / 100 for v in re.findall(r"[\d.]+", said)[1:3]) if done.returncode == 0 else (1, 0)
        same = low - DIGIT <= one["robust"]["value"] <= high + DIGIT
        rows.append({"net": name, "seed": seed, "audit": one["robust"], "proof": said, "same": same})
        print(
            f"{name + ' ' + str(seed):26} audit {100 * one['robust']['value']:5.1f}   {said}{'' if same else '   <--'}"
        )
    print(f"{sum(row['same'] for row in rows)} of {len(rows)} proofs say what the audit says")
    return rows


def show(results: Results) -> None:
    """A line per network."""
    print(f"{'network':26}{'truth':8}{'clean':>6}{'claimed':>9}{'adequate':>10}{'robust':>8}  verdict, attack that won")
    for (name, seed), one in results.items():
        masked = ENTRIES[name].masked
        rates = (f"{100 * one[k]['value']:.1f}" for k in ("clean", "claimed", "adequate", "robust"))
        figures = "{:>6}{:>9}{:>10}{:>8}".format(*rates)
        cause = f" ({one['cause']})" if one["cause"] else ""
        wrong = "   <-- wrong" if flagged(one) != masked else ""
        print(
            f"{name + ' ' + str(seed):26}{'masked' if masked else 'honest':8}{figures}  "
            f"{one['verdict']}{cause}, {one['winner']}{wrong}"
        )


def indicator(results: Results, name: str) -> dict[Net, float]:
    """An indicator's value of every network; NaN where it was not measured."""
    found = {}
    for key, one in results.items():
        values = [c["value"] for c in one["checks"] if c["name"] == name and c["value"] is not None]
        found[key] = float(values[0]) if values else float("nan")
    return found


def chosen(values: Mapping[Net, float], names: Sequence[str], side: str) -> float:
    """The limit with the most hits less false alarms among networks of ``names``; in the middle of its gap."""
    sign = 1.0 if side == "above" else -1.0
    known = sorted({sign * v for (n, _), v in values.items() if n in names and not np.isnan(v)})
    limits = [(a + b) / 2 for a, b in pairwise(known)] + [known[-1] + 1e-6] if known else [0.0]

    def worth(limit: float) -> float:
        flags = {key: sign * v > limit for key, v in values.items() if key[0] in names}
        return hits(flags, True).value - hits(flags, False).value

    return sign * max(limits, key=worth)


def hits(flags: Mapping[Net, bool], masked: bool) -> Estimate:
    """Share of networks of one truth that are flagged; a network is the unit, its seeds are its draws."""
    names = sorted({n for n, _ in flags if ENTRIES[n].masked == masked})
    return rate(np.array([[float(np.mean([f for (m, _), f in flags.items() if m == n])) for n in names]]))


def told(label: str, flags: Mapping[Net, bool]) -> dict[str, Any]:
    """Print and return hit rate and false alarms."""
    hit, alarm = hits(flags, True), hits(flags, False)
    counts = [[f for (n, _), f in flags.items() if ENTRIES[n].masked == m] for m in (True, False)]
    words = (f"{sum(c)} of {len(c)}" for c in counts)
    print(f"  {label:44} masked flagged {next(words):>9}, {hit}; honest flagged {next(words):>9}, {alarm}")
    return {"rule": label, "hits": hit._asdict(), "alarms": alarm._asdict()}


def cross_validate(found: Mapping[float, Results]) -> list[dict[str, Any]]:
    """Both ways round: thresholds from one half of the families, their errors on the other."""
    rows, sides = [], halves()
    results = next(iter(found.values()))
    for chooses, tests in (sides, sides[::-1]):
        print(f"\nchosen on: {', '.join(chooses)}\ntested on: {', '.join(tests)}")

        def on(names: Sequence[str], rule: Callable[[Net], bool]) -> dict[Net, bool]:
            return {key: rule(key) for key in results if key[0] in names}

        def worth(delta: float, names: Sequence[str] = chooses) -> float:
            flags = on(names, lambda key: flagged(found[delta][key]))
            return hits(flags, True).value - hits(flags, False).value

        best = max(DELTAS, key=worth)
        equal = [delta for delta in DELTAS if worth(delta) == worth(best)]
        delta = equal[len(equal) // 2]
        label = f"verdict, δ = {100 * delta:g} points (as good: {', '.join(f'{100 * d:g}' for d in equal)})"
        rows.append(told(label, on(tests, lambda key: flagged(found[delta][key]))))  # noqa: B023
        for name, (stated, side) in FLAGS.items():
            values = indicator(results, name)
            limit = chosen(values, chooses, side)
            over = lambda key, at: values[key] > at if side == "above" else values[key] < at  # noqa: B023
            rows.append(told(f"{name} {side} {limit:.3g} (chosen)", on(tests, lambda key: over(key, limit))))  # noqa: B023
            rows.append(told(f"{name} {side} {stated:g} (as it is)", on(tests, lambda key: over(key, stated))))  # noqa: B023
    return rows


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("store", nargs="?", default="robassay-store-controls")
    ask.add_argument("--seeds", type=int, default=SEEDS)
    ask.add_argument("--images", type=int, default=200)
    ask.add_argument("--budget", default="quick")
    ask.add_argument("--workers", type=int, default=0)
    ask.add_argument("--proofs", type=Path, default=None)
    said = ask.parse_args()
    torch.set_num_threads(1)
    store = Store(said.store)
    found = audited(store, said.seeds, said.images, said.budget, said.workers)
    show(found[0.05])
    print("\nall networks, nothing chosen")
    rows = [told(f"verdict, δ = {100 * d:g} points", {k: flagged(o) for k, o in r.items()}) for d, r in found.items()]
    rows += cross_validate(found)
    file = Path(__file__).with_name("results") / "controls.json"
    file.parent.mkdir(exist_ok=True)
    keep = ("clean", "claimed", "adequate", "robust", "g1", "g2", "verdict", "cause", "winner")
    nets = [{"net": n, "seed": s, **{k: one[k] for k in keep}} for (n, s), one in found[0.05].items()]
    proofs = proven(store, found[0.05], said.images, said.budget, said.proofs) if said.proofs else []
    about = {"images": said.images, "budget": said.budget, "nets": nets, "rules": rows, "proofs": proofs}
    file.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\n{file}")


if __name__ == "__main__":
    main()
