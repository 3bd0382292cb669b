"""A user's own network as a model cell: from a Python file and a weights file, or an object in memory."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import sys
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as load_safetensors
from torch import Tensor, nn

from robassay.adapters import Adapted, recognised
from robassay.cell import Arrays, Context, Model, cell
from robassay.cells import Examples
from robassay.classifier import Classifier, Wrapped
from robassay.data import Images, check_images, pixels
from robassay.errors import AttackWarning, RobassayError, UsageError
from robassay.probe import Findings, as_classifier, changing, probe
from robassay.registry import content_digest, here, importable, load_name, source_digest
from robassay.rng import Stream

PROBE_IMAGES = 8
PROBABILITIES = (
    "the model returns probabilities (each row is non-negative and adds up to 1), not logits: their logarithms are "
    "audited. Where the softmax has rounded to 0 or 1 they carry no gradient: return what goes into it instead."
)
M = TypeVar("M", bound=nn.Module)


@cell
class Given(Model):
    """A network that a user's ``build()`` returns, with weights from a file.

    Identity is the content: the file with the modules it imports from its own folder, the name, the weights.

    Args:
        digest: of the Python file; see :func:`~robassay.registry.source_digest`.
        build: name of the function without arguments that returns the network.
        weights_digest: of the weights file; empty when there is none.
        on: a few images to find out on what the network is.
        file, weights: where they lie; not identity.
        words: what a report says of an adapted network; not identity.
        split: the submodule at whose output a random network is cut; "" where it is found, "none" for no cut.
    """

    version = 2

    digest: str
    build: str
    weights_digest: str
    on: Examples
    file: str = field(default="", metadata={"key": False})
    weights: str | None = field(default=None, metadata={"key": False})
    words: str = field(default="", metadata={"key": False})
    split: str = ""

    def compute(self, ctx: Context) -> Arrays:
        return _found(self.network(ctx.device), self.on, ctx.device, self.split)

    def open(self, ctx: Context) -> Classifier:
        return as_classifier(self.network(ctx.device), _read(ctx, self), _images(self.on, ctx.device))

    def seeded(self) -> Stream:
        """What a build() that draws its weights draws them from."""
        return Stream(("given", self.digest))

    def network(self, device: torch.device) -> nn.Module:
        """What ``build()`` returns, with the weights, in eval mode.

        Raises:
            UsageError: it cannot be called, raises, returns no module, or the weights are not for it.
        """
        make = load_name(self.file, self.build)
        _check_build(make, self.file, self.build)
        # A build() that draws its weights draws the same ones each time, and may import modules beside its file.
        with self.seeded().active(), importable(here(self.file)):
            try:
                module = make()
            except RobassayError:
                raise
            except Exception as error:
                raise UsageError(
                    f"{self.build}() of {self.file} fails{_where(error, make)}: "
                    f"{type(error).__name__}: {error}. Mend it there; "
                    f'python -c "import {Path(self.file).stem} as m; m.{self.build}()" shows the same.'
                ) from error
        if not isinstance(module, nn.Module):
            raise UsageError(
                f"{self.file}:{self.build} returned a {type(module).__name__}; it must return a torch.nn.Module that "
                "maps images in [0,1] to logits."
            )
        if self.weights is not None:
            load_weights(module, here(self.weights))
        return recognised(module, self.on.data.shape).to(device).eval()


def _check_build(make: object, file: str, build: str) -> None:
    """Whether ``make`` is what can be called without arguments and may return a module."""
    if isinstance(make, nn.Module):
        raise UsageError(
            f"{file}:{build} is a module, not a function that returns one. Write def build(): return {build}, and name "
            f"{Path(file).name}:build."
        )
    if not callable(make):
        raise UsageError(f"{file}:{build} is a {type(make).__name__}. Write def build(): that returns your module.")
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise UsageError(
            f"{file}:{build} could not be called as {build}(): {error}. Give its arguments default values, or write "
            f"def build(): return {build}(…), and name {Path(file).name}:build."
        ) from error
    except ValueError:  # one without a signature: calling it will tell
        pass


def _where(error: Exception, make: object) -> str:
    """The last line of the file of ``make`` that an error came through."""
    file = getattr(sys.modules.get(getattr(make, "__module__", "")), "__file__", None)
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f" in line {lines[-1]}" if lines else ""


def given(file: str, build: str, weights: str | None, on: Examples, split: str = "") -> Given:
    """The cell of ``file:build`` with ``weights``, identified by content; ``on`` gives the probing images.

    ``split`` names the submodule at whose output a random network is cut, see :func:`~robassay.cut.named_cut`.

    Raises:
        UsageError: no such file, no such function, no such weights, or weights that do not fit.
    """
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"No file '{file}'. Write the path of a Python file, such as model.py:build.")
    load_name(path, build)
    digest = ""
    if weights is not None:
        if not Path(weights).is_file():
            raise UsageError(f"No weights file '{weights}'. Write --weights FILE.safetensors.")
        digest = content_digest(Path(weights).read_bytes())
        weights = str(Path(weights).resolve())
    made = Given(source_digest(path), build, digest, _few(on), str(path.resolve()), weights, split=split)
    return dataclasses.replace(made, words=words_of(made.network(torch.device("cpu"))))


def words_of(module: nn.Module | None) -> str:
    """What a report says of an adapted spiking network; nothing of others."""
    return module.words() if isinstance(module, Adapted) else ""


@cell
class Held(Model):
    """A network that the caller holds in memory; only cells computed in the caller's own process can use it."""

    version = 2

    digest: str
    on: Examples
    module: nn.Module | None = field(default=None, metadata={"key": False}, repr=False)
    split: str = ""

    def compute(self, ctx: Context) -> Arrays:
        return _found(self._module(), self.on, ctx.device, self.split)

    def open(self, ctx: Context) -> Classifier:
        return as_classifier(self._module().to(ctx.device), _read(ctx, self), _images(self.on, ctx.device))

    def _module(self) -> nn.Module:
        assert self.module is not None
        return self.module.eval()


