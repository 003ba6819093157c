"""How texts become records: the texts of the keys.

All of it is public: no record is looked at here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from fedlite.scenario import tabular

# What redaction knows, in the order in which it is looked for.
KINDS = ("email", "iban", "card", "id", "phone")
DUPLICATES = ("keep", "exact", "near")
# The task in which a text is its own answer, and what that is called: its loss, in nats a token.
LANGUAGE, NLL = "causal-lm", "nll"
# Who is asked how well a text is foreseen, where nobody else is named.
DECODER = "smollm2"
# Models of texts that are pretrained: that of classes, and that of the task causal-lm.
PRETRAINED = ("lora", "lora-lm")
N = TypeVar("N", int, float)


@dataclass(frozen=True)
class Texts:
    """How a text becomes token ids.

    column: the one that holds it; "" where the source is texts already. tokenizer: the name of a
    base model, or a folder with `tokenizer.json`; "" where records are no texts. length: how many
    tokens a record has, its special ones included. redact: of `KINDS` those that are replaced.
    redactor: a function of one's own that replaces more. duplicates: which of `DUPLICATES` become
    of texts that stand there more than once. words: fewest and most words of a text that is kept;
    0 and 0: any. perplexity: least and most that a decoder, perplexity_base, finds in a text that
    is kept; 0 and 0: it is not asked.
    """

    column: str = ""
    tokenizer: str = ""
    length: int = 64
    redact: tuple[str, ...] = ()
    redactor: str = ""
    duplicates: str = "keep"
    words: tuple[int, int] = (0, 0)
    perplexity: tuple[float, float] = (0.0, 0.0)
    perplexity_base: str = DECODER

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a record: token ids, and which of them are padding."""
        return (2, self.length)


def kinds(text: str) -> tuple[str, ...]:
    """Return the kinds that are redacted, in their order; raises ValueError on any other name.

    >>> kinds("phone, email")
    ('email', 'phone')
    """
    found = tabular.distinct(text)
    if set(found) - set(KINDS):
        raise ValueError(text)
    return tuple(kind for kind in KINDS if kind in found)


def words(text: str) -> tuple[int, int]:
    """Return the fewest and the most words, as `LOW:HIGH` says; raises ValueError.

    >>> words("3:400"), words("")
    ((3, 400), (0, 0))
    """
    return _bounds(text, int)


def perplexity(text: str) -> tuple[float, float]:
    """Return the least and the most, as `LOW:HIGH` says, from 1 on; raises ValueError.

    >>> perplexity("10:2e3"), perplexity("")
    ((10.0, 2000.0), (0.0, 0.0))
    """
    return _bounds(text, float)


def _bounds(text: str, number: type[N]) -> tuple[N, N]:
    if not text:
        return number(0), number(0)
    low, high = (number(end) for end in text.split(":"))
    if not 1 <= low <= high < float("inf"):
        raise ValueError(text)
    return low, high
