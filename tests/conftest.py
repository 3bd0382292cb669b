"""Shared settings: one torch thread, and one loud line when tests that need data or Ray are skipped."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

torch.set_num_threads(1)


NEEDS = {"data": "needs ROBASSAY_DATA", "ray": "needs Ray"}
TOLD = {
    "data": "tests that need MNIST and CIFAR-10 were SKIPPED: set ROBASSAY_DATA to their folder",
    "ray": "tests that need a Ray cluster were SKIPPED: pip install 'robassay[ray]', or make env",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    there = {"data": bool(os.environ.get("ROBASSAY_DATA")), "ray": importlib.util.find_spec("ray") is not None}
    for item in items:
        for name, reason in NEEDS.items():
            if item.get_closest_marker(name) and not there[name]:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name, reason in NEEDS.items():
        skipped = [r for r in terminalreporter.stats.get("skipped", []) if reason in str(r.longrepr)]
        if skipped:
            terminalreporter.write_line(f"!!! {len(skipped)} {TOLD[name]}", yellow=True, bold=True)
