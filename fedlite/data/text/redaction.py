"""What tells who somebody is, replaced in a text: addresses and numbers, by form and by checksum.

Each rule looks at one text and nothing else, so that no record changes another. A number whose
checksum is wrong is no such number, and stays. Names of people are no matter of form: for those
there is `data.redactor`, a function of one's own.

What is found is replaced by its kind. A number that is written without the gaps and signs of its
form may be missed, and so is whatever a person spells out: redaction lessens what a text tells of
somebody, and is no proof that it tells nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, takewhile

from fedlite.data.text import checksums

# Nothing that is found is longer: an address has 254 characters.
LONGEST = 256
# What may stand between the groups of a number; of spaces and dashes every width is one here.
_GAP = "[ .\t-]"
_GAPS = re.compile(_GAP)
# Raised whenever rules see a text otherwise.
_PLAIN = 1
# No digit or letter before or after: a number in a longer one is another.
# Full stops that mail programs take for one.
_DOTS = "\u3002\uff0e\uff61"
_BEFORE, _AFTER = r"(?<![0-9A-Za-z])", r"(?![0-9A-Za-z])"


@dataclass(frozen=True)
class Rule:
    """Forms, and whether what has one of them is meant.

    version: raised whenever the rule finds something else. holds: is given what was found, without
    its gaps.
    """

    kind: str
    name: str
    version: int
    forms: tuple[re.Pattern[str], ...]
    holds: Callable[[str], bool]

    def replaced(self, text: str, written: list[str]) -> tuple[str, list[str], int]:
        """Return the text with what is meant replaced, and how often it was.

        written: what stands for each of its characters (`_plain`); none: they themselves.
        """
        count, sign = 0, f"<{self.kind.upper()}>"
        for form in self.forms:
            parts, kept, end, look = list[str](), list[str](), 0, 0
            while found := form.search(text, look):
                if self.holds(_GAPS.sub("", found[0])):
                    parts += [text[end : found.start()], sign]
                    if written:
                        kept += [*written[end : found.start()], *sign]
                    end = look = found.end()
                    count += 1
                else:
                    # What is meant may begin within it.
                    look = found.start() + 1
            if parts:
                text, written = "".join([*parts, text[end:]]), [*kept, *written[end:]]
        return text, written, count


def redact(text: str, kinds: tuple[str, ...]) -> tuple[str, dict[str, int]]:
    """Return the text with what is found replaced, as in `<EMAIL>`, and how many of each kind.

    Rules go one after the other, and what one has replaced no other sees.

    >>> redact("Jane (jane@example.org), card 4111 1111 1111 1111", ("email", "card"))
    ('Jane (<EMAIL>), card <CARD>', {'email': 1, 'card': 1})
    """
    counts = dict.fromkeys(kinds, 0)
    plain, written = (text, list[str]()) if text.isascii() else _plain(text)
    for rule in RULES:
        if rule.kind in counts:
            plain, written, count = rule.replaced(plain, written)
            counts[rule.kind] += count
    return "".join(written) or plain, counts


def searched(text: str, most: int) -> str:
    """Return as much of a text as is searched so that `most` characters of it can be told."""
    return text[: most + LONGEST]


def shown(text: str, redacted: str, most: int) -> str:
    """Return at most `most` characters of what `redact` has made of `searched(text, most)`.

    Of a text that goes on the last piece is left out: what was cut in two is not found there.

    >>> shown("x" * 300, "x" * 266, 10), shown("ab", "ab", 10)
    ('xxxxxxxxxx', 'ab')
    """
    looked = searched(text, most)
    if len(looked) < len(text):
        pairs = zip(reversed(looked), reversed(redacted), strict=False)
        same = takewhile(lambda pair: pair[0] == pair[1], islice(pairs, LONGEST))
        redacted = redacted[: len(redacted) - sum(1 for _ in same)]
    return redacted[:most]


def _plain(text: str) -> tuple[str, list[str]]:
    """Return a text as rules see it, and what is written for each character of that.

    Digits of any script are 0 to 9, letters and signs of full width those of ASCII, spaces and
    dashes of any width one space and one dash; what no screen shows belongs to what it follows.

    >>> _plain("\\uff14\\u200b1")[0]
    '41'
    """
    seen, written = list[str](), list[str]()
    for one in text:
        if (plain := _as_plain(one)) or not written:
            seen.append(plain or one)
            written.append(one)
        else:
            written[-1] += one
    return "".join(seen), written


@lru_cache(maxsize=1 << 14)
def _as_plain(one: str) -> str:
    """Return the character that one is read as; "" for one that is not seen."""
    kind = unicodedata.category(one)
    if kind == "Nd":
        return str(unicodedata.decimal(one))
    if one in _DOTS:
        return "."
    if "\uff01" <= one <= "\uff5e":
        one = chr(ord(one) - 0xFEE0)
        kind = unicodedata.category(one)
    return {"Zs": " ", "Pd": "-", "Cf": ""}.get(kind, one)


def versions(kinds: tuple[str, ...]) -> dict[str, int]:
    """Return the rules of these kinds and their versions."""
    found = {f"{rule.kind}.{rule.name}": rule.version for rule in RULES if rule.kind in kinds}
    return found | ({"plain": _PLAIN} if found else {})


def _is_phone(text: str) -> bool:
    return 7 <= sum(c in "0123456789" for c in text) <= 15


def _is_address(text: str) -> bool:
    # What is found has lost its dots and dashes; its form has seen to all but these.
    return not text.startswith("@")


def _form(pattern: str, before: str = _BEFORE) -> re.Pattern[str]:
    """Return a form: ~ is where a gap may be, % where one must, & where the one of ^ is again."""
    gaps = {"~": f"{_GAP}?", "%": _GAP, "^": f"(?P<gap>{_GAP}?)", "&": "(?P=gap)"}
    for sign, gap in gaps.items():
        pattern = pattern.replace(sign, gap)
    return re.compile(before + pattern + _AFTER)


# Of each length those countries that have it; both cases, as people write.
_IBAN = "|".join(
    f"(?i:{country})~[0-9]{{2}}(?:~[A-Za-z0-9]){{{length - 4}}}"
    for country, length in checksums.IBANS.items()
)
# A decimal that goes on is no phone, and neither is a group of a longer number.
_NO_GROUP = f"(?<![0-9]{_GAP})"
_NO_NUMBER = r"(?<![0-9A-Za-z.,/+-])" + _NO_GROUP
_ATOM = r"[\w!#$%&'*+/=?^`{|}~-]"

RULES = (
    Rule(
        "email",
        "address",
        1,
        # No longer than RFC 5321 allows: else one long word would take a square of its length.
        (
            re.compile(
                rf"(?<![\w!#$%&'*+/=?^`{{|}}~-])(?<!\w\.){_ATOM}{{1,64}}(?:\.{_ATOM}{{1,64}}){{0,9}}@"
                r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])"
            ),
        ),
        _is_address,
    ),
    Rule("iban", "iso-13616", 2, (_form(f"(?:{_IBAN})"),), checksums.iban),
    Rule(
        "card",
        "iso-7812",
        1,
        tuple(_form(f"[2-6](?:~[0-9]){{{length - 1}}}") for length in range(19, 11, -1)),
        checksums.card,
    ),
    # Before the numbers of people: what a + begins is none of them.
    Rule(
        "phone",
        "international",
        1,
        (
            _form(
                rf"(?:\+|{_NO_GROUP}00)[1-9][0-9]{{0,2}}"
                r"(?:~\([0-9]{1,5}\))?(?:(?:%|/| / )?[0-9]){5,13}",
                r"(?<![0-9A-Za-z.,+])",
            ),
        ),
        _is_phone,
    ),
    Rule(
        "id",
        "de-steuer-id",
        1,
        (_form("[1-9][0-9]^[0-9]{3}&[0-9]{3}&[0-9]{3}"),),
        checksums.steuer_id,
    ),
    Rule("id", "gb-nhs", 1, (_form("[0-9]{3}^[0-9]{3}&[0-9]{4}"),), checksums.nhs),
    Rule("id", "us-ssn", 1, (_form("[0-9]{3}%[0-9]{2}%[0-9]{4}"),), checksums.ssn),
    Rule("id", "es-dni-nie", 1, (_form("[XYZxyz0-9]~[0-9]{7}~[A-Za-z]"),), checksums.dni),
    Rule(
        "id",
        "fr-nir",
        1,
        (_form("[1-478]~[0-9]{2}~[0-9]{2}~(?:[0-9]{2}|2[ABab])~[0-9]{3}~[0-9]{3}~[0-9]{2}"),),
        checksums.nir,
    ),
    Rule(
        "id",
        "it-codice-fiscale",
        1,
        (_form("(?i:[A-Z]{6}~[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}~[A-Z][0-9LMNP-V]{3}[A-Z])"),),
        checksums.codice_fiscale,
    ),
    Rule("id", "nl-bsn", 1, (_form("[0-9]{4}^[0-9]{2}&[0-9]{3}"),), checksums.bsn),
    Rule(
        "id", "be-rrn", 1, (_form("[0-9]{2}~[0-9]{2}~[0-9]{2}~[0-9]{3}~[0-9]{2}"),), checksums.rrn
    ),
    Rule("id", "pl-pesel", 1, (_form("[0-9]{11}"),), checksums.pesel),
    Rule(
        "id",
        "se-personnummer",
        1,
        (_form("(?:19|20)?[0-9]{6}[-+]?[0-9]{4}"),),
        checksums.personnummer,
    ),
    Rule(
        "id",
        "fi-hetu",
        1,
        (_form("[0-3][0-9][01][0-9]{3}[-+A-FU-Y][0-9]{3}[0-9A-Y]"),),
        checksums.hetu,
    ),
    Rule("id", "no-fodselsnummer", 1, (_form("[0-7][0-9]{5}~[0-9]{5}"),), checksums.fodselsnummer),
    Rule("id", "ch-ahv", 1, (_form("756~[0-9]{4}~[0-9]{4}~[0-9]{2}"),), checksums.ahv),
    Rule(
        "phone",
        "north-american",
        1,
        (_form(r"(?:1%)?(?:\([2-9][0-9]{2}\)~|[2-9][0-9]{2}%)[2-9][0-9]{2}%[0-9]{4}", _NO_NUMBER),),
        _is_phone,
    ),
    # A 0 and two to five digits before a gap, or pairs: the day of a date is shorter.
    Rule(
        "phone",
        "national",
        1,
        (
            _form(r"(?:\(0[0-9]{1,5}\)~|0[0-9]{2,5}(?:%|/| / ))[0-9](?:~[0-9]){4,8}", _NO_NUMBER),
            _form("0[1-9](?:%[0-9]{2}){4}", _NO_NUMBER),
        ),
        _is_phone,
    ),
)
"""In the order in which they are applied."""
