from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from fedlite.parameters import Layout, load_vector, to_vector, vector_digest


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))


def test_the_vector_is_every_tensor_in_order() -> None:
    module = network()
    vector = to_vector(module)
    expected = np.concatenate([p.detach().numpy().ravel() for p in module.parameters()])
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector, expected)
    layout = Layout.of(module)
    assert layout.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert layout.size == vector.size == 18 + 2 + 24 + 3


def test_loading_is_the_inverse_and_copies() -> None:
    module = network()
    wanted = np.arange(47, dtype=np.float32)
    load_vector(module, wanted)
    wanted += 1
    np.testing.assert_array_equal(to_vector(module), np.arange(47, dtype=np.float32))
    assert module[2].bias.tolist() == [44.0, 45.0, 46.0]


def test_frozen_tensors_neither_travel_nor_change() -> None:
    module = network()
    module[0].requires_grad_(False)
    before = module[0].weight.clone()
    assert Layout.of(module).size == to_vector(module).size == 27
    load_vector(module, np.zeros(27, np.float32))
    assert torch.equal(module[0].weight, before)
    assert not module[2].weight.any()


def test_a_module_without_trainable_tensors_is_an_empty_vector() -> None:
    assert to_vector(nn.ReLU()).shape == (0,)
    load_vector(nn.ReLU(), np.zeros(0, np.float32))


@pytest.mark.parametrize("shape", [(46,), (48,), (47, 1), ()])
def test_a_vector_for_another_model_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="47 trainable values"):
        load_vector(network(), np.zeros(shape, np.float32))


def test_the_layout_digest_is_sha256_of_canonical_json() -> None:
    layout = Layout(("a", "b"), ((2, 3), (4,)))
    text = b'[["a","b"],[[2,3],[4]]]'
    assert layout.digest == hashlib.sha256(text).digest()[:8]
    others = [
        Layout(("b", "a"), ((2, 3), (4,))),
        Layout(("a", "b"), ((3, 2), (4,))),
        Layout(("a",), ((2, 3),)),
        Layout(("a", "b"), ((4,), (2, 3))),
    ]
    assert len({layout.digest, *(o.digest for o in others)}) == 5


def test_the_vector_digest_is_sha256_of_little_endian_bytes() -> None:
    vector = np.array([1.0, -2.0, 0.0], np.float32)
    assert vector_digest(vector) == hashlib.sha256(vector.astype("<f4").tobytes()).digest()[:8]
    assert vector_digest(vector[::-1]) != vector_digest(vector)
    assert vector_digest(vector.astype(">f4")) == vector_digest(vector)
    changed = vector.copy()
    changed[2] = -0.0
    assert vector_digest(changed) != vector_digest(vector)
