"""Redaction on a labelled set of its own: numbers with valid and with invalid checksums.

Covers fedlite/data/text/checksums.py, fedlite/data/text/redaction.py. The valid numbers are made
here by each rule's arithmetic in another form, or are the ones that their givers publish as
examples; an invalid one is a valid one with another last digit or letter.
"""

from __future__ import annotations

import random
import string
import time
from collections.abc import Callable

import pytest

from fedlite.data.text.redaction import RULES, redact, versions
from fedlite.scenario.texts import KINDS

RNG = random.Random(20)


def digits(count: int) -> str:
    return "".join(RNG.choices(string.digits, k=count))


def completed(body: str, right: Callable[[str], bool], marks: str = string.digits) -> str:
    """Return the body with the one last character with which it is right."""
    (mark,) = (mark for mark in marks if right(body + mark))
    return body + mark


def luhn(text: str) -> bool:
    """As people do it: double every second digit from the right, and add up all digits."""
    doubled = "".join(str(int(c) * (1 + at % 2)) for at, c in enumerate(text[::-1]))
    return sum(map(int, doubled)) % 10 == 0


def an_iban() -> str:
    """The two check digits are 98 less the remainder of the rest with 00 in their place."""
    country, bank, count = RNG.choice(
        [("DE", "", 18), ("GB", "WEST", 14), ("FR", "", 23), ("NL", "ABNA", 10)]
    )
    body = bank + digits(count)
    number = "".join(
        str(string.digits.find(c) if c.isdigit() else ord(c) - 55) for c in body + country
    )
    return f"{country}{98 - int(number + '00') % 97:02d}{body}"


def a_card() -> str:
    start, length = RNG.choice([("4", 16), ("51", 16), ("2221", 16), ("37", 15), ("6011", 16)])
    return completed(start + digits(length - 1 - len(start)), luhn)


def an_nhs() -> str:
    while True:
        body = digits(9)
        check = 11 - sum(int(c) * (10 - at) for at, c in enumerate(body)) % 11
        if check != 10:
            return body + str(check % 11)


def a_dni() -> str:
    body = digits(8)
    return body + "TRWAGMYFPDXBNJZSQVHLCKE"[int(body) % 23]


def a_nir() -> str:
    body = f"{RNG.choice('12')}{digits(2)}{RNG.randint(1, 12):02d}{RNG.randint(10, 95)}{digits(6)}"
    return f"{body}{97 - int(body) % 97:02d}"


def an_rrn() -> str:
    body = f"{RNG.randint(30, 99)}{RNG.randint(1, 12):02d}{RNG.randint(1, 28):02d}{digits(3)}"
    return f"{body}{97 - int(body) % 97:02d}"


def a_bsn() -> str:
    while True:
        text = RNG.choice("123456789") + digits(8)
        if (sum(int(c) * (9 - at) for at, c in enumerate(text[:8])) - int(text[8])) % 11 == 0:
            return text


def a_pesel() -> str:
    body = f"{RNG.randint(30, 99)}{RNG.randint(1, 12):02d}{RNG.randint(1, 28):02d}{digits(4)}"
    weights = (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)
    return completed(
        body, lambda t: sum(int(c) * w for c, w in zip(t, weights, strict=True)) % 10 == 0
    )


def a_personnummer() -> str:
    body = f"{RNG.randint(30, 99)}{RNG.randint(1, 12):02d}{RNG.randint(1, 28):02d}{digits(3)}"
    whole = completed(body, luhn)
    return f"{whole[:6]}-{whole[6:]}"


def a_hetu() -> str:
    day = f"{RNG.randint(1, 28):02d}{RNG.randint(1, 12):02d}{RNG.randint(30, 99)}"
    number = f"{RNG.randint(2, 899):03d}"
    return f"{day}-{number}{'0123456789ABCDEFHJKLMNPRSTUVWXY'[int(day + number) % 31]}"


def an_ahv() -> str:
    body = "756" + digits(9)
    even, odd = sum(map(int, body[1::2])), sum(map(int, body[::2]))
    return body + str(-(odd + 3 * even) % 10)


MADE: dict[str, tuple[str, Callable[[], str]]] = {
    "iban": ("iban", an_iban),
    "card": ("card", a_card),
    "nhs": ("id", an_nhs),
    "dni": ("id", a_dni),
    "nir": ("id", a_nir),
    "rrn": ("id", an_rrn),
    "bsn": ("id", a_bsn),
    "pesel": ("id", a_pesel),
    "personnummer": ("id", a_personnummer),
    "hetu": ("id", a_hetu),
    "ahv": ("id", an_ahv),
}
# As their givers or their wikis publish them.
EXAMPLES = {
    "iban": ("GB82 WEST 1234 5698 7654 32", "DE89 3704 0044 0532 0130 00", "NO93 8601 1117 947"),
    "card": ("4111 1111 1111 1111", "5555-5555-5555-4444", "378282246310005", "3530111333300000"),
    "id": (
        *("943 476 5919", "12345678Z", "X1234567L", "2 55 08 14 168 025 38", "111222333"),
        *("RSSMRA85T10A562S", "85.07.30-033 28", "44051401359", "811218-9876", "131052-308T"),
        *("15108695088", "756.9217.0769.85", "86095742719", "078-05-1120"),
    ),
    "email": ("jane.doe+x@mail.example.co.uk", "o'neil@example.org", "jürgen@köln.example"),
    "phone": (
        *("+49 30 1234567", "+1 (415) 555-2671", "0049 171 1234567", "(415) 555-2671"),
        *(
            "030/1234567",
            "0171 123 45 67",
            "01 23 45 67 89",
            "020 7946 0958",
            "+44 (0)20 7946 0958",
        ),
    ),
}
HARMLESS = (
    "on 2003-01-02 at 10:30, 12.05.2020, 01-02-2003",
    "1234567 units, 3.14159265, 0.00123456789, 1,234,567,890",
    "192.168.100.200, v1.2.3.4, pages 100-200, ICD-10 C50.911, LOINC 2160-0",
    "a@b, @handle, user@localhost, 5 @ 3.20",
    "90/60 mmHg, 37.2 C, 4-6-8 weeks, 100 200 300",
)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_published_examples_are_found_and_nothing_around_them(kind: str) -> None:
    for text in EXAMPLES[kind]:
        for around in ("{}", "see {}, please", "({})", "{}.", "x\n{}\ny", "no. {};"):
            found, counts = redact(around.format(text), KINDS)
            assert found == around.format(f"<{kind.upper()}>"), text
            assert sum(counts.values()) == counts[kind] == 1


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_alike_stays(text: str) -> None:
    assert redact(text, KINDS) == (text, dict.fromkeys(KINDS, 0))


