"""The tokenizer in a GGUF file: the metadata before its weights, which are left alone.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, BinaryIO

# The numbers of the format's types, and what struct calls them; 8 is text, 9 an array.
_PLAIN = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_CONTROL = 3
_LONGEST = 1 << 26


def metadata(path: Path) -> dict[str, Any]:
    """Return the keys and values that stand before the weights.

    Raises ValueError where the file is no GGUF of version 3 or ends too early, OSError.
    """
    with path.open("rb") as file:
        magic, version, _, count = _unpack(file, "4sIQQ")
        if magic != b"GGUF" or version != 3:
            raise ValueError(f"{path}: must be a GGUF file of version 3, got {magic!r}, {version}")
        return {_text(file): _value(file, _unpack(file, "I")[0]) for _ in range(count)}


def _unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    size = struct.calcsize(f"<{form}")
    found = file.read(size) if size <= _LONGEST else b""
    if len(found) < size:
        raise ValueError("ends before its metadata do; fetch it anew")
    return struct.unpack(f"<{form}", found)


def _text(file: BinaryIO) -> str:
    (size,) = _unpack(file, "Q")
    return bytes(_unpack(file, f"{size}s")[0]).decode("utf-8")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _TEXT:
        return _text(file)
    if kind == _ARRAY:
        inner, count = _unpack(file, "IQ")
        if inner in _PLAIN:
            return list(_unpack(file, f"{count}{_PLAIN[inner]}"))
        return [_value(file, inner) for _ in range(count)]
    if kind not in _PLAIN:
        raise ValueError(f"has a value of the unknown type {kind}; fetch it anew")
    return _unpack(file, _PLAIN[kind])[0]


def tokenizer(path: Path) -> str:
    """Return what `tokenizers` reads as a tokenizer, JSON text: byte-level BPE as SmolLM's is.

    Its padding is the token that the file names. Raises ValueError for another kind.
    """
    told = metadata(path)
    kind = (told.get("tokenizer.ggml.model"), told.get("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise ValueError(f"{path}: must hold a tokenizer of the kind smollm, got {kind}")
    tokens: list[str] = told["tokenizer.ggml.tokens"]
    types: list[int] = told["tokenizer.ggml.token_type"]
    pad = int(told["tokenizer.ggml.padding_token_id"])
    byte_level = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = [
        {
            "id": at,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for at, (token, of) in enumerate(zip(tokens, types, strict=True))
        if of == _CONTROL
    ]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": {
                "strategy": "BatchLongest",
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": pad,
                "pad_type_id": 0,
                "pad_token": tokens[pad],
            },
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {"type": "ByteLevel", **byte_level},
                ],
            },
            "post_processor": None,
            "decoder": {"type": "ByteLevel", **byte_level},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {token: at for at, token in enumerate(tokens)},
                "merges": [merge.split(" ") for merge in told["tokenizer.ggml.merges"]],
            },
        }
    )
