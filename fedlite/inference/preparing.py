"""Raw numbers as a bundle's model reads them, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Numbers:
    """How raw numbers are prepared.

    how: what `bundle.json` says under `preprocessing`. shape: of an input.
    """

    def __init__(self, how: Mapping[str, Any], shape: tuple[int, ...]) -> None:
        """Raise ValueError where inputs could not be prepared so, or would be turned around."""
        self._how, self._shape = how, shape
        try:
            fits = bool((_width(how) > 0).all())
            self.prepared(np.zeros((1, *shape)))
        except (KeyError, TypeError, ValueError):
            fits = False
        if not fits:
            raise ValueError(
                "preprocessing must be of the kind none, ranges, low below high, or standardize, "
                "spreads above 0, each of the shape of an input, or text"
            )

    def single(self, x: ArrayLike) -> NDArray[Any]:
        """Return one input [*shape] as a batch of one."""
        return np.asarray(x)[None]

    def prepared(self, x: ArrayLike, *, missing: bool = False) -> NDArray[np.float32]:
        """Return inputs as the model reads them; see `fedlite.inference.bundle.Bundle.predict`."""
        given, how = np.asarray(x), self._how
        # Whole numbers are of another range than what came scaled already.
        if given.dtype.kind not in ("fiub" if how["fills"] else "f"):
            raise ValueError(
                f"x: must hold floating-point numbers, scaled as the model's own records were, got "
                f"{given.dtype}; convert it"
            )
        if given.shape[1:] != self._shape or not len(given):
            wanted = ", ".join(map(str, ("n", *self._shape)))
            raise ValueError(
                f"x: must have the shape [{wanted}], n at least 1, got {list(given.shape)}; "
                "reshape it, an input a row"
            )
        wide = given if how["kind"] == "none" else given.astype(np.float64)
        allowed = missing and how["fills"]
        wrong = np.isinf(wide) if allowed else ~np.isfinite(wide)
        if wrong.any():
            row = int(np.flatnonzero(wrong.reshape(len(wide), -1).any(axis=1))[0])
            mend = "; predict(x, missing=True) fills in NaN" if how["fills"] and not missing else ""
            raise ValueError(
                f"x: must be finite, and row {row} has NaN or infinity; correct it{mend}"
            )
        if how["kind"] == "standardize":
            # None, which becomes NaN, is the mean of what was missing throughout.
            wide = (wide - np.array(how["mean"], np.float64)) / np.array(how["spread"])
        elif how["kind"] == "ranges":
            low, high = np.array(how["low"]), np.array(how["high"])
            wide = (np.clip(wide, low, high) - low) * (2 / (high - low)) - 1
        with np.errstate(over="ignore"):
            prepared: NDArray[np.float32] = wide.astype(np.float32)
        # What is missing is NaN still, and a number too large for float32 has become infinity.
        if np.isinf(prepared).any():
            row = int(np.flatnonzero(np.isinf(prepared).reshape(len(wide), -1).any(axis=1))[0])
            raise ValueError(f"x: must fit into float32, and row {row} has larger; correct it")
        return np.nan_to_num(prepared, nan=0.0)


def _width(how: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return by what values are divided as they are prepared."""
    if how["kind"] == "ranges":
        return np.asarray(how["high"], np.float64) - np.asarray(how["low"], np.float64)
    return np.asarray({"none": 1.0, "standardize": how.get("spread")}[how["kind"]], np.float64)