@pytest.mark.parametrize("name", MADE)
def test_a_valid_checksum_is_found_and_an_invalid_one_stays(name: str) -> None:
    kind, make = MADE[name]
    found = wrong = 0
    for _ in range(300):
        valid = make()
        found += (
            redact(f"number {valid}, since May", (kind,))[0]
            == f"number <{kind.upper()}>, since May"
        )
        last = valid[-1]
        others = string.digits if last.isdigit() else string.ascii_uppercase
        invalid = valid[:-1] + RNG.choice([c for c in others if c != last])
        wrong += redact(f"number {invalid}, since May", (kind,))[1][kind]
    assert found == 300
    # A number may be another country's by chance: of eleven rules a few take one in ten or eleven.
    assert wrong <= (0 if kind in ("iban", "card") else 60), wrong


def test_numbers_in_one_line_do_not_hide_each_other() -> None:
    text = "4111111111111112 4111111111111111 and DE89370400440532013001 DE89370400440532013000"
    expected = "4111111111111112 <CARD> and DE89370400440532013001 <IBAN>"
    assert redact(text, ("iban", "card"))[0] == expected
    gaps = "pay 5500 0000 0000 0004 4111 1111 1111 1111 to GB82 WEST 1234 5698 7654 32 and 7 more"
    assert redact(gaps, KINDS)[0] == "pay <CARD> <CARD> to <IBAN> and 7 more"


def test_spaces_and_dashes_of_typesetting_are_gaps() -> None:
    for gap in (" ", "\u00a0", "\u202f", "\u2009", "-", "\u2011", "\u2013", "."):
        assert redact(gap.join(("4111", "1111", "1111", "1111")), ("card",))[0] == "<CARD>"


def test_only_what_is_asked_for_is_replaced_and_twice_is_as_once() -> None:
    text = "jane@example.org, 4111111111111111"
    assert redact(text, ("card",)) == ("jane@example.org, <CARD>", {"card": 1})
    assert redact(text, ()) == (text, {})
    once = redact(", ".join(sum(EXAMPLES.values(), ())), KINDS)[0]
    assert redact(once, KINDS) == (once, dict.fromkeys(KINDS, 0))


@pytest.mark.long
def test_no_text_takes_the_square_of_its_length() -> None:
    parts = ("a", "a.", "a@", "1 ", "+4", "(", "DE89 ", "0 0", "a-", "@a.", "0", "x@a-", "4 4")
    for part in parts:
        seconds = []
        for count in (20_000, 80_000):
            start = time.process_time()
            redact(part * (count // len(part)), KINDS)
            seconds.append(time.process_time() - start)
        assert seconds[1] < 10 * seconds[0] + 0.2, part


def test_every_rule_has_a_name_of_its_own_and_a_version() -> None:
    found = versions(KINDS)
    # One more is how a text is seen before any rule.
    assert len(found) == len(RULES) + 1 and all(version >= 1 for version in found.values())
    assert {rule.kind for rule in RULES} == set(KINDS)
    assert set(versions(("card",))) == {"card.iso-7812", "plain"}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("٤111 1111 1111 1111", "<CARD>"),
        ("\uff14\uff11\uff11\uff11-1111-1111-1111", "<CARD>"),
        ("4111\u200b1111\u200b1111\u200b1111!", "<CARD>!"),
        ("4111\u20071111\u30001111\u20031111", "<CARD>"),
        ("4111\u20141111\u20141111\u20141111", "<CARD>"),
        ("DE89\t3704\t0044\t0532\t0130\t00", "<IBAN>"),
        ("\uff24\uff25 89 3704 0044 0532 0130 00", "<IBAN>"),
        ("jane\uff20example。org", "<EMAIL>"),
        ("ja\u00adne@exam\u200bple.org", "<EMAIL>"),
        # What is not replaced stays as it was written, to the letter.
        (
            "é \uff14\uff12\u200b\u2003—\uff20 jane@example.org \uff14\u3000",
            "é \uff14\uff12\u200b\u2003—\uff20 <EMAIL> \uff14\u3000",
        ),
        ("\u200bé", "\u200bé"),
    ],
)
def test_another_width_script_or_what_no_screen_shows_hides_nothing(text: str, left: str) -> None:
    assert redact(text, KINDS)[0] == left
