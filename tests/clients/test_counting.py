"""A site's counts: exact or with noise that its ledger is charged for, once a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clients import counting
from clients.opening import open_simulated_site
from clients.site import Site
from fedlite import compression
from fedlite.data import Dataset
from fedlite.guard.guardian import Decline
from fedlite.inference import routing, told
from fedlite.inference.counted import noised_cells, site_counts
from fedlite.inference.told import COARSE, Cells, cells_of, coarser, decode
from fedlite.inference.work import Answering
from fedlite.messages import Code, Counted, Instruction
from fedlite.parameters import Vector, vector_digest
from fedlite.privacy.counting import run_of
from fedlite.privacy.ledger import Row, read
from fedlite.privacy.mechanism import RecordMechanism
from fedlite.privacy.noise import Stream
from fedlite.scenario import ScenarioError, from_dict
from server import broadcast

RUN = b"run-0001"
PRIVATE = {"unit": "record", "epsilon": 3.0, "sampling_rate": 0.2, "expected_batch": 40}


def opened(folder: Path, *, private: bool = True, **inference: Any) -> Site:
    tables: dict[str, Any] = {
        "federation": {"rounds": 2, "sites": 4},
        "model": {"name": "cosine"},
        "inference": {"calibration": 0.3, "alpha": 0.05} | inference,
    }
    if private:
        tables |= {"privacy": PRIVATE, "training": {"steps": 1}}
        tables["inference"] |= {"epsilon": 1.0}
    return open_simulated_site(from_dict(tables), 1, folder)


def model_of(site: Site) -> Vector:
    rng = np.random.default_rng(1)
    return rng.normal(size=site.plan.stored.size).astype(np.float32)


def question(site: Site, model: Vector | None = None, number: int = 3) -> bytes:
    vector = model_of(site) if model is None else model
    frame = broadcast.full(vector, number, site.plan.stored.digest, RUN)
    return Instruction(RUN, number, site.number, 0, vector_digest(vector), (frame,)).encode()


def cells_in(site: Site, said: Counted) -> Cells:
    asked = Instruction.decode(question(site))
    envelope = counting.envelope_of(site.plan, asked, site.number)
    noise = 3.7316 if site.scenario.private else 0.0
    codec, records, body = compression.unpack(said.frame, envelope, limit=told.length(noise))
    assert codec == told.CODEC and records == 0
    told.check(said.frame, noise)
    return decode(body, noise)


def rows(site: Site) -> list[Row]:
    home = getattr(site.guardian, "home", None)
    return read(home.ledger) if home and home.ledger.exists() else []


def clean(site: Site) -> Cells:
    """Return the site's exact counts, of all its records in one batch."""
    plan = site.plan
    model = plan.model()
    plan.load(model, model_of(site))
    released = counting._Released(model.eval(), plan.task)
    assert site.calibration is not None
    return cells_of(site_counts(site.scenario, released, site.calibration, plan.classes))


@pytest.fixture
def private(tmp_path: Path) -> Site:
    return opened(tmp_path)


def declined(site: Site, blob: bytes) -> Code:
    with pytest.raises(Decline) as caught:
        counting.counted(site, blob)
    return caught.value.code


def test_without_privacy_it_tells_its_exact_counts(tmp_path: Path) -> None:
    site = opened(tmp_path, private=False)
    said = counting.counted(site, question(site))
    assert said.head is None
    found = cells_in(site, said)
    np.testing.assert_array_equal(found.counts, clean(site).counts)
    assert site.calibration is not None and found.total == len(site.calibration) > 50


@pytest.mark.long
def test_private_counts_have_noise_and_stand_in_the_ledger_before_they_leave(
    tmp_path: Path,
) -> None:
    private = opened(tmp_path)
    said = counting.counted(private, question(private))
    found, exact = cells_in(private, said), coarser(clean(private))
    apart = found.counts - exact
    assert found.counts.shape == (2, len(COARSE)) and 1.5 < apart.std() < 7
    assert abs(apart.mean()) < 4
    assert [row.kind for row in rows(private)] == ["genesis", "reserve", "settle", "release"]
    plan = rows(private)[0].body["plan"]
    assert plan["run"] == run_of(RUN) and plan["epsilon_asked"] == 1.0
    assert (plan["noise_multiplier"], plan["sampling_rate"], plan["steps"]) == (3.7316, 1.0, 1)
    assert said.head is not None and said.head.seq == 3


def test_asked_again_it_sends_the_same_and_spends_nothing(private: Site) -> None:
    first = counting.counted(private, question(private))
    assert counting.counted(private, question(private)).frame == first.frame
    assert len(rows(private)) == 4
    # A server that asks with one model after the other would learn a little each time.
    assert declined(private, question(private, model_of(private) * 2)) is Code.BAD_INSTRUCTION
    assert len(rows(private)) == 4


def test_a_crash_between_reserving_and_sending_costs_the_counts_and_no_more(
    private: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*given: Any) -> Cells:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(counting, "_cells", crash)
        counting.counted(private, question(private))
    assert [row.kind for row in rows(private)] == ["genesis", "reserve"]
    assert declined(private, question(private)) is Code.BUDGET
    assert [row.kind for row in rows(private)] == ["genesis", "reserve", "refuse"]


def test_no_clean_count_is_on_disk_beside_what_left(private: Site, tmp_path: Path) -> None:
    said = counting.counted(private, question(private))
    exact = coarser(clean(private)).astype("<i4").tobytes()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert exact not in data and str(len(private.calibration or ())).encode() != data
    assert (private.path.with_suffix(".counts")).read_bytes() == said.frame


