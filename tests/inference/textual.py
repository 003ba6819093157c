"""A run that tells made-up notes apart by a small BERT, and has calibrated what leaves early."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fedlite
from tests.data.text.wordy import SPECIAL, WORDS, wordy

LENGTH = 12
NOTES = 900
_PLAIN = "the a patient has pain fever cough film and was today again".split()


def base(folder: Path) -> str:
    """Write a small BERT with a tokenizer of words to a folder, and return its path."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=24,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.BertModel(config, add_pooling_layer=False)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    network.save_pretrained(folder)
    kept = (folder / "config.json").read_text()
    wordy(folder)
    (folder / "config.json").write_text(kept)
    return str(folder)


def notes(path: Path, seed: int = 5, count: int = NOTES) -> Path:
    """Write notes that are good or bad by one of their words, and some by two, as JSON Lines."""
    rng = np.random.default_rng(seed)
    lines = []
    for number in range(count):
        good = number % 2
        words = [*rng.choice(_PLAIN, rng.integers(1, 8)), ("awful", "great")[good]]
        if number % 5 == 0:
            words = [*words[:-1], "no", ("great", "awful")[good]]
        lines.append({"note": " ".join(map(str, words)), "seen": ("bad", "good")[good]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def scenario(folder: Path, **more: Any) -> dict[str, Any]:
    """Return a scenario of notes at two sites."""
    told: dict[str, Any] = {
        "federation": {"name": "notes", "rounds": 6, "sites": 2, "evaluate_every": 0},
        "data": {
            "name": "jsonl",
            "path": str(notes(folder / "notes.jsonl")),
            "text": "note",
            "target": "seen",
            "tokenizer": base(folder / "base"),
            "length": LENGTH,
            "labels": "bad, good",
            "test_fraction": 0.2,
        },
        "model": {
            "name": "lora",
            "options": {
                "base": str(folder / "base"),
                "rank": 4,
                "exit": 1,
                "read": [2, 4],
                # What the early head reads stays as it is: the deep one knows more.
                "layers": [2, 3, 4],
            },
        },
        "training": {"steps": 12, "batch_size": 32, "optimizer": "adam", "learning_rate": 0.05},
        "uplink": {"compressor": "dense"},
        "downlink": {"compressor": "dense"},
        "inference": {"calibration": 0.4, "alpha": 0.05},
    }
    for table, keys in more.items():
        told[table] = told.get(table, {}) | keys
    return told


def run(folder: Path, **more: Any) -> Path:
    """Return the directory of a finished run of `scenario`."""
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "run"
    fedlite.simulate(scenario(folder, **more), out=out, engine="serial")
    return out


def copied(bundle: Path, to: Path) -> Path:
    """Return a copy of a bundle."""
    return Path(shutil.copytree(bundle, to))
