"""A base model's folder is held against rules before anything is built of it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from fedlite.data.weights import check_folder, header

TENSORS = {"a.weight": ("F32", [4, 3]), "b.weight": ("F16", [5])}


def written(folder: Path, tensors: Any = None, config: Any = None, more: int = 0) -> Path:
    """Write weights, all 0, and a config; `more` bytes behind them."""
    folder.mkdir(exist_ok=True)
    found, end = {}, 0
    for name, (kind, shape) in (TENSORS if tensors is None else tensors).items():
        size = {"F32": 4, "F16": 2, "I8": 1}[kind]
        for side in shape:
            size *= side
        found[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    head = json.dumps(found | {"__metadata__": {"format": "pt"}}).encode()
    (folder / "model.safetensors").write_bytes(
        struct.pack("<Q", len(head)) + head + bytes(end + more)
    )
    (folder / "config.json").write_text(json.dumps({} if config is None else config))
    return folder


def test_values_are_counted_without_reading_them(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", config={"num_hidden_layers": 2, "vocab_size": 5, "x": -1})
    assert check_folder(folder) == 17
    assert header(folder / "model.safetensors") == {"a.weight": (4, 3), "b.weight": (5,)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no", "must be a whole safetensors file"),
        (struct.pack("<Q", 1 << 60) + b"{}", "its header claims 1,152,921,504,606,846,976 bytes"),
        (struct.pack("<Q", 10**5) + b"[" * 10**5, "maximum recursion depth"),
        (struct.pack("<Q", 2) + b"[]", "must be a whole safetensors file"),
        (
            struct.pack("<Q", 96)
            + json.dumps({"w": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 8]}})
            .ljust(96)
            .encode(),
            "'w' has not the bytes of its shape",
        ),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    written(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"^model\.options\.base: .*model\.safetensors.*") as error:
        check_folder(tmp_path / "a")
    assert said in str(error.value)


def test_weights_that_are_cut_off_or_packed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"58 bytes of weights are announced, and 57 are there"):
        check_folder(written(tmp_path / "a", more=-1))
    with pytest.raises(ValueError, match=r"'w' is 'I8' and not one of F64, F32, F16, BF16"):
        check_folder(written(tmp_path / "b", {"w": ("I8", [3])}))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"num_hidden_layers": 10**5}, "model.safetensors has 2 tensors), got 100,000"),
        ({"num_hidden_layers": -1}, "'num_hidden_layers': must be a size that the weights have"),
        ({"text_config": {"vocab_size": 10**9}}, "has no side longer than 5), got 1,000,000,000"),
        ({"layer_types": ["full"] * 5}, "model.safetensors has 2 tensors), got 5"),
        ({"transformers_weights": "../x.safetensors"}, "must have no transformers_weights"),
        ({"quantization_config": {"quant_method": "q"}}, "must have no quantization_config"),
        ([], "must be a JSON object, got []"),
    ],
)
def test_a_config_that_claims_what_the_weights_have_not_is_refused(
    tmp_path: Path, config: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=r"config\.json") as error:
        check_folder(written(tmp_path / "a", config=config))
    assert said in str(error.value)


def test_adapters_beside_a_base_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "a")
    (tmp_path / "a" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"must hold a base and no adapters"):
        check_folder(tmp_path / "a")
