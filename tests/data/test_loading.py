"""What a base's folder holds is loaded whole, or refused by name; none of its code is run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fedlite.data import loading, shelf
from fedlite.data.bases import find
from fedlite.data.loading import load_network
from fedlite.models.registry import build
from tests.data.text.wordy import wordy
from tests.models.pretrained.conftest import save

safetensors = pytest.importorskip("safetensors.torch")


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small BERT."""
    return save("bert", tmp_path_factory.mktemp("loading") / "bert")


def configured(folder: Path, **changed: Any) -> Path:
    """Save a small BERT with other settings in its config."""
    path = save("bert", folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    return folder


def with_weights(folder: Path, change: Any) -> Path:
    """Save a small BERT with other weights."""
    path = save("bert", folder) / "model.safetensors"
    tensors = safetensors.load_file(path)
    change(tensors)
    safetensors.save_file(tensors, path, {"format": "pt"})
    return folder


def test_code_that_a_folder_brings_is_never_run(tmp_path: Path) -> None:
    evil = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n"
    named = {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}
    known = configured(tmp_path / "known", auto_map=named)
    unknown = configured(tmp_path / "unknown", auto_map=named, model_type="evil")
    for folder in (known, unknown):
        (folder / "evil.py").write_text(evil)
    assert type(load_network(find(str(known)))).__name__ == "BertModel"
    with pytest.raises(ValueError, match=r"code of a model's folder is never run.*auto_map"):
        load_network(find(str(unknown)))
    assert not (tmp_path / "ran").exists()


def test_what_changes_between_the_look_and_the_loading_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLITE_CACHE", str(tmp_path / "cache"))
    folder = save("bert", tmp_path / "bert")
    wordy(folder, config=json.loads((folder / "config.json").read_text()))
    base = shelf.put("mine", folder)
    load_network(base)
    look = loading.check_folder

    def changing(place: Path) -> int:
        found = look(place)
        config = place / "config.json"
        config.write_text(config.read_text().replace('"gelu"', '"relu"'))
        return found

    monkeypatch.setattr(loading, "check_folder", changing)
    with pytest.raises(ValueError, match=r"config\.json: the sha256 must be"):
        load_network(base)


def test_what_is_missing_is_named_and_never_random(tmp_path: Path) -> None:
    def less(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if "layer.2." in name]:
            del tensors[name]

    with pytest.raises(ValueError, match=r"would be random\), lacks 16, as 'encoder\.layer\.2"):
        load_network(find(str(with_weights(tmp_path / "a", less))))

    def unpooled(tensors: dict[str, Any]) -> None:
        del tensors["pooler.dense.weight"]

    # Nothing reads it, and every site has the same in its place.
    found = load_network(find(str(with_weights(tmp_path / "b", unpooled))))
    assert not found.get_parameter("pooler.dense.weight").any()


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    def spoilt(tensors: dict[str, Any]) -> None:
        tensors["encoder.layer.1.output.dense.bias"][3] = torch.nan

    with pytest.raises(ValueError, match=r"'encoder\.layer\.1\.output\.dense\.bias': must be fin"):
        load_network(find(str(with_weights(tmp_path / "a", spoilt))))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"hidden_act": "evil"}, "KeyError: 'evil'"),
        ({"hidden_size": 48}, "the sizes that config.json names are not those of the weights"),
        ({"_attn_implementation": "flash_attention_2"}, 'pip install "fedlite[lora]"'),
        ({"num_attention_heads": 0}, "cannot be read: ZeroDivisionError"),
    ],
)
def test_whatever_a_library_raises_is_one_message(
    tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=r"^model\.options\.base: ") as error:
        load_network(find(str(configured(tmp_path / "a", **changed))))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_no_room_in_memory_is_told_before_loading(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(needed: int, what: str) -> None:
        raise ValueError(f"{what} takes {needed}")

    monkeypatch.setattr(loading, "check_memory", full)
    values = sum(
        map(torch.Tensor.numel, safetensors.load_file(bert / "model.safetensors").values())
    )
    with pytest.raises(ValueError, match=rf"model\.options\.base: .*bert takes {4 * values}$"):
        load_network(find(str(bert)))


@pytest.mark.parametrize("package", ["transformers", "peft"])
def test_a_missing_extra_is_named(
    bert: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=r'pip install "fedlite\[lora\]"'):
        load_network(find(str(bert)))


def test_a_network_that_sees_what_comes_is_no_language_model(tmp_path: Path) -> None:
    encoder = save("bert", tmp_path / "encoder", language=True)
    with pytest.raises(ValueError, match=r"must be a decoder.*sees those behind it"):
        build("lora-lm", (2, 8), 1, seed=1, base=str(encoder))
    # Without what foresees tokens it is not even that.
    with pytest.raises(ValueError, match=r"lacks .*cls\..*take one that foresees tokens"):
        build("lora-lm", (2, 8), 1, seed=1, base=str(save("bert", tmp_path / "headless")))


def test_options_that_mean_nothing_are_refused(bert: Path) -> None:
    for options, said in (
        ({"alpha": -1.0}, r"model\.options\.alpha: must be at least 0"),
        ({"read": [1] * 9}, r"model\.options\.read: .*4 layers of the base, each once"),
        ({"targets": ["q_proj"]}, r"targets: .*got q_proj; there are dense, key, query, value"),
    ):
        with pytest.raises(ValueError, match=said):
            build("lora", (2, 8), 2, seed=1, base=str(bert), **options)