def without(site: Site, old: str, new: str) -> None:
    home = getattr(site.guardian, "home", None)
    assert home is not None
    path = home.path / "site.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('metrics = ["counts"]', "metrics = []", Code.POLICY),
        ('units = ["record"]', 'units = ["none"]', Code.POLICY),
        ("per_run = 0.0", "per_run = 3.5", Code.BUDGET),
        ("epsilon = 6.0", "epsilon = 0.5", Code.BUDGET),
    ],
)
def test_nothing_leaves_that_the_policy_does_not_allow(
    private: Site, old: str, new: str, code: Code
) -> None:
    without(private, old, new)
    assert declined(private, question(private)) is code
    assert not any(row.kind == "release" for row in rows(private))


def test_a_site_without_such_records_tells_noise_as_any_other(private: Site) -> None:
    assert private.calibration is not None
    empty = replace(private, calibration=private.calibration.take(np.arange(0)))
    found = cells_in(empty, counting.counted(empty, question(empty)))
    assert found.counts.any() and np.abs(found.counts).max() < 30


@pytest.mark.parametrize("router", sorted(routing.HOUSE))
def test_no_record_makes_a_private_site_fail(tmp_path: Path, router: str) -> None:
    private = opened(tmp_path, router=router)
    assert private.calibration is not None
    x, y = private.calibration.x.copy(), private.calibration.y.copy()
    x[0], x[1], x[2] = np.nan, np.inf, 1e-45
    x[3].flat[:2] = -3e38, 3e38
    x[4] = np.finfo(np.float32).max
    y[5], y[6] = -1, 10_000
    wrong = replace(private, calibration=Dataset(x, y))
    found = cells_in(wrong, counting.counted(wrong, question(wrong)))
    assert abs(found.total - len(x)) < 90


@pytest.mark.filterwarnings("ignore:.*encountered")
@pytest.mark.parametrize("router", sorted(routing.HOUSE))
def test_one_bad_record_more_is_one_more_in_one_cell(
    tmp_path: Path, router: str, caplog: pytest.LogCaptureFixture
) -> None:
    private = opened(tmp_path, router=router)
    plan, data = private.plan, private.calibration
    assert data is not None
    model = plan.model()
    plan.load(model, model_of(private))
    released = counting._Released(model.eval(), plan.task)
    mechanism = RecordMechanism(1.0, 2.0, 1.0, steps=1, expected_batch=1)
    few = data.take(np.arange(5))

    def told_of(part: Dataset, of: Answering) -> NDArray[np.int64]:
        stream = Stream.seeded(1)
        return noised_cells(private.scenario, of, part, plan.classes, mechanism, stream).counts

    class Failing:
        """Fails at one record as a model does that it is too much for."""

        def answers(self, part: Dataset) -> dict[str, NDArray[np.float64]]:
            if part.x[0].flat[0] == -3e38:
                raise IndexError("a patient's name")
            return released.answers(part)

    before = told_of(few, released)
    for value in (-3e38, np.nan, np.inf, float(np.finfo(np.float32).max)):
        x = few.x[:1].copy()
        x.flat[0], x.flat[1] = value, -value
        more = Dataset(np.concatenate([few.x, x]), np.r_[few.y, few.y[:1]])
        for of in (released, Failing()):
            change = told_of(more, of) - before
            assert change.sum() == 1 and np.abs(change).sum() == 1
    assert "IndexError" in caplog.text and "patient" not in caplog.text


def test_a_router_that_noise_does_not_cover_is_refused_before_anything_is_charged(
    private: Site,
) -> None:
    chosen = replace(private.scenario.inference, router="mine.py:first")
    scenario = replace(private.scenario, inference=chosen)
    own = replace(private, plan=replace(private.plan, scenario=scenario))
    with pytest.raises(ScenarioError, match=r"inference\.router: must be one of"):
        counting.counted(own, question(private))
    assert rows(private) == []


def test_a_record_is_counted_alike_whatever_stands_beside_it(tmp_path: Path) -> None:
    private = opened(tmp_path)
    plan, data = private.plan, private.calibration
    assert data is not None
    model = plan.model()
    # Surer answers, so that records fall into several cells.
    plan.load(model, model_of(private) * 4)
    released = counting._Released(model.eval(), plan.task)
    mechanism = RecordMechanism(1.0, 2.0, 1.0, steps=1, expected_batch=1)

    def told_of(rows: np.ndarray) -> np.ndarray:
        part = data.take(rows)
        stream = Stream.seeded(1)
        return noised_cells(
            private.scenario, released, part, plan.classes, mechanism, stream
        ).counts

    every = np.arange(40)
    apart = told_of(every) - told_of(every[:0])
    assert (apart.sum(axis=0) > 0).sum() > 3 and apart.sum() == 40
    for left_out in (0, 5, 17, 23, 39):
        change = told_of(every) - told_of(np.delete(every, left_out))
        assert change.sum() == 1 and np.abs(change).sum() == 1


@pytest.mark.parametrize("number", [1, 2, 4])
def test_only_after_the_last_round(private: Site, number: int) -> None:
    assert declined(private, question(private, number=number)) is Code.BAD_INSTRUCTION


def test_a_plan_without_calibration_tells_nothing(tmp_path: Path) -> None:
    site = opened(tmp_path, private=False)
    assert declined(replace(site, calibration=None), question(site)) is Code.BAD_INSTRUCTION
