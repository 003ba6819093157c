"""Texts to token ids of one length, by the tokenizer of a base model."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.data.bases import TOKENIZER, find
from fedlite.data.text import gguf
from fedlite.data.weights import CONFIG
from fedlite.storage import stamp

KEY = "data.tokenizer"
# Characters of a text of which tokens are made, for each token that is read; a word of more than
# 100 is one token for most tokenizers.
LETTERS = 128
# Texts that are in memory as tokens at a time.
_BATCH = 1024
_LONGEST_FILE = 1 << 28
# What replacements may make of a letter: one that is a word or two is what there is.
_MOST_LETTERS = 64
# Models whose positions begin behind the number of the padding token.
_FROM_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet")


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer that is ready.

    name: as it was asked for. digest: SHA-256, hexadecimal, of the file that it was made of. pad:
    the id that fills a short text. most: how many tokens the base model takes; 0: not known.
    """

    name: str
    digest: str
    pad: int
    most: int
    _inner: Any

    def encode(self, texts: Sequence[str], length: int) -> tuple[NDArray[np.int64], int]:
        """Return int64 [n, 2, length], token ids over a mask, and how many texts were cut.

        The mask is 1 where there is a token and 0 where the text is over; what lies beyond `length`
        is cut, and special tokens stay. Raises ValueError where `length` does not fit the model.
        """
        if self.most and length > self.most:
            raise ValueError(
                f"data.length: must be at most {self.most}, the longest text that {self.name} "
                f"takes, got {length}; lower it"
            )
        if length <= (special := self._inner.num_special_tokens_to_add(False)):
            raise ValueError(
                f"data.length: must be more than the {special} special tokens that {self.name} "
                f"adds, got {length}; raise it"
            )
        x = np.zeros((len(texts), 2, length), np.int64)
        x[:, 0] = self.pad
        cut = 0
        self._inner.no_padding()
        self._inner.enable_truncation(length)
        for start in range(0, len(texts), _BATCH):
            try:
                batch = self._inner.encode_batch(list(texts[start : start + _BATCH]))
            except BaseException as error:
                _stop_unless_panic(error)
                raise ValueError(
                    f"{KEY}: {self.name}: must make tokens of every text, and cannot: "
                    f"{error!s:.200}; take another tokenizer"
                ) from None
            for row, found in zip(x[start : start + _BATCH], batch, strict=True):
                row[0, : len(found.ids)] = found.ids
                row[1, : len(found.ids)] = 1
                cut += bool(found.overflowing)
        return x, cut

    def words(self) -> list[str]:
        """Return its tokens as they are written, in the order of their numbers."""
        return [token for token, _ in sorted(self._inner.get_vocab().items(), key=lambda p: p[1])]


def _file(name: str) -> tuple[Path, str]:
    """Return the file of a tokenizer, and its pin; "" where it has none.

    Of the catalog's base models the files are held against their pins.
    """
    base = find(name, KEY)
    if not base.files:
        return Path(name) / TOKENIZER, ""
    kept = TOKENIZER if TOKENIZER in base.files else base.weights
    return base.folder() / kept, base.files[kept]


def digest_of(name: str) -> str:
    """Return the digest of a tokenizer, see `Tokenizer`; it need not be possible to make it.

    Raises ValueError where the file of one's own cannot be read.
    """
    base = find(name, KEY)
    if base.files:
        return base.files.get(TOKENIZER) or base.files[base.weights]
    return hashlib.sha256(_read(_file(name)[0])).hexdigest()


def open_tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer of a base model, or of a folder with `tokenizer.json`.

    Nothing is fetched, and no network loaded. Raises ValueError where the extra is missing, the
    files are not there or not the pinned ones, no tokenizer can be made of them, or none of its
    tokens stands for padding; each names the mend.
    """
    file, pin = _file(name)
    return _open(name, file, pin, stamp(file))


def content_of(name: str) -> bytes:
    """Return the `tokenizer.json` of a base model; raises ValueError where it has none."""
    file, _ = _file(name)
    if file.name != TOKENIZER:
        raise ValueError(f"{KEY}: must have a {TOKENIZER}, and {name} has none; take another base")
    return _read(file)


def read_tokenizer(content: bytes, pad: int) -> Tokenizer:
    """Return the tokenizer that is in a `tokenizer.json`, which a stranger may have written.

    pad: the id that fills a short text. Raises ValueError where none can be made of it.
    """
    inner = _made(content.decode("utf-8", "replace"), Path(TOKENIZER))
    return Tokenizer(TOKENIZER, hashlib.sha256(content).hexdigest(), pad, 0, inner)


def _made(text: str, file: Path) -> Any:
    """Return what the library makes of a tokenizer's JSON; see `open_tokenizer` for errors."""
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError(
            f"{KEY}: texts need the package tokenizers ({error}); install it by pip install "
            "'fedlite[lora]'"
        ) from None
    # It would start a thread for each core, in each process.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        told = json.loads(text)
        if isinstance(told, dict):
            _check_expansion(told, file)
        return tokenizers.Tokenizer.from_str(text)
    except _Expands:
        raise
    except BaseException as error:
        _stop_unless_panic(error)
        raise ValueError(
            f"{KEY}: {file}: no tokenizer can be made of it ({error!s:.200}); save it by "
            "transformers, as tokenizer.save_pretrained does"
        ) from None


