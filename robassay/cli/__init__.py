"""The command line. Every command prints for people, or with --json for programs; errors go to standard error.

Exit codes: 0 it ran, 1 something failed, 2 it was asked for something it cannot do, 3 a --fail-on verdict
or --fail-if-worse, 130 Ctrl-C.
"""

from __future__ import annotations

import sys

from robassay.cli import audits, studies
from robassay.cli.common import app
from robassay.errors import Interrupted, RobassayError, UsageError

__all__ = ["app", "audits", "main", "studies"]


def main() -> None:
    """Run the command line; every known error becomes one message and an exit code."""
    try:
        app()
    except RobassayError as error:
        print(f"robassay: {error}", file=sys.stderr)
        sys.exit(130 if isinstance(error, Interrupted) else 2 if isinstance(error, UsageError) else 1)
