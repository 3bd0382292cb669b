"""The referee's result in a terminal."""

from __future__ import annotations

from typing import Any


def show(result: dict[str, Any]) -> None:
    """Print a line per network for the tool that was asked, and a line per tool."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    nets = Table(box=None, pad_edge=False, header_style="bold")
    nets.add_column("network", overflow="fold")
    nets.add_column("truth")
    for title in ("stated", "delivered", "best known", "left"):
        nets.add_column(title, justify="right", no_wrap=True)
    nets.add_column("says")
    for row in result["tools"][result["asked"]]["nets"]:
        wrong = row["alarm"] if not row["masked"] else not row["found"]
        found = ("found" if row["found"] else "not found") * row["masked"]
        told = row["verdict"].replace("_", " ") if row["flagged"] is not None else f"{found} {row['verdict']}".strip()
        nets.add_row(
            f"{row['net']} {row['seed']}",
            "masked" if row["masked"] else "honest",
            *(_percent(row[name]) for name in ("robust", "delivered", "best")),
            _points(row["left"]),
            Text(told + " ✗" * wrong, style="red" if wrong else ""),
        )
    console.print(nets)
    sums = Table(box=None, pad_edge=False, header_style="bold")
    sums.add_column("tool")
    for title in ("masked found", "false alarms", "points left on the table", "delivered above stated"):
        sums.add_column(title, justify="right")
    for tool, told in result["tools"].items():
        sums.add_row(tool, _share(told["found"]), _share(told["alarms"]), _points(told["left"]), _points(told["lucky"]))
    console.print()
    console.print(sums)
    radii = sorted({row["eps"] for told in result["tools"].values() for row in told["nets"]})
    eps = " or ".join(f"{one:g}" for one in radii)
    sizes = f"L∞ eps {eps}, budget {result['budget']}, n = {result['n']} images of each; [95 % interval]; "
    console.print(sizes + "rates over networks, each the mean of its seeds", style="dim", markup=False)


def _percent(rate: dict[str, Any]) -> str:
    return f"{100 * rate['value']:.1f} %"


def _share(rate: dict[str, Any] | None) -> str:
    return (
        "–"
        if rate is None
        else f"{100 * rate['value']:.0f} % [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}] of {rate['n']}"
    )


def _points(gap: dict[str, Any]) -> str:
    return f"{100 * gap['value']:+.1f} [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]"
