"""Whether what robassay depends on has known security flaws: `make check` asks the OSV database.

Without a network nothing is checked, and that is said; a flaw that is found ends with 1.
"""

from __future__ import annotations

import json
import re
import sys
import urllib.error
import urllib.request
from importlib import metadata

SOURCE = "https://api.osv.dev/v1/querybatch"
PATIENCE = 10.0
ACCEPTED: dict[str, str] = {}
"""Advisories that do not concern us, each with the reason."""


def installed(root: str = "robassay") -> dict[str, str]:
    """What ``root`` needs at run time, and what that needs in turn: installed versions by name."""
    found: dict[str, str] = {}
    waiting = [root]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop().lower())
        if name in found:
            continue
        try:
            one = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another system, or an extra
        found[name] = one.version.partition("+")[0]
        needs = [need for need in one.requires or [] if "extra ==" not in need]
        waiting += [match[0] for need in needs if (match := re.match(r"[\w.-]+", need))]
    del found[root]
    return found


def flaws(answer: dict[str, object], names: list[str]) -> list[str]:
    """ "package: advisory" for each one that the database knows and we have not accepted."""
    results = answer["results"]
    assert isinstance(results, list) and len(results) == len(names), "an answer to another question"
    found = [(n, v["id"]) for n, result in zip(names, results, strict=True) for v in (result or {}).get("vulns", [])]
    return [f"{name}: https://osv.dev/vulnerability/{one}" for name, one in found if one not in ACCEPTED]


def main() -> int:
    """Ask, and say what came of it."""
    versions = installed()
    names = sorted(versions)
    queries = [{"package": {"name": n, "ecosystem": "PyPI"}, "version": versions[n]} for n in names]
    body = json.dumps({"queries": queries}).encode()
    try:
        asked = urllib.request.Request(SOURCE, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=PATIENCE) as reply:
            found = flaws(json.load(reply), names)
    except (urllib.error.URLError, OSError, ValueError, KeyError, AssertionError) as error:
        print(f"advisories: NOT CHECKED ({len(names)} packages): {SOURCE} did not answer: {error}")
        return 0
    print("\n".join(found) or f"advisories: none for {len(names)} packages")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
