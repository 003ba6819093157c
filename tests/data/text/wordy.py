"""A small tokenizer for tests, in a folder as transformers saves one: a token a word."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = (
    "the a patient has pain fever cough no good bad great awful film and was today again".split()
)
SPECIAL = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}


def wordy(folder: Path, *, pad: str = "[PAD]", config: dict[str, object] | None = None) -> str:
    """Write the tokenizer into a folder, and return the folder's path, as a scenario names it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = SPECIAL | {word: at for at, word in enumerate(WORDS, len(SPECIAL))}
    made = Tokenizer(WordLevel(vocabulary, "[UNK]"))
    made.normalizer, made.pre_tokenizer = Lowercase(), Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    made.save(str(folder / "tokenizer.json"))
    told = {"pad_token": pad} if pad else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "config.json").write_text(
        json.dumps({"max_position_embeddings": 24} | (config or {}))
    )
    return str(folder)
