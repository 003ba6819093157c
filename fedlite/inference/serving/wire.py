"""How many fields a message has, before it is unpacked: an empty one of two bytes becomes ninety.

Protocol Buffers makes an object of each message within a message, so that a request of a megabyte
that is nothing but empty tensors takes 46 times as much. What is here reads tags and lengths alone,
and stops where there are too many.
"""

from __future__ import annotations

from typing import Any

from fedlite.inference.serving.refused import Refused

_VARINT, _WIDE, _LENGTH, _NARROW = 0, 1, 2, 5


def bound(data: bytes, kind: Any, most: int) -> None:
    """Raise Refused where a message, with all within, has more fields than `most`, or is none.

    kind: its descriptor. Numbers that are packed, and a tensor's raw contents, are one field.
    """
    _walk(data, 0, len(data), kind, most)


def _walk(data: bytes, at: int, end: int, kind: Any, left: int) -> int:
    """Return how many more fields may come behind `end`."""
    while at < end:
        left -= 1
        if left < 0:
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
                left = _walk(data, at, at + size, field.message_type, left)
            at += size
        elif how in (_WIDE, _NARROW):
            at += 8 if how == _WIDE else 4
        else:
            # Groups, which nobody writes any more, could hold fields without end.
            raise _none()
    return left


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
