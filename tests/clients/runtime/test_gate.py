from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from clients.runtime.approval import loosened
from clients.runtime.gate import ApprovedRun, NotApproved, check, keep_refused
from fedlite.deployment import bundle
from fedlite.guard.policy import ApprovedBundle, SitePolicy

PROJECT = """
[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "clients.app:app"
[tool.flwr.app.config]
federation = { name = "heart", rounds = 30 }
privacy = { epsilon = 3.0, simulate_seed = -1 }
run = { id = "", directory = "", quiet = false }
training = { logit_adjustment = false, steps = 1 }
"""


def content(project: str = PROJECT, code: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pyproject.toml", project)
        archive.writestr("clients/app.py", code)
    return buffer.getvalue()


CONTENT = content()
FOUND = bundle.read(CONTENT)
APPROVED = ApprovedBundle(
    FOUND.sha256,
    settings=FOUND.settings,
    at_most={"federation.rounds": 90, "privacy.epsilon": 4.0},
)
POLICY = SitePolicy(bundles=(APPROVED,))
RUN = {"run.id": "00ff" * 4, "run.directory": "/anywhere", "run.quiet": True}


def test_an_approved_bundle_runs_with_what_every_run_brings_along() -> None:
    assert check(POLICY, CONTENT, {}) == ApprovedRun(FOUND, FOUND.settings, POLICY)
    assert check(POLICY, CONTENT, RUN).config == {**FOUND.settings, **RUN}


def test_one_changed_byte_is_another_bundle() -> None:
    for other in (content(code="#"), CONTENT + b"\n", b"", PROJECT.encode()):
        with pytest.raises(NotApproved, match="is not approved by this site"):
            check(POLICY, other, {})
    with pytest.raises(NotApproved, match="is not approved"):
        check(SitePolicy(), CONTENT, {})


@pytest.mark.parametrize(
    "config",
    [
        {"federation.rounds": 30},
        {"federation.rounds": 90},
        {"federation.rounds": 1},
        {"privacy.epsilon": 4.0},
        {"privacy.epsilon": 3},
        {"training.steps": 1},
        {"federation.name": "heart"},
    ],
)
def test_what_equals_or_stays_below_what_was_loosened_passes(config: dict[str, Any]) -> None:
    assert check(POLICY, CONTENT, {**RUN, **config}).config == {**FOUND.settings, **RUN, **config}


@pytest.mark.parametrize(
    "config",
    [
        {"federation.rounds": 91},
        {"federation.rounds": 30.0},
        {"federation.rounds": True},
        {"federation.rounds": "30"},
        {"privacy.epsilon": 4.1},
        {"privacy.epsilon": float("nan")},
        {"privacy.epsilon": float("inf")},
        {"privacy.simulate_seed": 1},
        {"privacy.simulate_seed": -2},
        {"training.steps": True},
        {"training.steps": 1.0},
        {"training.logit_adjustment": 0},
        {"training.logit_adjustment": True},
        {"federation.name": "other"},
    ],
)
def test_any_other_value_or_kind_is_refused_by_its_name(config: dict[str, Any]) -> None:
    (key,) = config
    with pytest.raises(NotApproved, match=f"{key}: must be the approved"):
        check(POLICY, CONTENT, {**RUN, **config})


@pytest.mark.parametrize("key", ["federation.extra", "rounds", "run.other", "", "Run.id"])
def test_an_unknown_key_is_refused(key: str) -> None:
    with pytest.raises(NotApproved, match="is no setting"):
        check(POLICY, CONTENT, {key: 1})


@pytest.mark.parametrize(
    "value", ["", "00FF" * 4, "0" * 15, "0" * 17, "../../../../etc/", 1, "0" * 16 + "\n"]
)
def test_a_run_s_id_is_sixteen_hex_digits(value: Any) -> None:
    with pytest.raises(NotApproved, match=r"run\.id: must be 16"):
        check(POLICY, CONTENT, {"run.id": value})


def test_an_approval_that_does_not_show_every_setting_allows_nothing() -> None:
    for settings in (
        {},
        {k: v for k, v in FOUND.settings.items() if k != "training.steps"},
        {**FOUND.settings, "training.more": 1},
    ):
        less = ApprovedBundle(FOUND.sha256, settings=settings)
        with pytest.raises(NotApproved, match="is not both"):
            check(SitePolicy(bundles=(less,)), CONTENT, {})


def test_an_approved_archive_that_breaks_the_rules_does_not_run_either() -> None:
    bad = content("tool = 1")
    policy = SitePolicy(bundles=(ApprovedBundle(bundle.digest(bad)),))
    with pytest.raises(NotApproved, match=r"pyproject\.toml"):
        check(policy, bad, {})


def test_of_refused_bundles_the_last_few_wait_and_each_is_told_once(tmp_path: Path) -> None:
    waiting = tmp_path / "bundles" / "waiting"
    for age, refused in enumerate([b"a", b"b", b"c", b"d", b"e", b"f", b"g"]):
        assert keep_refused(tmp_path, refused)
        assert not keep_refused(tmp_path, refused)
        newest = waiting / f"{bundle.digest(refused)}.fab"
        assert newest.read_bytes() == refused
        os.utime(newest, (age, age))
    assert {path.read_bytes() for path in waiting.iterdir()} == {b"c", b"d", b"e", b"f", b"g"}


def test_what_waits_has_bounds_each_and_together(tmp_path: Path) -> None:
    assert not keep_refused(tmp_path, bytes(bundle.MAX_BYTES + 1))
    assert not (tmp_path / "bundles").exists()
    for number in range(8):
        assert keep_refused(tmp_path, bytes([number]) + bytes(bundle.MAX_BYTES - 1))
    sizes = [path.stat().st_size for path in (tmp_path / "bundles" / "waiting").iterdir()]
    assert sizes == [bundle.MAX_BYTES] * 5 and sum(sizes) == 20_000_000


def test_a_clock_that_was_put_back_loses_no_bundle(tmp_path: Path) -> None:
    later = 4_000_000_000
    for refused in [b"a", b"b", b"c", b"d", b"e"]:
        keep_refused(tmp_path, refused)
        path = tmp_path / "bundles" / "waiting" / f"{bundle.digest(refused)}.fab"
        os.utime(path, (later, later))
    assert keep_refused(tmp_path, b"new")
    waiting = list((tmp_path / "bundles" / "waiting").iterdir())
    assert len(waiting) == 5 and b"new" in {path.read_bytes() for path in waiting}


def test_of_a_question_no_setting_is_loosened() -> None:
    """Each lower value would be another question, answered under the one approval."""
    asks = PROJECT + "statistics = { bins = 20, most_records = 1000 }\n"
    whole = content(asks)
    found = bundle.read(whole)
    with pytest.raises(ValueError, match=r"--at-most privacy\.epsilon=4: .* stays as it is"):
        loosened(found, ["privacy.epsilon=4"])
    loose = {"privacy.epsilon": 4.0, "statistics.bins": 30, "federation.rounds": 90}
    known = ApprovedBundle(found.sha256, settings=found.settings, at_most=loose)
    policy = SitePolicy(bundles=(known,))
    assert check(policy, whole, RUN).config["privacy.epsilon"] == 3.0
    for key, other in {**loose, "privacy.epsilon": 2.5, "statistics.most_records": 999}.items():
        with pytest.raises(NotApproved, match=f"^{key}: must be the approved"):
            check(policy, whole, RUN | {key: other})
