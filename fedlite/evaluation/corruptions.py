"""Records as they come on a worse day: what of a model's score is left.

They are corrupted as the model reads them, so that a severity means the same whatever the units:
of a table in shares of a feature's standard deviation, of images in shares of their range.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedlite.data import Dataset
from fedlite.scenario.tabular import Columns

SEVERITIES = (1, 2, 3)
Values = NDArray[np.float32]
# One that has several features has one for each of its values: they change together.
Parts = list[NDArray[np.int64]]
_Table = Callable[[Values, Parts, int, np.random.Generator], Values]
_Image = Callable[[Values, float, float, int, np.random.Generator], Values]


def _noise(x: Values, parts: Parts, severity: int, rng: np.random.Generator) -> Values:
    """Gaussian noise of 0.25, 0.5 and 1 standard deviation on every column of numbers."""
    spread = (0.25, 0.5, 1.0)[severity - 1] * x.std(axis=0)
    moved = x.copy()
    for part in parts:
        if len(part) == 1:
            at = part[0]
            moved[:, at] += spread[at] * rng.standard_normal(len(x)).astype(np.float32)
    return moved


def _missing(x: Values, parts: Parts, severity: int, rng: np.random.Generator) -> Values:
    """A tenth, a quarter and a half of the cells are missing: the model reads 0 there."""
    moved = x.copy()
    for part in parts:
        gone = rng.random(len(x)) < (0.1, 0.25, 0.5)[severity - 1]
        moved[np.ix_(gone, part)] = 0.0
    return moved


def _shift(x: Values, parts: Parts, severity: int, rng: np.random.Generator) -> Values:
    """Every column of numbers is 0.25, 0.5 and 1 standard deviation higher or lower throughout."""
    spread = (0.25, 0.5, 1.0)[severity - 1] * x.std(axis=0)
    moved = x.copy()
    for part in parts:
        if len(part) == 1:
            at = part[0]
            moved[:, at] += spread[at] * np.float32(rng.choice((-1.0, 1.0)))
    return moved


def _swap(x: Values, parts: Parts, severity: int, rng: np.random.Generator) -> Values:
    """A twentieth, a tenth and a fifth of the cells hold another record's value."""
    moved = x.copy()
    for part in parts:
        wrong = np.flatnonzero(rng.random(len(x)) < (0.05, 0.1, 0.2)[severity - 1])
        moved[np.ix_(wrong, part)] = x[np.ix_(rng.integers(0, len(x), len(wrong)), part)]
    return moved


def _grain(x: Values, low: float, high: float, severity: int, rng: np.random.Generator) -> Values:
    """Gaussian noise of 0.04, 0.08 and 0.16 of the range."""
    spread = (0.04, 0.08, 0.16)[severity - 1] * (high - low)
    return x + (spread * rng.standard_normal(x.shape)).astype(np.float32)


def _blur(x: Values, low: float, high: float, severity: int, rng: np.random.Generator) -> Values:
    """A Gaussian blur whose width is 2, 4 and 6 % of the longer side."""
    from scipy.ndimage import gaussian_filter

    width = (0.02, 0.04, 0.06)[severity - 1] * max(x.shape[2:])
    found: Values = gaussian_filter(x, (0, 0, width, width), mode="nearest")
    return found


def _contrast(
    x: Values, low: float, high: float, severity: int, rng: np.random.Generator
) -> Values:
    """Every image's values are drawn to its mean: 0.6, 0.4 and 0.2 of their distance is left."""
    middle = x.mean(axis=(1, 2, 3), keepdims=True)
    found: Values = middle + np.float32((0.6, 0.4, 0.2)[severity - 1]) * (x - middle)
    return found


def _brightness(
    x: Values, low: float, high: float, severity: int, rng: np.random.Generator
) -> Values:
    """All values are 0.1, 0.2 and 0.3 of the range higher."""
    return x + np.float32((0.1, 0.2, 0.3)[severity - 1] * (high - low))


def _rotation(
    x: Values, low: float, high: float, severity: int, rng: np.random.Generator
) -> Values:
    """Images are turned by 10, 20 and 30 degrees, half of them to the left."""
    from scipy.ndimage import rotate

    angle, moved = (10.0, 20.0, 30.0)[severity - 1], x.copy()
    left = rng.random(len(x)) < 0.5
    for side, sign in ((left, 1.0), (~left, -1.0)):
        if side.any():
            moved[side] = rotate(
                x[side], sign * angle, axes=(3, 2), reshape=False, order=1, mode="nearest"
            )
    return moved


_TABLE: dict[str, _Table] = {
    "noise": _noise,
    "missing": _missing,
    "shift": _shift,
    "swap": _swap,
}
_IMAGE: dict[str, _Image] = {
    "noise": _grain,
    "blur": _blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "rotation": _rotation,
}


def known(shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return the corruptions of records of this shape: of images [channels, height, width], or of
    rows of numbers.

    >>> known((4,)), known((1, 8, 8))[-1]
    (('noise', 'missing', 'shift', 'swap'), 'rotation')
    """
    return tuple(_IMAGE if len(shape) == 3 else _TABLE)


def meaning(name: str, shape: tuple[int, ...]) -> str:
    """Return what a corruption does at its three severities, in words."""
    of: dict[str, _Image] | dict[str, _Table] = _IMAGE if len(shape) == 3 else _TABLE
    return " ".join((of[name].__doc__ or "").split())


def chosen(text: str, shape: tuple[int, ...], *, texts: bool = False) -> tuple[str, ...]:
    """Return the corruptions that a text names, split by commas; `all` of them.

    Raises ValueError for one that records of this shape do not have; texts have none.
    """
    there = known(shape)
    if text.strip() and texts:
        raise ValueError(
            "--corrupt: is for tables and pictures, and the model reads texts, got "
            f"{text!r}; leave it out"
        )
    if text.strip() == "all":
        return there
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in found:
        if name not in there:
            raise ValueError(
                f"--corrupt: must be among {', '.join(there)} for records of shape {list(shape)}, "
                f"or all, got {name!r}; leave it out"
            )
    return tuple(dict.fromkeys(found))


def corrupt(data: Dataset, name: str, severity: int, reading: Columns | None = None) -> Dataset:
    """Return the records corrupted; the same call always draws the same.

    data: as the model reads them. severity: from 1 to 3. reading: which features are of one column.
    """
    # The same draws at every severity: a higher one spoils what a lower one spoils, and more.
    rng = np.random.default_rng(known(data.x.shape[1:]).index(name))
    x = data.x.astype(np.float32)
    if x.ndim == 4:
        low, high = float(x.min()), float(x.max())
        moved = np.clip(_IMAGE[name](x, low, high, severity, rng), low, high)
        return replace(data, x=moved.astype(np.float32))
    flat = x.reshape(len(x), -1)
    moved = _TABLE[name](flat, _parts(flat.shape[1], reading), severity, rng)
    return replace(data, x=moved.reshape(x.shape))


def _parts(width: int, reading: Columns | None) -> Parts:
    """Return the features of each column."""
    if reading is None or reading.width != width:
        return [np.array([at]) for at in range(width)]
    found, at, listed = [], 0, dict(reading.categories)
    for name in reading.names:
        size = len(listed.get(name, "1"))
        found.append(np.arange(at, at + size))
        at += size
    return found
