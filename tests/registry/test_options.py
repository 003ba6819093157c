"""Options held against signatures, annotated and not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import pytest

from fedlite.models import tinyml
from fedlite.registry.options import fitting


def annotated(
    shape: Any,
    hidden: int = 8,
    *,
    rate: float = 0.5,
    name: str = "a",
    bias: bool = True,
    sizes: tuple[int, ...] = (),
    pair: tuple[int, str] | None = None,
    many: list[float] | None = None,
    kind: Literal["max", "mean"] = "max",
    free: Any = None,
    some: Sequence[str] = (),
) -> None: ...


def bare(shape, hidden=8, rate=0.5, name="a", bias=True, sizes=(), what=None):  # type: ignore[no-untyped-def]
    ...


@pytest.mark.parametrize(
    ("function", "given", "made"),
    [
        (annotated, {"hidden": 3, "rate": 1}, {"hidden": 3, "rate": 1.0}),
        (annotated, {"sizes": [1, 2], "pair": [1, "x"]}, {"sizes": (1, 2), "pair": (1, "x")}),
        (annotated, {"many": [1, 2.5]}, {"many": [1.0, 2.5]}),
        (annotated, {"kind": "mean", "free": [1]}, {"kind": "mean", "free": [1]}),
        (annotated, {"some": ["a"]}, {"some": ["a"]}),
        # The default of a number allows any number: it may just have been written short.
        (bare, {"hidden": 2.5, "rate": 1}, {"hidden": 2.5, "rate": 1.0}),
        (bare, {"sizes": [1], "what": "x"}, {"sizes": (1,), "what": "x"}),
        (lambda **anything: None, {"x": 1}, {"x": 1}),
        (lambda *shape, x=1: None, {"x": 2}, {"x": 2}),
        (tinyml.mlp, {"hidden": 64}, {"hidden": 64}),
    ],
)
def test_what_fits_is_given_as_it_is_wanted(
    function: Any, given: dict[str, Any], made: dict[str, Any]
) -> None:
    found = fitting(function, 2 if function is tinyml.mlp else 1, given, "o")
    assert found == made and {k: type(v) for k, v in found.items()} == {
        k: type(v) for k, v in made.items()
    }


@pytest.mark.parametrize(
    ("function", "given", "message"),
    [
        (annotated, {"hidden": "8"}, r"o.hidden: must be a whole number, .* got '8'"),
        (annotated, {"hidden": True}, r"o.hidden: must be a whole number.*got True"),
        (annotated, {"hidden": 1.0}, r"o.hidden: must be a whole number.*got 1.0"),
        (annotated, {"rate": "fast"}, r"o.rate: must be a number"),
        (annotated, {"name": 3}, r"o.name: must be text"),
        (annotated, {"bias": 1}, r"o.bias: must be true or false"),
        (annotated, {"sizes": 3}, r"o.sizes: must be a list of a whole number"),
        (annotated, {"sizes": [1.5]}, r"o.sizes: must be a list"),
        (annotated, {"pair": [1]}, r"o.pair: must be a list of a whole number, text"),
        (annotated, {"kind": "min"}, r"o.kind: must be one of 'max', 'mean'.*got 'min'"),
        (annotated, {"hiden": 3}, r"o.hiden: must be an option of annotated \(.*test_options.py, "
                                  r"line \d+\), got 3; did you mean hidden\?"),
        (annotated, {"shape": 3}, r"o.shape: must be an option"),
        (bare, {"hidden": "8"}, r"o.hidden: must be a number"),
        (bare, {"bias": 0}, r"o.bias: must be true or false"),
        (bare, {"sizes": "ab"}, r"o.sizes: must be a list"),
        (lambda shape: None, {"x": 1}, r"o.x: .*it takes none, so take it away"),
        (lambda shape, *, least: None, {}, r"o.least: must be set, .*; set o.least"),
        (lambda shape, least: None, {}, r"o.least: must be set"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_the_place(
    function: Any, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        fitting(function, 1, given, "o")
    assert re.search(r"test_options.py, line \d+", str(caught.value))


def test_what_is_given_by_name_is_no_option() -> None:
    def divide(source: Any, sites: int, *, seed: int, skew: float = 1.0) -> None: ...

    assert fitting(divide, 2, {"skew": 2}, "o", ["seed"]) == {"skew": 2.0}
    with pytest.raises(ValueError, match=r"o.seed: must be an option"):
        fitting(divide, 2, {"seed": 2}, "o", ["seed"])


def test_an_annotation_that_cannot_be_read_leaves_the_default() -> None:
    def odd(shape: Nowhere, hidden: int = 8) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert fitting(odd, 1, {"hidden": 3}, "o") == {"hidden": 3}
    with pytest.raises(ValueError, match="must be a number"):
        fitting(odd, 1, {"hidden": "x"}, "o")
