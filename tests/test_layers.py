"""One-way imports: a module imports only from its own layer and the layers below it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "robassay"

LAYERS = (
    ("ground", "version errors safe rng images hub data threat"),
    ("registry", "registry"),
    ("values", "outputs rules"),
    (
        "contract",
        "analogue chunks cut policy classifier estimators moments precise surrogates access goals independence probe "
        "augment learner",
    ),
    ("nets and attacks", "nets attacks"),
    ("parts", "checkpoint defences recipe training imitation learning adapters testing"),
    (
        "work",
        "marks cell models converted quantised portions cells finalists offline substitute defended adopt plan store "
        "run given signals propagation standing tidy recheck told",
    ),
    ("evidence", "landscape clouds features pace rasters"),
    (
        "meaning",
        "notebook averages intervals folds gates leads seeds contrasts orderings calm thawed knowledge verdict pairs "
        "study lowest comparison drawn protocols",
    ),
    ("documents", "checklist exhibits frames document"),
    (
        "edge",
        "evidence report compare leaderboard claims proof_text program proof zoo budgets battery auditing referee demo "
        "studies papers exams cli",
    ),
)
ORDER = {name: i for i, (_, names) in enumerate(LAYERS) for name in names.split()}

# Where torch must not be needed: reading results and printing help.
WITHOUT_TORCH = ("intervals", "folds", "verdict", "document", "store", "report", "errors", "version", "compare", "cli")
WITHOUT_TORCH += ("checklist", "exhibits", "safe", "marks", "tidy", "leaderboard", "frames", "notebook")


def files() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def top(path: Path) -> str:
    """ "attacks" of robassay/attacks/gradient.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(source: str, package: str, at_module_level: bool = False) -> set[str]:
    """Dotted names of all modules that a source imports, wherever in the file; relative ones resolved."""
    tree = ast.parse(source)
    found: set[str] = set()
    for node in _outside_functions(tree) if at_module_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, *([base] if base else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def _outside_functions(tree: ast.AST) -> list[ast.AST]:
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        found.append(node)
        for child in ast.iter_child_nodes(node):
            typing_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
            if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not typing_only:
                waiting.append(child)
    return found


def of(path: Path, at_module_level: bool = False) -> set[str]:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return imported(path.read_text(encoding="utf-8"), ".".join(parts[:-1]), at_module_level)


def neighbours(path: Path) -> set[str]:
    """Top-level modules of robassay that a file imports, other than its own."""
    names = {name.split(".")[1] for name in of(path) if name.startswith("robassay.")}
    # `from robassay import Study` names no module; it is an import of everything.
    return {n for n in names if n in ORDER or (PACKAGE / n).exists() or (PACKAGE / f"{n}.py").exists()} - {top(path)}


def test_every_module_has_its_place():
    placed = {top(path) for path in files()}
    assert not placed - set(ORDER), "say in LAYERS which layer these belong to"


def test_imports_go_one_way():
    placed = [path for path in files() if top(path) in ORDER]
    wrong = [
        f"{path.relative_to(PACKAGE)} ({LAYERS[ORDER[top(path)]][0]}) imports {name} ({LAYERS[ORDER[name]][0]})"
        for path in placed
        for name in neighbours(path)
        if ORDER.get(name, 99) > ORDER[top(path)]
    ]
    assert not wrong


def test_modules_of_one_layer_do_not_import_each_other_in_a_circle():
    edges = {top(path): set() for path in files()}
    for path in files():
        edges[top(path)] |= neighbours(path) & set(edges)
    done: set[str] = set()
    while ready := [name for name in edges if name not in done and edges[name] <= done]:
        done |= set(ready)
    assert done == set(edges), {name: edges[name] - done for name in set(edges) - done}


def test_only_one_file_imports_ray():
    asking = [path.relative_to(PACKAGE).as_posix() for path in files() if "ray" in {n.split(".")[0] for n in of(path)}]
    assert set(asking) <= {"run/ray.py"}


def test_adapted_frameworks_and_attack_libraries_are_not_imported_by_the_core():
    libraries = {"foolbox", "snntorch", "spikingjelly", "norse", "art", "autoattack", "torchvision", "datasets"}
    for path in files():
        roots = {name.split(".")[0] for name in of(path, at_module_level=True)}
        assert not roots & libraries, f"{path.name} needs {roots & libraries} at import"


def test_reading_results_needs_no_torch():
    for path in files():
        if top(path) in WITHOUT_TORCH:
            assert "torch" not in {n.split(".")[0] for n in of(path, at_module_level=True)}, path


@pytest.mark.parametrize("name", ["robassay", *(f"robassay.{n}" for n in WITHOUT_TORCH)])
def test_reading_results_loads_no_torch(name):
    """Through whatever it imports in turn."""
    code = f"import sys; sys.modules['torch'] = None; import {name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_parser_sees_every_form_of_import():
    """The tests above rest on it: each of these lines must be found."""
    for line, expected in (
        ("import robassay.cells", "robassay.cells"),
        ("import robassay.cells as c", "robassay.cells"),
        ("from robassay.cells import Cell", "robassay.cells"),
        ("from robassay import cells", "robassay.cells"),
        ("from .. import cells", "robassay.cells"),
        ("from ..cells import Cell", "robassay.cells"),
        ("def f():\n    from robassay.cells import Cell", "robassay.cells"),
        ("try:\n    import robassay.cells\nexcept ImportError:\n    pass", "robassay.cells"),
    ):
        assert expected in imported(line, "robassay.attacks")
    assert "torch" in imported("class A:\n    import torch", "robassay", at_module_level=True)
    assert "torch" not in imported("def f():\n    import torch", "robassay", at_module_level=True)
    assert "torch" not in imported("if TYPE_CHECKING:\n    import torch", "robassay", at_module_level=True)
