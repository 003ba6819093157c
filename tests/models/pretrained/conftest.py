"""Small transformers of several families, as folders that a user would have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

WORDS, WIDTH, LAYERS = 50, 32, 4
_COMMON = {"vocab_size": WORDS, "hidden_size": WIDTH, "num_hidden_layers": LAYERS}
_HEADS = {"num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64}
_DECODER = {"num_key_value_heads": 2}
CONFIGS: dict[str, Any] = {
    "bert": lambda: transformers.BertConfig(**_COMMON, **_HEADS),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=WORDS, dim=WIDTH, n_layers=LAYERS, n_heads=4, hidden_dim=64
    ),
    "llama": lambda: transformers.LlamaConfig(**_COMMON, **_HEADS, **_DECODER),
    "qwen2": lambda: transformers.Qwen2Config(**_COMMON, **_HEADS, **_DECODER),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=WORDS, n_embd=WIDTH, n_layer=LAYERS, n_head=4, n_positions=64
    ),
}


@pytest.fixture(scope="session", params=CONFIGS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small transformer of each family in turn."""
    return save(request.param, tmp_path_factory.mktemp("bases") / request.param)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small BERT."""
    return save("bert", tmp_path_factory.mktemp("bases") / "bert")


def save(kind: str, folder: Path, seed: int = 0, *, language: bool = False) -> Path:
    """Write a transformer with random weights of `seed` to `folder`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        auto = transformers.AutoModelForCausalLM if language else transformers.AutoModel
        network = auto.from_config(CONFIGS[kind]())
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    network.save_pretrained(folder)
    return folder


def texts(count: int, length: int = 12, side: str = "right", seed: int = 0) -> torch.Tensor:
    """Return made-up texts of different lengths, int64 [count, 2, length]."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, WORDS, (count, length), generator=generator)
    lengths = 1 + torch.randint(0, length, (count, 1), generator=generator)
    mask = (torch.arange(length) < lengths).long()
    ids = ids * mask
    if side == "left":
        ids, mask = ids.flip(1), mask.flip(1)
    return torch.stack([ids, mask], 1)