def held(module: nn.Module, on: Examples, split: str = "") -> Held:
    """The cell of a network in memory, identified by its weights, settings, printed form and its classes' source.

    ``split`` is as in :func:`given`.
    """
    module = recognised(module, on.data.shape)
    digest = hashlib.sha256(repr(module).encode())
    for name, child in module.named_modules():
        digest.update(f"{name}\x1f{_settings(child)}\x1f{_source(type(child))}\x1e".encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return Held(digest.hexdigest()[:16], _few(on), module, split)


def _settings(module: nn.Module) -> list[tuple[str, str]]:
    """Plain attributes of one module: a scale or a noise level is in neither the state dict nor the printed form."""
    kept = (bool, int, float, str, tuple, list, type(None))
    own = {n: v for n, v in vars(module).items() if isinstance(v, kept) and n != "training"}
    return sorted((n, repr(v)) for n, v in own.items())


def _source(cls: type) -> str:
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        return f"{cls.__module__}.{cls.__qualname__}"


@dataclass(frozen=True)
class HeldData:
    """Images that the caller holds in memory, as a data set with a "test" split."""

    checksum: str
    name: str = field(default="images in memory", metadata={"key": False})
    classes: int = field(default=0, metadata={"key": False})
    shape: tuple[int, int, int] = field(default=(0, 0, 0), metadata={"key": False})
    note: str = field(default="", metadata={"key": False})
    images: Images | None = field(default=None, metadata={"key": False}, repr=False, compare=False)

    def split(self, name: str) -> Images:
        """The images, whatever split is asked for."""
        assert self.images is not None
        return self.images


def held_data(x: Tensor, y: Tensor) -> HeldData:
    """Images ``x`` float in [0,1] or uint8 (N, C, H, W) with labels ``y`` int64 (N,) as a data set.

    Floats are rounded to 8 bits, as every image a user can be shown has them.

    Raises:
        UsageError: values outside [0,1], NaN, or shapes and types that do not fit.
    """
    check_images(x, y)
    stored = x.detach().cpu() if x.dtype == torch.uint8 else (x.detach().cpu() * 255).round().to(torch.uint8)
    labels = y.detach().cpu()
    digest = hashlib.sha256(stored.contiguous().numpy().tobytes() + labels.contiguous().numpy().tobytes())
    return HeldData(
        digest.hexdigest()[:16],
        classes=int(labels.max()) + 1,
        shape=(stored.shape[1], stored.shape[2], stored.shape[3]),
        images=Images(stored, labels),
    )


def _few(on: Examples) -> Examples:
    stop = min(on.stop, on.start + PROBE_IMAGES)
    return type(on)(on.data, on.split, on.start, stop)


def _images(on: Examples, device: torch.device) -> Tensor:
    return pixels(on.load().x).to(device)


def _found(module: nn.Module, on: Examples, device: torch.device, split: str) -> Arrays:
    module = module.to(device)
    if isinstance(module, Classifier) and split:
        raise UsageError(
            f"split='{split}' is for modules that do not say themselves where their noise begins, and this one is a "
            f"{type(module).__name__}. Leave split out."
        )
    found = probe(module, _images(on, device), split)
    if isinstance(module, Classifier):  # made for robassay: it says itself what it is; only the rest is probed
        found = found._replace(classes=module.classes, stochastic=module.stochastic, coupled=module.coupled)
    if isinstance(module, Wrapped) or not isinstance(module, Classifier):
        _warn(module, found, _images(on, device))
    return {name: torch.tensor(int(value)) for name, value in found._asdict().items()}


def _warn(module: nn.Module, found: Findings, x: Tensor) -> None:
    """Say what a reader of the figures has to know of a user's module."""
    if found.probabilities:
        warnings.warn(PROBABILITIES, AttackWarning, stacklevel=2)
    if not found.reproducible:
        names = changing(module, x)
        what = f"its forward changes {', '.join(names)}" if names else "it draws from a generator of its own"
        warnings.warn(
            f"the model keeps state between calls or seeds itself ({what}): equal seeds do not give equal logits, so "
            "that figures cannot be reproduced to the bit.",
            AttackWarning,
            stacklevel=2,
        )


def _read(ctx: Context, model: Model) -> Findings:
    stored = {name: int(value) for name, value in ctx.load(model).items()}
    classes, split = stored.pop("classes"), stored.pop("split")
    return Findings(classes, **{name: bool(value) for name, value in stored.items()})._replace(split=split)


def load_weights(module: M, path: str | Path) -> M:
    """Load a state dict from ``.safetensors``, or from a ``.pt``/``.pth`` file read with ``weights_only=True``.

    Raises:
        UsageError: an unreadable file, a file that would need unpickling of objects, or shapes that do not fit.
    """
    state = _read_weights(Path(path))
    target: nn.Module = module
    if isinstance(module, Adapted) and not all(name.startswith("module.") for name in state):
        target = module.module  # the file is of the framework's own network
    own = target.state_dict()
    missing = [name for name in own if name not in state]
    extra = [name for name in state if name not in own]
    differing = [
        f"{name} is {tuple(state[name].shape)} in the file and {tuple(own[name].shape)} in the network"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    if missing or extra or differing:
        faults = [*differing]
        faults += [f"the file lacks {_few_names(missing)}"] if missing else []
        faults += [f"the network lacks {_few_names(extra)}"] if extra else []
        raise UsageError(
            f"the weights in '{path}' are not for this network: {'; '.join(faults[:6])}. "
            "Give the weights that belong to what build() returns."
        )
    target.load_state_dict(state)
    return module


def _few_names(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _read_weights(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_safetensors(path)
        except (SafetensorError, OSError) as error:
            raise UsageError(f"'{path}' is not a readable safetensors file ({error}). Save it again.") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(
            f"'{path}' cannot be read as plain tensors: torch.load with weights_only=True refuses it. A pickle can run "
            "any code, so it is not opened. Convert it once, "
            "where you trust it:\n"
            "    model = torch.load('model.pt', weights_only=False)\n"
            "    safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UsageError(
            f"'{path}' holds a {type(state).__name__}, not a state dict of tensors. Save model.state_dict()."
        )
    return state
