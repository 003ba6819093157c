"""A candidate beside the version in use, and what is watched of either: drills.

Covers fedlite/inference/serving/versions.py, fedlite/inference/serving/pairs.py,
fedlite/inference/serving/server.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

from fedlite.inference.bundle import Answers, Bundle, load
from fedlite.inference.serving.pairs import Pairs
from fedlite.inference.serving.refused import Refused
from fedlite.inference.serving.versions import Mix, Version, Versions, Work
from fedlite.inference.watching import TooOften
from tests.inference.forged import described, signed_anew
from tests.inference.serving.conftest import Live, asked

Start = Callable[..., Live]
LABELS = ("no", "yes")


class Stub:
    """A bundle whose answer to an input [1] is whether it is in a set, early or deep."""

    def __init__(self, wrong: float = 0.0, *, harm: float = 0.0, name: str = "a") -> None:
        self.labels, self.shape, self.told = LABELS, (3,), {"preprocessing": {"kind": "none"}}
        self.threshold, self.directory = 0.5, Path(name)
        self.wrong, self.harm = wrong, harm

    def answer(self, inputs: Any, *, deep: bool = False) -> Answers:
        # Columns: the truth, and two draws by which it errs.
        right = inputs[:, 0] > 0.5
        flip = inputs[:, 1] < self.wrong
        if not deep:
            flip = flip ^ (inputs[:, 2] < self.harm)
        yes = right ^ flip
        shares = np.stack([~yes, yes], axis=1).astype(np.float64)
        return Answers(LABELS, shares, np.full(len(yes), not deep), np.ones(len(yes)))


def version(stub: Stub, name: str, drift: TooOften | None = None) -> Version:
    return Version(stub, name, drift)  # type: ignore[arg-type]


def inputs(rows: int, rng: np.random.Generator) -> np.ndarray:
    return np.stack([rng.integers(0, 2, rows), rng.random(rows), rng.random(rows)], axis=1)


def drill(
    current: Stub, candidate: Stub, mix: Mix, requests: int, seed: int, labels: bool = True
) -> tuple[Versions, list[tuple[str, dict[str, Any]]]]:
    """Play requests of 20 rows whose labels follow, until the candidate is withdrawn."""
    said: list[tuple[str, dict[str, Any]]] = []
    versions = Versions(
        version(current, "one"), version(candidate, "two"), mix, lambda *told: said.append(told)
    )
    rng = np.random.default_rng(seed)
    for at in range(requests):
        x = inputs(20, rng)
        work = Work(x, versions.choose(""), ("c", str(at)))
        versions.look([work], versions.run([work]))
        if versions.candidate is None:
            break
        if labels:
            truth = [LABELS[int(one)] for one in x[:, 0]]
            versions.feedback(("c", str(at)), truth)
    return versions, said


@pytest.mark.parametrize("mix", [Mix(shadow=True), Mix(share=0.5)])
def test_a_candidate_three_points_worse_is_withdrawn_by_itself(mix: Mix) -> None:
    # It errs on 13 of 100, on 10 of which the version in use errs, too.
    versions, said = drill(Stub(0.10), Stub(0.13, name="b"), mix, 5000, 1)
    assert versions.candidate is None
    (action, told), *more = said
    assert not more and action == "withdraw" and told["version"] == "two"
    assert told["why"] == "is worse" and told["lost"] > told["won"] == 0
    versions.choose("one")
    with pytest.raises(Refused, match="model_version: must be empty or one"):
        versions.choose("two")
    assert versions.choose("") is versions.current


@pytest.mark.long
def test_an_equal_candidate_is_withdrawn_in_5_of_100_drills_at_most() -> None:
    class Other(Stub):
        """As often wrong, on other inputs."""

        def answer(self, inputs: Any, *, deep: bool = False) -> Answers:
            return super().answer(np.c_[inputs[:, 0], 1 - inputs[:, 1], inputs[:, 2]], deep=deep)

    gone = sum(
        drill(Stub(0.05), Other(0.05, name="b"), Mix(shadow=True), 100, seed)[0].candidate is None
        for seed in range(100)
    )
    assert gone <= 5
    worse = sum(
        drill(Stub(0.02), Other(0.05, name="b"), Mix(shadow=True), 300, seed)[0].candidate is None
        for seed in range(20)
    )
    assert worse == 20


def test_without_labels_one_that_answers_otherwise_too_often_is_withdrawn() -> None:
    mix = Mix(shadow=True, tolerance=0.05)
    versions, said = drill(Stub(0.1), Stub(0.3, name="b"), mix, 200, 2, False)
    assert versions.candidate is None and said[0][1]["why"] == "answers otherwise too often"
    versions, said = drill(Stub(0.1), Stub(0.12, name="b"), mix, 100, 3, False)
    assert versions.candidate is not None and not said


def test_a_shadow_answers_nobody_and_a_share_is_about_that() -> None:
    for mix, low, high in ((Mix(shadow=True), 0, 0), (Mix(share=0.1), 40, 180)):
        versions = Versions(
            version(Stub(), "one"), version(Stub(name="b"), "two"), mix, lambda *_: None
        )
        chosen = sum(versions.choose("") is versions.candidate for _ in range(1000))
        assert low <= chosen <= high
    assert versions.choose("two") is versions.candidate


def watched(harm: float, requests: int) -> tuple[Version, list[tuple[str, dict[str, Any]]]]:
    said: list[tuple[str, dict[str, Any]]] = []
    one = version(Stub(harm=harm), "one", TooOften(0.05, 0.01))
    versions = Versions(one, None, Mix(watch=0.5), lambda *told: said.append(told))
    rng = np.random.default_rng(4)
    for at in range(requests):
        work = Work(inputs(20, rng), one, ("c", str(at)))
        results = versions.run([work])
        versions.look([work], results)
        if one.deep:
            (found,) = versions.run([work])
            assert isinstance(found, Answers) and not found.early.any()
            break
    return one, said


def test_an_alarm_sends_all_deep_until_a_person_resets_it() -> None:
    one, said = watched(0.2, 200)
    assert one.deep and [action for action, _ in said] == ["alarm"]
    told = said[0][1]
    assert told["limit"] == 0.05 and told["differed"] > 0.05 * told["seen"] > 0
    versions = Versions(one, None, Mix(), lambda *_: None)
    assert versions.reset() == ["one"]
    assert not one.deep and one.drift is not None and one.drift.seen == 0
    quiet, said = watched(0.04, 200)
    assert not quiet.deep and not said
    assert quiet.drift is not None and 1500 < quiet.drift.seen < 2500, "a half is looked at"


def test_who_has_no_deep_answer_does_not_escape_the_watch() -> None:
    class Broken(Stub):
        def answer(self, inputs: Any, *, deep: bool = False) -> Answers:
            if deep:
                raise ValueError("x: its answer is NaN")
            return super().answer(inputs)

    one = version(Broken(), "one", TooOften(0.05, 0.01))
    versions = Versions(one, None, Mix(watch=1.0), lambda *_: None)
    work = Work(inputs(20, np.random.default_rng(5)), one, ("c", "1"))
    versions.look([work], versions.run([work]))
    assert not one.deep, "a request is one bet, however many rows it has"
    versions.look([work] * 3, versions.run([work] * 3))
    assert one.deep


def classes(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_labels_count_once_and_for_ones_own_requests_only() -> None:
    pairs = Pairs()
    assert pairs.answered(("a", "1"), False, classes(0, 1)) is None
    for whose in (("b", "1"), ("a", "2")):
        with pytest.raises(Refused, match="id: must be of a request of yours"):
            pairs.labelled(whose, classes(0, 1))
    with pytest.raises(Refused, match="labels: must be 2, one a row"):
        pairs.labelled(("a", "1"), classes(0))
    # Labels may come before the other version has answered.
    assert pairs.labelled(("a", "1"), classes(0, 0)) is None
    with pytest.raises(Refused, match="has no labels yet"):
        pairs.labelled(("a", "1"), classes(0, 0))
    found = pairs.answered(("a", "1"), True, classes(1, 1))
    assert found is not None
    assert [one.tolist() for one in found] == [[0, 1], [1, 1], [0, 0]]
    with pytest.raises(Refused):
        pairs.labelled(("a", "1"), classes(0, 0))
    # An id that comes again is another request: no pair is made of two of them.
    pairs.answered(("a", "3"), False, classes(0))
    pairs.answered(("a", "3"), False, classes(1))
    pairs.answered(("a", "3"), True, classes(1))
    found = pairs.labelled(("a", "3"), classes(1))
    assert found is not None and found[0].tolist() == [1]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedlite.inference.serving.pairs._ROWS", 10)
    pairs = Pairs()
    for at in range(100):
        pairs.answered(("a", str(at)), False, classes(0, 0, 0))
    assert len(pairs._entries) == 3 and pairs._rows == 9
    pairs.answered(("a", ""), False, classes(0))
    assert len(pairs._entries) == 3, "no label can follow it"


def other(made: Path, to: Path, **changed: Any) -> Bundle:
    """Return the bundle with another description, signed by another key."""
    signed_anew(made, to, bundle_json=described(made, **changed))
    return load(to)


def test_a_candidate_must_be_able_to_stand_in(made: Path, bundle: Bundle, tmp_path: Path) -> None:
    one = Version.of(bundle, 0.01)
    labels = [f"number {label}" for label in bundle.labels]
    for name, given, rule in (
        ("l", {"labels": labels}, "must have the same labels"),
        ("p", {"preprocessing": {"kind": "none", "fills": True}}, "same preparation of inputs"),
    ):
        two = Version.of(other(made, tmp_path / name, **given), 0.01)
        with pytest.raises(ValueError, match=rule):
            Versions(one, two, Mix(shadow=True), lambda *_: None)
    shutil.copytree(made, tmp_path / "same")
    with pytest.raises(ValueError, match="must be another bundle"):
        Versions(one, Version.of(load(tmp_path / "same"), 0.01), Mix(shadow=True), lambda *_: None)
    assert one.drift is not None and one.drift.limit == bundle.told["calibrated"]["alpha"]
    assert Version.of(other(made, tmp_path / "n", calibrated=None), 0.01).drift is None


def test_a_version_is_of_what_was_loaded(made: Path, tmp_path: Path) -> None:
    other(made, tmp_path / "new", calibrated=None)
    link = tmp_path / "current"
    link.symlink_to(made)
    loaded, name = load(link), Version.of(load(made), 0.01).name
    link.unlink()
    link.symlink_to(tmp_path / "new")
    # An alarm would else be the new one's, and the old one would answer early after a restart.
    assert Version.of(loaded, 0.01).name == name


def test_two_versions_over_the_wire_and_across_a_restart(
    start: Start, made: Path, bundle: Bundle, tmp_path: Path
) -> None:
    from tests.inference.serving.conftest import running

    candidate = other(made, tmp_path / "two", scenario="other")
    kept = tmp_path / "kept"
    x = np.random.default_rng(6).uniform(0, 1, (8, 1, 8, 8)).astype(np.float32)
    with running(bundle, candidate, mix=Mix(shadow=True), keep=kept) as live:
        one, two = (each.name for each in live.service.versions.all())
        assert live.ask("ModelInfer", asked(x, id="r")).model_version == one
        found = live.ask("ModelInfer", asked(x, model_version=two))
        assert found.model_version == two
        labels = list(bundle.predict(x).labels)
        assert live.ask("Feedback", id="r", labels=labels).taken == 8
        for how, code in (
            ({"id": "r", "labels": labels}, "NOT_FOUND"),
            ({"id": "none", "labels": labels}, "NOT_FOUND"),
            ({"id": "r", "labels": ["ten"]}, "INVALID_ARGUMENT"),
            ({"id": "r"}, "INVALID_ARGUMENT"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                live.ask("Feedback", **how)
            assert caught.value.code().name == code  # type: ignore[attr-defined]
        told = json.loads(live.ask("Status").json)
        assert told["compared"] == 16 and told["labelled"]["pairs"] == 8
        assert [row["role"] for row in told["versions"]] == ["current", "candidate"]
        with pytest.raises(grpc.RpcError, match="why: must be 1 to 200"):
            live.ask("Withdraw")
        told = json.loads(live.ask("Withdraw", why="a drill").json)
        assert len(told["versions"]) == 1 and told["withdrawn"] == [two]
        live.service.versions._tell("alarm", {"version": one, "seen": 1})
    rows = [json.loads(line) for file in kept.glob("audit-*") for line in file.open()]
    assert [row["action"] for row in rows] == ["withdraw", "alarm"]
    assert rows[0]["why"] == "a drill" and rows[0]["version"] == two
    # Neither is forgotten by a restart; a person may end the alarm.
    with running(bundle, candidate, mix=Mix(shadow=True), keep=kept) as live:
        assert any("was withdrawn before" in line for line in live.said)
        assert len(live.service.versions.all()) == 1
        early = [o.name for o in live.ask("ModelInfer", asked(x)).outputs].index("early")
        assert not any(live.ask("ModelInfer", asked(x)).raw_output_contents[early])
        live.ask("Reset", why="looked at")
        assert any(live.ask("ModelInfer", asked(x)).raw_output_contents[early])
    assert json.loads((kept / "state.json").read_text())["deep"] == []


def test_one_request_that_has_no_answer_is_refused_alone() -> None:
    class Picky(Stub):
        def answer(self, inputs: Any, *, deep: bool = False) -> Answers:
            if (inputs[:, 0] == 9).any():
                raise ValueError("x: row is NaN")
            return super().answer(inputs, deep=deep)

    one = version(Picky(), "one")
    versions = Versions(one, None, Mix(), lambda *_: None)
    rng = np.random.default_rng(7)
    works = [Work(inputs(3, rng), one, ("c", str(at))) for at in range(4)]
    works[2].inputs[1, 0] = 9
    found: Sequence[Any] = versions.run(works)
    assert [isinstance(each, Answers) for each in found] == [True, True, False, True]
    assert one.rows == 9 and SimpleNamespace(code="INVALID_ARGUMENT").code == found[2].code
