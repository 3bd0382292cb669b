"""The command line. Every command prints for people, or with --json for programs; errors go to standard error.

Exit codes: 0 it ran, 1 something failed, 2 it was asked for something it cannot do, 3 a --fail-on verdict
or --fail-if-worse, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import os
import sys

from robassay.cli import audits, stores, studies
from robassay.cli.common import app
from robassay.errors import Interrupted, RobassayError, Terminated, UsageError, tell

__all__ = ["app", "audits", "main", "stores", "studies"]

NEEDED = {"torch": "torch", "sklearn": "scikit-learn", "joblib": "joblib", "pyarrow": "pyarrow"}
NEEDED |= {"safetensors": "safetensors", "PIL": "pillow", "plotly": "plotly", "jinja2": "jinja2"}
READ = "Without torch the commands report, export, compare, leaderboard and status without a study work."


def main() -> None:
    """Run the command line; every known error becomes one message and an exit code."""
    try:
        app()
    except RobassayError as error:
        tell(f"robassay: {error}")
        codes = {Interrupted: 130, Terminated: 143, UsageError: 2}
        sys.exit(next((code for kind, code in codes.items() if isinstance(error, kind)), 1))
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        package = NEEDED[error.name]
        tell(f"robassay: this command needs {error.name}, which is not installed: pip install {package}. {READ}")
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read our output has enough (robassay list | head); Python would complain once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        named = f"'{error.filename}': " if error.filename else ""
        tell(f"robassay: {named}{error.strerror or error}.")
        sys.exit(1)
    except KeyboardInterrupt:  # before a command was at work, or after
        tell("robassay: interrupted.")
        sys.exit(130)
