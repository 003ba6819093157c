"""Whether a number is what its form says, by its checksum: accounts, cards, people.

Each function takes the number without gaps, in the form that `redaction` has found, and nothing
longer or shorter.

Sources: ISO 13616 (IBAN), ISO/IEC 7812 (cards), ISO 7064, and of the numbers of people those who
give them out.
"""

from __future__ import annotations

import re

# Length by country, from the registry of SWIFT.
_BY_LENGTH = {
    15: "NO",
    16: "BE",
    18: "DK FI FK FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
IBANS = {country: length for length, found in _BY_LENGTH.items() for country in found.split()}
"""How many characters an IBAN has, by its country."""


def luhn(digits: str) -> bool:
    """Whether digits add up as ISO/IEC 7812-1 wants.

    >>> luhn("79927398713"), luhn("79927398710")
    (True, False)
    """
    doubled = (2 * int(c) if at % 2 else int(c) for at, c in enumerate(reversed(digits)))
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def iban(text: str) -> bool:
    """Whether it is an IBAN: mod 97 is 1, and the length is its country's.

    >>> iban("DE89370400440532013000"), iban("DE89370400440532013001")
    (True, False)
    """
    text = text.upper()
    if IBANS.get(text[:2]) != len(text):
        return False
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


def card(digits: str) -> bool:
    """Whether it is the number of a payment card: of a network's length and range, and `luhn`.

    >>> card("4111111111111111"), card("4111111111111112")
    (True, False)
    """
    return any(form.fullmatch(digits) for form in _CARDS) and luhn(digits)


_CARDS = tuple(
    map(
        re.compile,
        (
            r"4([0-9]{12}|[0-9]{15}|[0-9]{18})",  # Visa
            r"(5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}",
            r"3[47][0-9]{13}",  # American Express
            r"3(0[0-5]|[68][0-9])[0-9]{11}",  # Diners
            r"(6011|64[4-9][0-9]|65[0-9]{2})[0-9]{12}",  # Discover
            r"35(2[89]|[3-8][0-9])[0-9]{12}",  # JCB
            r"62[0-9]{14,17}",  # UnionPay
            r"(5018|5020|5038|6304|6759|676[1-3])[0-9]{8,15}",  # Maestro
        ),
    )
)


def _weighted(digits: str, weights: tuple[int, ...]) -> int:
    return sum(weight * int(digit) for weight, digit in zip(weights, digits, strict=True))


def nhs(digits: str) -> bool:
    """Whether it is an NHS number: mod 11 by falling weights."""
    return _weighted(digits, (10, 9, 8, 7, 6, 5, 4, 3, 2, 1)) % 11 == 0 and digits != "0" * 10


def steuer_id(digits: str) -> bool:
    """Whether it is a German Steuer-ID: ISO 7064 mod 11, 10.

    Of its first ten digits one stands there twice or three times.
    """
    most = max(digits[:10].count(digit) for digit in "0123456789")
    if digits[0] == "0" or most not in (2, 3):
        return False
    product = 10
    for digit in digits[:10]:
        product = (product + int(digit)) % 10 or 10
        product = product * 2 % 11
    return (11 - product) % 10 == int(digits[10])


def dni(text: str) -> bool:
    """Whether a Spanish DNI or NIE has the letter of its number mod 23."""
    text = text.upper()
    number = int(text[:-1].translate({ord("X"): "0", ord("Y"): "1", ord("Z"): "2"}))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23] == text[-1]


def nir(text: str) -> bool:
    """Whether it is a French NIR: 97 less mod 97; the letters of Corsica stand for 19 and 18."""
    number = int(text[:-2].upper().replace("2A", "19").replace("2B", "18"))
    return 97 - number % 97 == int(text[-2:])


_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (
            *(1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20),
            *(11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
        ),
        strict=True,
    )
)


def codice_fiscale(text: str) -> bool:
    """Whether an Italian codice fiscale has the letter of its characters, mod 26."""
    text = text.upper()
    odd = sum(_ODD[c] for c in text[:15:2])
    even = sum(int(c, 36) - (10 if c.isalpha() else 0) for c in text[1:15:2])
    return (odd + even) % 26 == ord(text[15]) - ord("A")


def bsn(digits: str) -> bool:
    """Whether it passes the Dutch eleven test, as a BSN does."""
    return _weighted(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0 and int(digits) > 9_999_999


def rrn(digits: str) -> bool:
    """Whether it is a Belgian number: 97 less mod 97; from 2000 on with a 2 before it."""
    rest = int(digits[9:])
    dated = 1 <= int(digits[2:4]) % 20 <= 12 and 1 <= int(digits[4:6]) <= 31
    return dated and rest in (97 - int(digits[:9]) % 97, 97 - int("2" + digits[:9]) % 97)


def pesel(digits: str) -> bool:
    """Whether it is a Polish PESEL: a day, and mod 10 by weights."""
    dated = 1 <= int(digits[2:4]) % 20 <= 12 and 1 <= int(digits[4:6]) <= 31
    return dated and _weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0


def personnummer(text: str) -> bool:
    """Whether it is a Swedish personnummer: a day, and `luhn`."""
    digits = text.replace("+", "")[-10:]
    dated = 1 <= int(digits[2:4]) <= 12 and 1 <= int(digits[4:6]) % 60 <= 31
    return dated and luhn(digits)


def hetu(text: str) -> bool:
    """Whether a Finnish personal code has the letter of its digits mod 31."""
    digits = re.sub("[^0-9]", "", text[:-1])
    return "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(digits) % 31] == text[-1].upper()


def fodselsnummer(digits: str) -> bool:
    """Whether it is a Norwegian fødselsnummer: mod 11 by two rows of weights."""
    first = _weighted(digits[:10], (3, 7, 6, 1, 8, 9, 4, 5, 2, 1)) % 11
    return first == 0 and _weighted(digits, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)) % 11 == 0


def ahv(digits: str) -> bool:
    """Whether it is a Swiss AHV number, which is an EAN-13."""
    return _weighted(digits, (1, 3) * 6 + (1,)) % 10 == 0


def ssn(digits: str) -> bool:
    """Whether it can be a US SSN, which has no checksum, but parts that are given to nobody."""
    area = digits[:3]
    given = area not in ("000", "666") and area < "900"
    return given and digits[3:5] != "00" and digits[5:] != "0000"
