"""Bytes in one of Flower's records: the form of everything that fedlite sends through Flower."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord

# Above this size the blob travels as one custom-typed Array, which Flower sends in chunks.
CHUNKED_ABOVE = 1_000_000


def to_record(blob: bytes, key: str, stype: str) -> ConfigRecord | ArrayRecord:
    """Return a record of one entry, `key`, that holds `blob`; `stype` names a chunked one's form.

    One record a message: each array of its own would cost about 450 bytes and a request.
    """
    if len(blob) <= CHUNKED_ABOVE:
        return ConfigRecord({key: blob})
    return ArrayRecord({key: Array("uint8", (len(blob),), stype, blob)})


def of_record(
    record: ArrayRecord | ConfigRecord | MetricRecord, key: str, stype: str
) -> bytes | None:
    """Return the blob of a record that `to_record` made; None for any other record."""
    if list(record.keys()) != [key]:
        return None
    value = record[key]
    if isinstance(value, Array) and value.stype == stype:
        value = value.data
    return value if isinstance(value, bytes) else None
