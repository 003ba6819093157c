"""A change of tensors as bytes: exact where it must be, close elsewhere, and bounded."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from fedlite.compression import NOTHING, Context
from fedlite.flower.change import decode, encode
from fedlite.flower.offer import compressor
from fedlite.flower.tensors import Tensors
from fedlite.scenario.keys import Link

DENSE = partial(compressor, Link("dense", error_feedback=False))
ROTATED = partial(compressor, Link("rotated-topk", density=0.1, error_feedback=False))
EDEN = partial(compressor, Link("eden", error_feedback=False))
Arrays = dict[str, np.ndarray[Any, Any]]


def model(seed: int = 0, size: int = 5000) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        "w": rng.normal(size=(size // 50, 50)).astype(np.float32),
        "b": rng.normal(size=50).astype(np.float16),
        "d": rng.normal(size=(4, 30)),
        "bn.running_var": rng.uniform(1, 2, size=9).astype(np.float32),
        "n": np.asarray(seed),
        "s": np.asarray(rng.normal(), np.float32),
        "mask": np.array([0.0, -np.inf], np.float32),
    }


def there_and_back(base: Arrays, new: Arrays, choice: Any) -> tuple[bytes, Arrays]:
    tensors = Tensors.of("arrays", base)
    body = encode(tensors, base, new, choice, NOTHING)
    assert len(body) <= tensors.limit
    return body, decode(tensors, base, body, choice, NOTHING)


def test_dense_changes_arrive_to_rounding_and_the_rest_exactly() -> None:
    base, new = model(0), model(1)
    _, found = there_and_back(base, new, DENSE)
    assert list(found) == list(new)
    for name, array in new.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
    for name in ("bn.running_var", "n", "s", "mask"):
        np.testing.assert_array_equal(found[name], new[name])
    np.testing.assert_allclose(found["w"], new["w"], atol=1e-6)
    np.testing.assert_allclose(found["d"], new["d"], atol=1e-6)
    np.testing.assert_allclose(found["b"], new["b"], atol=1e-3)


@pytest.mark.parametrize("choice", [ROTATED, EDEN])
def test_the_mean_of_many_is_the_change(choice: Any) -> None:
    """Unbiased: over senders the error of the mean falls with their number."""
    base, new = model(0), model(1)
    tensors = Tensors.of("arrays", base)
    wanted = (new["w"] - base["w"]).astype(np.float64)
    total = np.zeros_like(wanted)
    errors = []
    for sender in range(64):
        context = Context(b"seed", sender + 1)
        body = encode(tensors, base, new, choice, context)
        total += decode(tensors, base, body, choice, context)["w"] - base["w"]
        errors.append(np.linalg.norm(total / (sender + 1) - wanted) / np.linalg.norm(wanted))
    assert errors[-1] < errors[0] / 5


def test_what_did_not_change_costs_a_bit_and_stays_to_the_bit() -> None:
    base = model(0)
    new = base | {"w": model(1)["w"]}
    body, found = there_and_back(base, new, ROTATED)
    for name in set(base) - {"w"}:
        assert found[name].tobytes() == base[name].tobytes()
    alone = ROTATED((5000,)).compress((new["w"] - base["w"]).reshape(-1), NOTHING)
    assert len(body) == 1 + len(alone)
    assert there_and_back(base, base, ROTATED)[0] == b"\0"


def test_a_change_that_is_not_finite_names_the_tensor() -> None:
    base = model(0)
    for value in (np.nan, np.inf, 1e300):
        new = base | {"d": np.full((4, 30), value)}
        with pytest.raises(ValueError, match=r"'d': its change must be finite.*learning rate"):
            encode(Tensors.of("arrays", base), base, new, ROTATED, NOTHING)


ARRAYS = st.dictionaries(
    st.sampled_from("abcdef"),
    st.sampled_from(["f2", "f4", "f8", "i8", "u1", "?"]).flatmap(
        lambda kind: hnp.arrays(
            kind,
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
            elements={"min_value": -100, "max_value": 100} if kind[0] == "f" else None,
        )
    ),
    min_size=1,
)


@settings(max_examples=60, deadline=None)
@given(base=ARRAYS, seed=st.integers(0, 2**32), choice=st.sampled_from([DENSE, ROTATED, EDEN]))
def test_any_arrays_come_back_in_their_form(base: Arrays, seed: int, choice: Any) -> None:
    rng = np.random.default_rng(seed)
    new = {
        name: array
        if rng.random() < 0.3
        else np.asarray(rng.normal(scale=9, size=array.shape).astype(array.dtype))
        for name, array in base.items()
    }
    tensors = Tensors.of("arrays", base)
    _, found = there_and_back(base, new, choice)
    for tensor in tensors.entries:
        got, wanted = found[tensor.name], new[tensor.name]
        assert got.dtype == wanted.dtype and got.shape == wanted.shape
        if tensor.exact or wanted.tobytes() == base[tensor.name].tobytes():
            assert got.tobytes() == wanted.tobytes()
        elif choice is DENSE:
            np.testing.assert_allclose(got, wanted, rtol=2e-2, atol=0.2)


@pytest.mark.parametrize("choice", [DENSE, ROTATED, EDEN])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: b"",
        lambda body: body[:3],
        lambda body: body[:-1],
        lambda body: body + b"\0",
        lambda body: bytes([body[0] | 0x80]) + body[1:],
        lambda body: bytes([body[0] ^ 0x01]) + body[1:],
        lambda body: bytes([0x00]) + body[1:],
        lambda body: body[:1] + b"\xff" * (len(body) - 1),
    ],
)
def test_a_spoilt_body_is_refused(choice: Any, spoil: Any) -> None:
    base, new = model(0), model(1)
    tensors = Tensors.of("arrays", base)
    body = spoil(encode(tensors, base, new, choice, NOTHING))
    with pytest.raises(ValueError, match=r"."):
        decode(tensors, base, body, choice, NOTHING)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=800), choice=st.sampled_from([DENSE, ROTATED, EDEN]))
def test_noise_is_refused_or_finite(data: bytes, choice: Any) -> None:
    base = {name: array for name, array in model(0, 50).items() if name != "mask"}
    tensors = Tensors.of("arrays", base)
    try:
        found = decode(tensors, base, data, choice, NOTHING)
    except ValueError:
        return
    assert tensors.misfit(found) == ""
    assert all(np.isfinite(array).all() for array in found.values())


def test_a_statistic_that_is_not_finite_is_refused() -> None:
    base = model(0)
    tensors = Tensors.of("arrays", base)
    new = base | {"bn.running_var": np.full(9, np.nan, np.float32)}
    body = encode(tensors, base, new, DENSE, NOTHING)
    with pytest.raises(ValueError, match=r"'bn\.running_var': must stay finite where it was"):
        decode(tensors, base, body, DENSE, NOTHING)
    masked = base | {"mask": np.array([1.0, -np.inf], np.float32)}
    assert there_and_back(base, masked, DENSE)[1]["mask"][0] == 1.0


def test_huge_values_are_refused() -> None:
    base = model(0)
    new = base | {"w": base["w"] + np.float32(1e20)}
    body = encode(Tensors.of("arrays", base), base, new, DENSE, NOTHING)
    with pytest.raises(ValueError, match="values must be at most 1e"):
        decode(Tensors.of("arrays", base), base, body, DENSE, NOTHING)
