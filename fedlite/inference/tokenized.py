"""Texts as a bundle's model reads them: redacted, made into tokens and cut, without PyTorch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.data.sources.texts import check_text
from fedlite.data.text.redaction import redact, searched, shown
from fedlite.data.text.tokens import LETTERS, Tokenizer, read_tokenizer
from fedlite.scenario.texts import kinds

# The tokenizer in a bundle, as the Hugging Face library writes it.
TOKENIZER = "tokenizer.json"
KIND = "text"


class Tokenized:
    """How texts become tokens.

    how: what `bundle.json` says under `preprocessing`: `length` in tokens, `redact`, the number
    `pad` of the token that fills, and the `digest` of the tokenizer's file, whose bytes `content`
    are. shape: of an input, which must be [2, length].
    """

    def __init__(self, how: Mapping[str, Any], shape: tuple[int, ...], content: bytes) -> None:
        """Make the tokenizer ready.

        Raises ValueError for what export does not write, and for another tokenizer.
        """
        try:
            self.length, pad = int(how["length"]), int(how["pad"])
            self._redact = kinds(", ".join(map(str, how["redact"])))
            digest = str(how["digest"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"preprocessing of the kind text must say length, pad, redact and digest ({error})"
            ) from None
        if shape != (2, self.length):
            raise ValueError(f"shape must be [2, {self.length}], as its texts are, got {shape}")
        if (found := hashlib.sha256(content).hexdigest()) != digest:
            raise ValueError(
                f"{TOKENIZER} must be the one that the model was trained with, sha256 {digest}, "
                f"got {found} (rule: another's tokens mean other words)"
            )
        self._tokenizer = read_tokenizer(content, pad)

    def single(self, x: str) -> list[str]:
        """Return one text as a batch of one."""
        return [x]

    def prepared(self, x: Sequence[str], *, missing: bool = False) -> NDArray[np.int64]:
        """Return texts as the model reads them, int64 [n, 2, length]: tokens over a mask.

        missing: is of numbers; a text that is missing is an error. What lies beyond `length`, or,
        once redacted, beyond 128 characters for each token of it, is cut. Raises ValueError for
        what is no text, or an empty one.
        """
        if isinstance(x, str) or not len(x):
            told = "one text" if isinstance(x, str) else "none"
            raise ValueError(f"x: must be a list of texts, one at least, got {told}; make it one")
        found = []
        for row, text in enumerate(x):
            if not isinstance(text, str):
                raise ValueError(
                    f"x: must be texts, and row {row} is {type(text).__name__}; convert it"
                )
            whole = check_text(text, f"x, row {row}", 0, "text")
            # As in training. What could not be among the tokens is neither searched nor cut up.
            most = LETTERS * self.length
            redacted, _ = redact(searched(whole, most), self._redact)
            found.append(shown(whole, redacted, most))
        return self._tokenizer.encode(found, self.length)[0]

    def made_up(self, count: int) -> list[str]:
        """Return texts that nobody wrote: words of the tokenizer, from one to many."""
        drawn = np.random.default_rng(0)
        known = [word for word in self._tokenizer.words() if word.isalpha()]
        sizes = drawn.integers(1, self.length, count)
        return [" ".join(drawn.choice(known, size)) for size in sizes]


def preprocessing(
    tokenizer: Tokenizer, content: bytes, *, column: str, length: int, redacted: Sequence[str]
) -> dict[str, Any]:
    """Return what a bundle says of how its texts become tokens, ready for JSON.

    content: the tokenizer's file. column: where a file has the texts.
    """
    return {
        "kind": KIND,
        "fills": False,
        "column": column,
        "length": length,
        "redact": list(redacted),
        "pad": tokenizer.pad,
        "digest": hashlib.sha256(content).hexdigest(),
    }
