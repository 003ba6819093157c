"""What a server offers beside the model, and what a client believes of it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedlite.compression import COMPRESSORS
from fedlite.flower.offer import ENTRY, UP, Offer, compressor, give, take, up_link
from fedlite.scenario.keys import Link

LINK = Link("rotated-topk", density=0.03, error_feedback=False)
OFFER = Offer(3, 7, 2**64 - 1, LINK, ("bn*", "head.?"), 0, 5, "00ff")


def changed(**values: Any) -> bytes:
    return json.dumps(json.loads(OFFER.encode()) | values).encode()


def test_an_offer_comes_back() -> None:
    assert Offer.decode(OFFER.encode()) == OFFER


@pytest.mark.parametrize("data", [changed(v=2), changed(v="1"), b"[]", b"3"])
def test_another_version_is_no_offer(data: bytes) -> None:
    assert Offer.decode(data) is None


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "must be JSON"),
        (b"\xff\xfe", "must be JSON"),
        (b"[" * 5000, "must be JSON"),
        (b" " * 70_000, "at most 65536 bytes"),
        (changed(round="3"), "exactly round, sender"),
        (changed(sender=True), "exactly round, sender"),
        (changed(more=1), "exactly round, sender"),
        (changed(exact=[1]), "exact must hold texts"),
        (changed(link={"compressor": "topk"}), "must be one of dense, eden, randk, rotated-topk"),
        (changed(link={"compressor": "evil.py:make"}), "must be one of dense"),
        (changed(link={"compressor": "os:system"}), "must be one of dense"),
        (changed(link={"compressor": "eden", "bits": 99}), "from 1 to 8"),
        (changed(link={"compressor": "eden", "error_feedback": True}), "no such key"),
        (changed(link={"compressor": "randk", "values": "fp8"}), "values"),
        (changed(link={"compressor": "rotated-topk", "density": -1.0}), "from 0.0 to 1.0"),
    ],
)
def test_a_malformed_offer_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Offer.decode(data)


def test_no_name_of_an_offer_is_looked_for_outside_of_the_house() -> None:
    """A name such as `file.py:function` would run code of the server's choice at a client."""
    assert set(UP) < set(COMPRESSORS)


@pytest.mark.parametrize(
    ("link", "sizes", "small", "name"),
    [
        (LINK, (100_000,), 4096, "rotated-topk"),
        (LINK, (4095,), 4096, "dense"),
        (LINK, (4095,), 0, "rotated-topk"),
        (Link("eden", error_feedback=False), (9,), 0, "dense"),
        (Link("eden", error_feedback=False), (10,), 0, "eden"),
        (Link("rotated-topk", density=1.0, error_feedback=False), (1,), 0, "dense"),
    ],
)
def test_whatever_is_smaller_goes_out(
    link: Link, sizes: tuple[int, ...], small: int, name: str
) -> None:
    made = compressor(link, sizes, small)
    assert made.name == name
    assert made.limit(sum(sizes)) <= 4 * sum(sizes)


def test_links_for_up_never_need_a_memory() -> None:
    for name in UP:
        assert not up_link({"compressor": name}).error_feedback


def test_an_offer_is_given_with_a_copy_and_taken_out_again() -> None:
    config = ConfigRecord({"server-round": 3})
    arrays = ArrayRecord([np.zeros(3)])
    shared = RecordDict({"arrays": arrays, "config": config, "second": ConfigRecord({"a": 1})})
    given = give(shared, OFFER)
    assert ENTRY in given["config"] and ENTRY not in config and ENTRY not in given["second"]
    assert given["arrays"] is arrays
    rest, data = take(given)
    assert data == OFFER.encode()
    assert rest == shared and list(rest) == list(shared)


def test_an_offer_finds_a_place_where_there_is_no_config() -> None:
    shared = RecordDict({"arrays": ArrayRecord([np.zeros(3)]), "m": MetricRecord({"a": 1})})
    rest, data = take(give(shared, OFFER))
    assert data == OFFER.encode() and rest == shared
    assert take(shared) == (shared, None)
