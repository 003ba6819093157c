"""How much a message becomes, before it is unpacked: an empty field of two bytes becomes ninety.

Protocol Buffers makes an object of each message within a message, so that a request of a megabyte
that is nothing but empty tensors takes 46 times as much; and of a packed number of one byte eight.
What is here reads tags and lengths alone, counts packed numbers, and stops at too many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedlite.inference.serving.refused import Refused

_VARINT, _WIDE, _LENGTH, _NARROW = 0, 1, 2, 5
# Types of fields by their numbers in a descriptor: those of one width, in bytes, and those of any:
# int64, uint64, int32, bool, uint32, enum, sint32 and sint64.
_WIDTHS = {1: 8, 2: 4, 6: 8, 7: 4, 15: 4, 16: 8}
_WHOLE = frozenset((3, 4, 5, 8, 13, 14, 17, 18))
# Every byte that ends no number.
_GOES_ON = bytes(range(0x80, 0x100))


@dataclass
class _Left:
    """How many more fields and packed numbers may come."""

    fields: int
    numbers: int


def bound(data: bytes, kind: Any, most: int, numbers: int) -> None:
    """Raise Refused where a message, with all within, has more fields than `most`, or is none.

    kind: its descriptor. Numbers that are packed, and a tensor's raw contents, are one field.
    numbers: how many packed ones there may be, in all fields together; each takes 8 bytes at most.
    """
    _walk(data, 0, len(data), kind, _Left(most, numbers))


def _walk(data: bytes, at: int, end: int, kind: Any, left: _Left) -> None:
    while at < end:
        left.fields -= 1
        if left.fields < 0:
            raise Refused(
                "INVALID_ARGUMENT",
                "message: has more fields than its rows and tensors need; send numbers packed, or "
                "in raw_input_contents",
            )
        tag, at = _varint(data, at, end)
        how = tag & 7
        if how == _VARINT:
            _, at = _varint(data, at, end)
        elif how == _LENGTH:
            size, at = _varint(data, at, end)
            if at + size > end:
                raise _none()
            field = kind.fields_by_number.get(tag >> 3)
            if field is not None and field.message_type is not None:
                _walk(data, at, at + size, field.message_type, left)
            elif field is not None:
                left.numbers -= _packed(data, at, at + size, field.type)
                if left.numbers < 0:
                    raise Refused(
                        "INVALID_ARGUMENT",
                        "message: has more packed numbers than its rows need; send as many as the "
                        "shape says, once",
                    )
            at += size
        elif how in (_WIDE, _NARROW):
            at += 8 if how == _WIDE else 4
        else:
            # Groups, which nobody writes any more, could hold fields without end.
            raise _none()


def _packed(data: bytes, at: int, end: int, type_: int) -> int:
    """Return how many numbers a packed field becomes."""
    if type_ in _WHOLE:
        return len(data[at:end].translate(None, _GOES_ON))
    return (end - at) // _WIDTHS[type_] if type_ in _WIDTHS else 0


def _none() -> Refused:
    return Refused("INVALID_ARGUMENT", "message: must be one of Protocol Buffers, without groups")


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    found = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise _none()
        found |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return found, at
    raise _none()