class _Expands(ValueError):
    """A tokenizer makes too long a text of a short one."""


def _stop_unless_panic(error: BaseException) -> None:
    """Raise again what is neither an error nor a panic of the library's own language.

    Such a panic is no Exception, and its class has no module.
    """
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


@lru_cache(maxsize=4)
def _open(name: str, file: Path, pin: str, _seen: object) -> Tokenizer:
    if not file.is_file():
        raise ValueError(
            f"{KEY}: {file}: no such file; name minilm, smollm2 or a folder with {TOKENIZER}"
        )
    if file.name == TOKENIZER:
        content = _read(file)
        text, digest = content.decode("utf-8", "replace"), hashlib.sha256(content).hexdigest()
    else:
        text, digest = gguf.tokenizer(file), pin
    inner = _made(text, file)
    config, pad = _told(file.with_name(CONFIG)), _pad(inner, file)
    _check_vocabulary(inner, pad, config, file)
    return Tokenizer(name, digest, pad, _most(config), inner)


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as content:
            found = content.read(_LONGEST_FILE + 1)
    except OSError as error:
        raise ValueError(
            f"{KEY}: {file}: must be a file that can be read ({error.strerror or error})"
        ) from error
    if len(found) > _LONGEST_FILE:
        raise ValueError(f"{KEY}: {file}: must have at most {_LONGEST_FILE >> 20} MB")
    return found


def _told(file: Path) -> dict[str, Any]:
    """Return a JSON object beside the tokenizer; empty where there is none."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(_read(file))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{KEY}: {file}: must be JSON ({error}); restore it") from None
    return found if isinstance(found, dict) else {}


def _pad(inner: Any, file: Path) -> int:
    """Return the id that stands for padding, as the tokenizer or the files beside it say."""
    if inner.padding:
        return int(inner.padding["pad_id"])
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _told(file.with_name(name)).get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and (found := inner.token_to_id(token)) is not None:
            return int(found)
    found = _told(file.with_name(CONFIG)).get("pad_token_id")
    if type(found) is int and 0 <= found < inner.get_vocab_size():
        return found
    raise ValueError(
        f"{KEY}: {file}: must have a token for padding (rule: records have one length), has none; "
        "name one beside it in tokenizer_config.json, as in "
        '{"pad_token": "<|endoftext|>"}: any token will do, as a mask hides it'
    )


def _check_expansion(told: Any, file: Path) -> None:
    """Raise ValueError where a tokenizer makes a long text of a short one, before it is tried.

    Each step may make many letters of one, and one comes after the other: replacements what they
    say, bytes two of a letter, and a compatibility form of Unicode at most 18 (UAX 15), once. A
    table of its own (`Precompiled`) is such a form, and a second one does that again.
    """
    steps = _kinds_of([told.get(part) for part in ("normalizer", "pre_tokenizer")])
    tables = steps.count("Precompiled")
    forms = max(tables, bool({"NFKC", "NFKD"} & set(steps)))
    factor, left = 18**forms * 2 ** steps.count("ByteLevel"), [told]
    while left:
        one = left.pop()
        left += one.values() if isinstance(one, dict) else one if isinstance(one, list) else []
        if isinstance(one, dict) and one.get("type") in ("Replace", "Prepend"):
            factor *= max(1, len(str(one.get("content", one.get("prepend", "")))))
    if factor > _MOST_LETTERS:
        raise _Expands(
            f"{KEY}: {file}: must make at most {_MOST_LETTERS} letters of one, and its "
            f"replacements make {factor:,.0f}; take another tokenizer"
        )


def _kinds_of(parts: list[Any]) -> list[str]:
    """Return what each object in it, however deep, says that it is."""
    found, left = [], parts
    while left:
        one = left.pop()
        left += one.values() if isinstance(one, dict) else one if isinstance(one, list) else []
        if isinstance(one, dict):
            found.append(str(one.get("type")))
    return found


def _check_vocabulary(inner: Any, pad: int, config: dict[str, Any], file: Path) -> None:
    """Raise ValueError where the base has no room for a token: it would take another for it.

    The padding may be beyond, as the mask hides it: it is often added to a full vocabulary.
    """
    size = config.get("vocab_size")
    if type(size) is not int:
        return
    beyond = [
        (at, token) for token, at in inner.get_vocab(True).items() if at >= size and at != pad
    ]
    if beyond:
        at, token = min(beyond)
        raise ValueError(
            f"{KEY}: {file}: must have tokens from 0 to {size - 1}, as config.json beside it says "
            f"(rule: another's tokens mean other words), has {at}, {token!r:.40}; put the base's "
            "own tokenizer there"
        )


def _most(config: dict[str, Any]) -> int:
    """Return the most tokens that the base model has positions for; 0 where it does not say."""
    inner = config.get("text_config")
    for told in (config, inner if isinstance(inner, dict) else {}):
        for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
            if type(found := told.get(key)) is int and found > 0:
                # Some count their positions from behind the padding's number.
                pad = told.get("pad_token_id")
                behind = str(told.get("model_type")) in _FROM_PADDING
                return found - pad - 1 if behind and isinstance(pad, int) else found
    return 0
