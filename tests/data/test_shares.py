"""Shares that are made when they are asked for, against those made at once."""

from __future__ import annotations

import numpy as np
import pytest

from fedlite.data import shares
from fedlite.data.dataset import Dataset, SiteData
from fedlite.data.shares import Shares, sizes


def made(count: int) -> tuple[Shares, list[SiteData]]:
    rng = np.random.default_rng(4)
    records = Dataset(
        rng.normal(size=(200, 3)).astype(np.float32),
        rng.integers(0, 2, 200),
        more={"a": rng.random(200)},
    )
    places = [rng.permutation(200)[: rng.integers(3, 9)] for _ in range(count)]
    parts = [(at[:-2], at[-2:-1], at[-1:] if n % 2 else None) for n, at in enumerate(places)]
    names = [f"s{n}" for n in range(count)]
    eager = [
        SiteData(name, records.take(one), records.take(two), None if k is None else records.take(k))
        for name, (one, two, k) in zip(names, parts, strict=True)
    ]
    return Shares(records, names, parts), eager


def same(one: SiteData, other: SiteData) -> bool:
    pairs = [(one.train, other.train), (one.test, other.test), (one.calibration, other.calibration)]
    return one.name == other.name and all(
        (a is None) == (b is None) and (a is None or b is None or a.digest() == b.digest())
        for a, b in pairs
    )


@pytest.mark.parametrize("kept", [1, 3, 100])
def test_each_site_holds_what_it_would_hold_at_once(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "_KEPT", kept)
    found, truth = made(10)
    for at in (0, 9, -1, 4, 4, 0):
        assert same(found[at], truth[at])
    assert all(same(a, b) for a, b in zip(found, truth, strict=True))
    assert len(found._made) <= kept
    assert [site.name for site in found[2:5]] == ["s2", "s3", "s4"]
    assert found.sizes == [len(site.train) for site in truth]
    assert sizes(found) == sizes(truth)
    for at in (10, -11):
        with pytest.raises(IndexError):
            found[at]


def test_what_is_done_to_records_is_done_when_they_are_taken() -> None:
    found, truth = made(4)
    calls: list[str] = []

    def doubled(site: SiteData) -> SiteData:
        calls.append(site.name)
        return site.each(lambda part: Dataset(part.x * 2, part.y))

    changed = found.each(doubled)
    assert not calls and changed.sizes == found.sizes
    np.testing.assert_array_equal(changed[2].train.x, truth[2].train.x * 2)
    assert calls == ["s2"]
