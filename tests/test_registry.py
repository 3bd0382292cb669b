"""Parts by name, and a user's file: what is found, what is refused, what counts as its identity."""

from __future__ import annotations

import dataclasses
import pickle
import sys

import pytest

from robassay import registry
from robassay.access import Attack
from robassay.errors import UsageError
from robassay.estimators import Backprop, Estimator
from robassay.policy import Policy
from robassay.registry import KINDS, entries, load_file, load_name, named, part, source_digest


@pytest.fixture(autouse=True)
def unchanged(monkeypatch):
    """Parts and user modules of a test are forgotten after it."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(registry.USER_PREFIX) or name in registry._helpers:
            del sys.modules[name]


def write(folder, **files):
    """Write files, "__" for a folder's slash; the path of ``mine.py``."""
    for name, text in files.items():
        path = folder.joinpath(*name.replace("INIT", "__init__").split("___")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "mine.py"


# ------------------------------------------------------------------------------------------------------------- parts


class Dummy(Policy):
    def decide(self, logits):
        return logits[0].argmax(-1)


def test_a_part_is_a_frozen_dataclass_found_by_name():
    @part(source="Somebody 2024, eq. 1")
    class EveryOther(Dummy):
        """Takes every other draw.

        More about it.
        """

        draws: int = 4

    made = EveryOther(draws=6)
    assert made == EveryOther(6) and hash(made) == hash(EveryOther(6)) and repr(made).endswith("EveryOther(draws=6)")
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.draws = 3
    assert named("policies", "every-other") is EveryOther
    entry = next(e for e in entries("policies") if e.name == "every-other")
    assert entry.summary == "Takes every other draw." and entry.source == "Somebody 2024, eq. 1"


def test_names_are_made_of_the_class_or_given():
    @part
    class PGDPlus2D(Dummy):
        draws: int = 1

    @part(name="r-other")
    class Other(Dummy):
        draws: int = 1

    assert named("policies", "r-other") is Other
    assert [e.name for e in entries("policies") if e.cls is PGDPlus2D] == ["pgdplus2-d"]
    names = [e.name for e in entries("policies")]
    assert names == sorted(names)


def test_every_kind_of_part_has_a_name():
    import robassay.attacks
    import robassay.defences
    import robassay.nets  # noqa: F401

    for kind in KINDS:
        for entry in entries(kind):
            assert entry.kind == kind and entry.name == entry.name.lower() and " " not in entry.name
            assert entry.summary, f"{entry.cls} has no docstring"
            assert dataclasses.is_dataclass(entry.cls) and entry.cls.__dataclass_params__.frozen
    assert named("estimators", "backprop") is Backprop


def test_a_bad_part_is_refused():
    with pytest.raises(UsageError, match="derive it from Attack"):

        @part
        class Nothing:
            pass

    with pytest.raises(UsageError, match=r"estimators 'backprop' is already robassay\.estimators\.Backprop"):

        @part(name="backprop")
        class Mine(Estimator):
            draws: int = 1

    assert named("estimators", "backprop") is Backprop  # the first one stays


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(UsageError, match="Did you mean 'backprop'"):
        named("estimators", "backprob")
    with pytest.raises(UsageError, match=r"Known: augmented, (averaged, )?backprop"):
        named("estimators", "zzzzzz")


# ------------------------------------------------------------------------------------------------------ a user's file

BUILD = "def build():\n    return 1\n"


def test_a_file_is_loaded_once_per_content(tmp_path):
    file = write(tmp_path, mine=BUILD)
    first = load_file(file)
    assert load_file(str(file)) is first and load_name(file, "build")() == 1
    file.write_text("def build():\n    return 2\n")
    assert load_name(file, "build")() == 2
    assert str(tmp_path) not in sys.path


def test_a_file_that_cannot_be_loaded_says_why(tmp_path):
    with pytest.raises(UsageError, match=r"No file .*Write the path of a Python file"):
        load_file(tmp_path / "none.py")
    with pytest.raises(UsageError, match=r"not a Python file"):
        (tmp_path / "mine.txt").write_text("x = 1")
        load_file(tmp_path / "mine.txt")
    for text, message in (
        ("def build(:\n", "SyntaxError"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("import not_there_at_all\n", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
    ):
        file = write(tmp_path, mine=text)
        with pytest.raises(UsageError, match=message):
            load_file(file)
        with pytest.raises(UsageError, match=message):  # no half-made module is kept
            load_file(file)
        assert str(tmp_path) not in sys.path


def test_an_unknown_name_lists_what_the_file_has(tmp_path):
    file = write(tmp_path, mine=BUILD + "from math import sqrt\nclass Net: pass\nlimit = 3\n")
    with pytest.raises(UsageError, match=r"has no 'make'. It has: Net, build. Write mine.py:NAME"):
        load_name(file, "make")
    with pytest.raises(UsageError, match="defines no function or class"):
        load_name(write(tmp_path, mine="x = 1\n"), "make")


def test_a_file_can_register_parts_and_be_edited(tmp_path):
    text = """
import robassay as ra
@ra.part
class Mine(ra.Attack):
    access = None
    steps: int = {steps}
    def __call__(self, access, x, goal, threat, rng):
        return x
"""
    file = write(tmp_path, mine=text.format(steps=3))
    assert load_name(file, "Mine")().steps == 3
    file.write_text(text.format(steps=4))  # edited in a running session: the new one takes the name
    assert load_name(file, "Mine")().steps == 4 and named("attacks", "mine")().steps == 4
    other = tmp_path / "other.py"
    other.write_text(text.format(steps=5))
    with pytest.raises(UsageError, match="attacks 'mine' is already"):
        load_file(other)
    assert issubclass(named("attacks", "mine"), Attack)


IMPORTS = {
    "plain": ("import helper\n", "helper"),
    "from": ("from helper import value\n", "helper"),
    "as": ("import helper as h\n", "helper"),
    "in a function": ("def build():\n    import helper\n", "helper"),
    "indirect": ("import between\n", "helper"),
    "module of a package": ("import pack.inner\n", "pack___inner"),
    "a package's own file": ("import pack.inner\n", "pack___INIT"),
    "name from a package": ("from pack import inner\n", "pack___inner"),
    "name from a deep module": ("from pack.inner import value\n", "pack___INIT"),
    "relative, in the package": ("import pack.asks\n", "pack___inner"),
    "relative, up": ("import pack.up\n", "pack___INIT"),
    "of the package itself": ("import pack.sibling\n", "pack___inner"),
}


@pytest.mark.parametrize(("line", "changed"), IMPORTS.values(), ids=IMPORTS)
def test_the_digest_covers_what_is_imported_from_the_own_folder(tmp_path, line, changed):
    files = {
        "mine": line + BUILD,
        "helper": "value = 1\n",
        "between": "from helper import value\n",
        "pack___INIT": "depth = 1\n",
        "pack___inner": "value = 1\n",
        "pack___asks": "from .inner import value\n",
        "pack___up": "from . import depth\n",
        "pack___sibling": "from . import inner\n",
        "unrelated": "value = 1\n",
    }
    file = write(tmp_path, **files)
    before = source_digest(file)
    assert source_digest(file) == before and len(before) == 16
    write(tmp_path, unrelated="value = 2\n")
    assert source_digest(file) == before
    write(tmp_path, **{changed: files[changed] + "# changed\n"})
    assert source_digest(file) != before


def test_the_digest_is_of_the_content_not_of_the_place(tmp_path):
    a = write(tmp_path / "a", mine="import helper\n", helper="x = 1\n")
    b = write(tmp_path / "b", mine="import helper\n", helper="x = 1\n")
    assert source_digest(a) == source_digest(b)
    write(tmp_path / "b", helper="x = 2\n")
    assert source_digest(a) != source_digest(b)


def test_the_helper_that_runs_is_the_one_in_the_digest(tmp_path, monkeypatch):
    """Another folder's helper of the same name, or an older version, must not be taken for this one's."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    text = "import helper\ndef build():\n    return helper.value\n"
    a = write(tmp_path / "a", mine=text, helper="value = 1\n")
    b = write(tmp_path / "b", mine=text, helper="value = 2\n")
    assert load_name(a, "build")() == 1
    assert load_name(b, "build")() == 2
    assert load_name(a, "build")() == 1
    write(tmp_path / "b", helper="value = 3\n")  # the same size, within the same second
    assert load_name(b, "build")() == 3
    assert not list(tmp_path.rglob("*.pyc"))


def test_a_class_of_a_helper_is_still_found_by_name_after_another_file_was_run(tmp_path):
    """A study's attack lies in a file beside it, and is pickled for a worker after the network's file was run."""
    study = write(tmp_path, mine="from halver import Halver\n", halver="class Halver:\n    pass\n")
    write(tmp_path, network="def build():\n    return 1\n")
    halver = load_name(study, "Halver")
    load_file(tmp_path / "network.py")
    assert pickle.loads(pickle.dumps(halver)) is halver
    other = write(tmp_path / "other", mine="from halver import Halver\n", halver="class Halver:\n    here = 1\n")
    assert load_name(other, "Halver").here == 1, "another folder's is read anew, and takes its place"
    assert pickle.loads(pickle.dumps(load_name(other, "Halver"))).here == 1


def test_a_helper_does_not_displace_an_installed_module(tmp_path):
    import json

    file = write(tmp_path, mine="import json\ndef build():\n    return json.dumps([1])\n", json="dumps = str\n")
    load_name(file, "build")
    load_file(write(tmp_path / "b", mine=BUILD))
    assert sys.modules["json"] is json and json.dumps({"a": 1}) == '{"a": 1}'
