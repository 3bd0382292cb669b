"""Augmentations, against images changed by hand and SciPy's affine transformation."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from test_distillation import Teacher
from test_recipe import RNG, by_hand, digits, sgd, trained
from torch import Tensor

from robassay.augment import PUBLISHED, Affine, Augmentation, Crop, Flip, skew, turn, warp
from robassay.cell import describe
from robassay.data import pixels
from robassay.errors import UsageError
from robassay.recipe import Recipe
from robassay.rng import Stream
from robassay.studies import listing

X = torch.rand(12, 3, 9, 14, generator=torch.Generator().manual_seed(0))
EYE = torch.eye(2, dtype=torch.float64)
ALL = (Crop(3), Flip(), Affine(20.0, 10.0, 0.3, 3.0))


def moved(x: Tensor, linear: Tensor, shift: tuple[float, float]) -> Tensor:
    return warp(x, linear.expand(len(x), 2, 2), torch.tensor([shift], dtype=torch.float64).expand(len(x), 2))


def angle(degrees: float) -> Tensor:
    return torch.tensor([math.radians(degrees)], dtype=torch.float64)


@pytest.mark.parametrize("nothing", [Crop(0), Flip(0.0), Affine(0.0, 0.0, 0.0, 0.0)])
def test_no_change_is_none_bit_for_bit(nothing: Augmentation) -> None:
    assert torch.equal(nothing(X, RNG), X)
    hard = (torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(4)) < 0.5).float()
    assert torch.equal(nothing(hard, RNG), hard)


@pytest.mark.parametrize("change", ALL)
def test_changes_are_drawn_from_the_stream_alone(change: Augmentation) -> None:
    state, before = torch.get_rng_state(), X.clone()
    first, again, other = change(X, RNG), change(X, RNG), change(X, RNG.child("other"))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(X, before)
    assert first.shape == X.shape and first.dtype == X.dtype and first.is_contiguous()
    assert first.min() >= 0 and first.max() <= 1


@pytest.mark.parametrize("change", ALL)
def test_every_image_changes_by_itself_and_stays_in_its_row(change: Augmentation) -> None:
    same = change(X[:1].expand(40, -1, -1, -1), RNG)
    assert len({image.numpy().tobytes() for image in same}) > 1
    # The brightness of an image says which it is, whatever is done to it; a black border only takes away.
    levels = torch.arange(1, 13).view(12, 1, 1, 1) / 12
    found = change(levels.expand(12, 3, 9, 14).contiguous(), RNG)
    assert torch.allclose(found.amax((1, 2, 3)), levels.flatten())


def test_a_window_is_one_of_the_padded_images() -> None:
    padded = torch.zeros(12, 3, 9 + 4, 14 + 4)
    padded[:, :, 2:-2, 2:-2] = X
    found, corners = Crop(2)(X, RNG), set()
    for image, around in zip(found, padded, strict=True):
        fits = [(r, c) for r in range(5) for c in range(5) if torch.equal(around[:, r : r + 9, c : c + 14], image)]
        assert len(fits) == 1
        corners.add(fits[0])
    assert len(corners) > 6
    many = Crop(1)(torch.ones(3000, 1, 3, 3), RNG)
    black = [(many[:, 0, 0] == 0).all(1), (many[:, 0, 2] == 0).all(1), (many[:, 0, :, 0] == 0).all(1)]
    # Each of the three places has probability 1/3: within 4.5 standard deviations.
    assert all(abs(side.double().mean() - 1 / 3) < 0.039 for side in black)


def test_a_flip_is_a_mirror() -> None:
    assert torch.equal(Flip(1.0)(X, RNG), X.flip(3))
    many = Flip(0.25)(torch.tensor([[[[0.0, 1.0]]]]).expand(4000, 1, 1, 2), RNG)
    assert abs((many[:, 0, 0, 0] == 1).double().mean() - 0.25) < 4.5 * math.sqrt(0.25 * 0.75 / 4000)


def test_a_quarter_turn_is_that_of_rot90() -> None:
    square = X[:, :, :, :9]
    for degrees, turns in ((90.0, -1), (-90.0, 1), (180.0, 2)):
        found = moved(square, turn(angle(degrees)), (0, 0))
        assert torch.allclose(found, torch.rot90(square, turns, (2, 3)), atol=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (2, 0), (-3, 0), (0, 5), (1, -4), (-8, 13)])
def test_whole_pixels_shift_and_the_border_is_mirrored(rows: int, columns: int) -> None:
    def place(i: int, n: int) -> int:
        i %= 2 * n
        return i if i < n else 2 * n - 1 - i

    taken = X[:, :, [place(i + rows, 9) for i in range(9)]][..., [place(j + columns, 14) for j in range(14)]]
    assert torch.allclose(moved(X, EYE, (rows, columns)), taken, atol=1e-6)


def test_zoom_and_shear_move_what_they_say() -> None:
    ramp = torch.arange(9.0).view(1, 1, 9, 1) / 100 + torch.arange(14.0) / 10
    ramp = ramp / 2
    centred = torch.arange(9.0) - 4
    wide = moved(ramp, torch.diag(torch.tensor([0.5, 1.0], dtype=torch.float64)), (0, 0))
    assert torch.allclose(wide[0, 0], ramp[0, 0, 4] + centred[:, None] * 0.5 / 200, atol=1e-6)
    lean = moved(ramp, skew(angle(10.0)), (0, 0))[0, 0, 4, 7]  # row 4 is the centre, column 7 half a pixel off it
    row, column = -0.5 * math.sin(math.radians(10)), 0.5 * math.cos(math.radians(10))
    assert lean.item() == pytest.approx(ramp[0, 0, 4, 6].item() + row / 200 + (column + 0.5) / 20, abs=1e-6)


def test_the_warp_is_scipys() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    generator = torch.Generator().manual_seed(3)
    linear = EYE + 0.4 * torch.randn(12, 2, 2, generator=generator, dtype=torch.float64)
    shift = 6 * torch.randn(12, 2, generator=generator, dtype=torch.float64)
    found, centre = warp(X, linear, shift).numpy(), np.array([4.0, 6.5])
    for i in range(12):
        offset = centre + shift[i].numpy() - linear[i].numpy() @ centre
        for channel in range(3):
            image = X[i, channel].double().numpy()
            expected = ndimage.affine_transform(image, linear[i].numpy(), offset, order=1, mode="reflect")
            assert np.abs(found[i, channel] - expected).max() < 1e-6


def test_parameters_are_uniform_in_their_ranges_and_composed_as_keras_does(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr("robassay.augment.warp", lambda x, linear, shift: taken.append((linear, shift)) or x)
    Affine(30.0, 20.0, 0.25, 5.0)(torch.zeros(4000, 1, 2, 2), RNG)
    linear, shift = taken[0]
    theta = torch.atan2(linear[:, 1, 0], linear[:, 0, 0])
    rest = turn(-theta) @ linear  # shear · zoom
    unturned = (turn(-theta) @ shift[:, :, None])[:, :, 0]
    shear = torch.atan2(-rest[:, 0, 1], rest[:, 1, 1])
    zooms = rest[:, 0, 0], rest[:, 1, 1] / shear.cos()
    assert rest[:, 1, 0].abs().max() < 1e-12
    ranges = ((theta.rad2deg(), 30), (shear.rad2deg(), 20), (zooms[0] - 1, 0.25), (zooms[1] - 1, 0.25))
    draws = [value / most for value, most in (*ranges, (unturned[:, 0], 5), (unturned[:, 1], 5))]
    for u in draws:
        assert u.abs().max() <= 1 + 1e-9 and abs(u.mean()) < 0.041 and abs(u.square().mean() - 1 / 3) < 0.022
    assert (torch.corrcoef(torch.stack(draws)) - torch.eye(6)).abs().max() < 0.08


# ---------------------------------------------------------------------------------------------------- in the recipe


def test_training_sees_changed_images_and_the_teacher_those_as_they_are(tmp_path: Path) -> None:
    mirrored = pixels(digits()[0].x).flip(3)
    recipe = sgd(epochs=2, temperature=4.0, lr=8.0, augment=(Flip(1.0),))
    weight = trained(recipe, tmp_path, teacher=Teacher())
    soft = (Teacher().quiet(pixels(digits()[0].x)).double() / 4).softmax(1)
    assert torch.allclose(weight, by_hand([8.0] * 4, temperature=4.0, soft=soft, x=mirrored), atol=1e-5)


class Watcher(Augmentation):
    """Changes nothing; remembers its streams."""

    streams: list[Stream] = []  # noqa: RUF012

    def __call__(self, x: Tensor, rng: Stream) -> Tensor:
        self.streams.append(rng)
        return x


def test_every_step_and_every_augmentation_has_numbers_of_its_own(tmp_path: Path) -> None:
    Watcher.streams.clear()
    trained(sgd(epochs=2, augment=(Watcher(), Watcher())), tmp_path)
    assert len(Watcher.streams) == len(set(Watcher.streams)) == 8


def test_only_its_use_changes_the_name_of_a_recipe() -> None:
    assert "augment" not in describe(Recipe())
    assert describe(Recipe(augment=(Crop(), Flip(0.3))))["augment"] == [
        {"type": "Crop"},
        {"type": "Flip", "chance": "0.3"},
    ]
    assert {"crop", "flip", "affine"} <= {e["name"] for e in listing("augmentations")}
    assert (
        PUBLISHED["cifar10"] == (Affine(), Flip())
        and dataclasses.replace(Affine(), shift=4.0) in PUBLISHED["mnist, code"]
    )


def test_impossible_settings_are_refused() -> None:
    for make in (lambda: Crop(-1), lambda: Flip(1.5), lambda: Affine(rotation=-1), lambda: Affine(zoom=1.0)):
        with pytest.raises(UsageError, match="Write"):
            make()
    with pytest.raises(UsageError, match=r"augment=\(Crop\(\), Flip\(\)\)"):
        Recipe(augment=Crop())  # type: ignore[arg-type]
