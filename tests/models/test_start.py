"""A model that begins with given weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fedlite.models import Single, load_start


def model() -> Single:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    network[0].weight.requires_grad_(False)
    return Single(network, shape=(4,), classes=2)


def test_tensors_go_to_those_of_their_names_frozen_ones_and_buffers_too(tmp_path: Path) -> None:
    path, found = tmp_path / "w.safetensors", model()
    kept = found.network[2].weight.clone()
    given = {
        "0.weight": torch.full((3, 4), 2.0, dtype=torch.bfloat16),
        "1.running_mean": torch.arange(3.0),
        "2.bias": torch.tensor([5.0, 6.0], dtype=torch.float64),
    }
    save_file(given, path)
    load_start(found, path)
    assert (
        bool((found.network[0].weight == 2).all()) and found.network[0].weight.dtype.itemsize == 4
    )
    assert found.network[1].running_mean.tolist() == [0, 1, 2]
    assert found.network[2].bias.tolist() == [5, 6]
    assert torch.equal(found.network[2].weight, kept)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"0.wieght": torch.zeros(3, 4)}, r"got 0\.wieght \[3, 4\]; give .*\(0\.weight, "),
        ({"2.bias": torch.zeros(3)}, r"got 2\.bias \[3\] where the model has \[2\]"),
        ({}, "got none"),
    ],
)
def test_other_tensors_are_named(tmp_path: Path, given: dict[str, torch.Tensor], told: str) -> None:
    save_file(given, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="model.start: .*" + told):
        load_start(model(), tmp_path / "w.safetensors")


def test_what_is_no_file_of_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        load_start(model(), tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match="must be a safetensors file"):
        load_start(model(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="must be a safetensors file"):
        load_start(model(), tmp_path)
