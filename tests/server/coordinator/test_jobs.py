"""A run's life, with Flower played by a dictionary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedlite.deployment import journal
from fedlite.settings import Value
from server.coordinator import jobs
from server.coordinator.folder import Coordinator
from server.coordinator.jobs import Job, Keeper
from server.coordinator.setup import init


@dataclass
class Flower:
    status: dict[int, str] = field(default_factory=dict)
    started: list[tuple[bytes, dict[str, Value]]] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    error: Exception | None = None

    def start_run(self, fab: bytes, run_config: Mapping[str, Value], /) -> int:
        if self.error:
            raise self.error
        self.started.append((fab, dict(run_config)))
        self.status[len(self.started)] = "running"
        return len(self.started)

    def runs(self) -> dict[int, str]:
        return dict(self.status)

    def stop_run(self, run_id: int, /) -> None:
        self.stopped.append(run_id)
        self.status[run_id] = "finished:stopped"


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    made = init(tmp_path / "c", "study", "h:1")
    (made.bundles / "a.fab").write_bytes(b"bundle")
    (made.runs / "a").mkdir()
    jobs.save(made, Job("a", "00ff" * 4, "bundles/a.fab", "runs/a", wait=5.0))
    return made


@pytest.fixture
def flower() -> Flower:
    return Flower()


@pytest.fixture
def keeper(coordinator: Coordinator, flower: Flower) -> Keeper:
    keeper = Keeper(coordinator, flower)
    keeper.tick()
    return keeper


def test_a_job_is_started_once_with_what_is_said_beside_the_bundle(
    coordinator: Coordinator, flower: Flower, keeper: Keeper
) -> None:
    keeper.tick()
    beside = {"run.id": "00ff" * 4, "run.directory": str(coordinator.runs / "a"), "run.wait": 5.0}
    assert flower.started == [(b"bundle", beside)]
    assert jobs.load(coordinator, "a").flower_run == 1


@pytest.mark.parametrize(
    ("files", "state", "reason"),
    [
        ({"summary.json": "{}"}, "finished", ""),
        ({"failed.json": '{"reason": "no quorum"}'}, "failed", "no quorum"),
        ({"failed.json": "{"}, "failed", "cannot be read"),
    ],
)
def test_a_run_ends_as_its_directory_says(
    coordinator: Coordinator,
    flower: Flower,
    keeper: Keeper,
    files: dict[str, str],
    state: str,
    reason: str,
) -> None:
    for name, text in files.items():
        (coordinator.runs / "a" / name).write_text(text)
    keeper.tick()
    assert jobs.load(coordinator, "a").state == "running"  # Flower has not said so yet
    flower.status[1] = "finished:failed"
    keeper.tick()
    job = jobs.load(coordinator, "a")
    assert job.state == state and reason in job.reason and len(flower.started) == 1
    assert journal.read(coordinator.audit)[-1]["action"] == "run-end"


def test_a_crash_starts_the_same_run_again_and_four_without_a_round_are_enough(
    coordinator: Coordinator, flower: Flower, keeper: Keeper
) -> None:
    def crash() -> Job:
        flower.status[len(flower.started)] = "finished:failed"
        keeper.tick()
        return jobs.load(coordinator, "a")

    for restarts in (1, 2):
        assert crash().restarts == restarts
    (coordinator.runs / "a" / "rounds.jsonl").write_text("{}\n")
    for restarts in (1, 2, 3):
        job = crash()
        assert (job.restarts, job.rounds_at_restart, job.state) == (restarts, 1, "running")
    job = crash()
    assert job.state == "failed" and str(coordinator.logs) in job.reason
    assert len({json.dumps(beside) for _, beside in flower.started}) == 1
    assert len(flower.started) == 6

    assert jobs.resume(coordinator, "a").state == "running"
    keeper.tick()
    assert len(flower.started) == 7


def test_after_a_reboot_nothing_runs_twice_and_nobody_is_blamed(
    coordinator: Coordinator, flower: Flower, keeper: Keeper
) -> None:
    flower.status[99] = "running"  # started, and then the power went before it was written down
    for _ in range(5):
        Keeper(coordinator, flower).tick()
    assert {1, 99} <= set(flower.stopped)
    assert sum(text == "running" for text in flower.status.values()) == 1
    job = jobs.load(coordinator, "a")
    assert job.state == "running" and job.restarts == 0 and job.flower_run == 6
    assert unknown(coordinator) == [99]


def unknown(coordinator: Coordinator) -> list[int]:
    rows = journal.read(coordinator.audit)
    return [row["flower_run"] for row in rows if row["action"] == jobs.UNKNOWN_RUN]


def test_a_run_that_nobody_submitted_is_ended_and_written_down_once(
    coordinator: Coordinator, flower: Flower, keeper: Keeper
) -> None:
    flower.status |= {50: "running", 51: "finished:completed"}  # the second was quick
    for _ in range(3):
        keeper.tick()
    assert flower.stopped == [50] and flower.status[1] == "running"
    assert unknown(coordinator) == [50, 51]


def test_one_s_own_runs_are_never_taken_for_anothers(
    coordinator: Coordinator, flower: Flower, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.stop(coordinator, "a", flower)
    keeper.tick()
    jobs.resume(coordinator, "a")
    keeper.tick()
    keeper.superlink_died()
    keeper.tick()
    assert jobs.load(coordinator, "a").flower_run == 3
    again = Keeper(coordinator, flower)  # another start: what was over before is no news
    again.tick()
    again.tick()
    jobs.save(coordinator, Job("b", "11ff" * 4, "bundles/a.fab", "runs/b"))
    saved = jobs.save

    def no_room(*given: object) -> None:
        raise OSError("full")

    monkeypatch.setattr(jobs, "save", no_room)
    with pytest.raises(OSError, match="full"):
        again.tick()
    monkeypatch.setattr(jobs, "save", saved)
    again.tick()
    assert unknown(coordinator) == []


def test_a_superlink_that_died_took_its_runs_with_it(
    coordinator: Coordinator, flower: Flower, keeper: Keeper
) -> None:
    keeper.superlink_died()
    flower_down = Flower(error=ConnectionError("down"))
    keeper._control = flower_down
    flower_down.runs = lambda: (_ for _ in ()).throw(ConnectionError)  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        keeper.tick()
    keeper._control = flower  # it is there again, and what was to be done is not forgotten
    keeper.tick()
    assert flower.stopped == [1] and jobs.load(coordinator, "a").flower_run == 2
    assert jobs.load(coordinator, "a").restarts == 1


def test_a_run_that_flower_refuses_fails_with_its_word(
    coordinator: Coordinator, flower: Flower
) -> None:
    flower.error = RuntimeError("Flower refuses: bad bundle")
    keeper = Keeper(coordinator, flower)
    for _ in range(4):
        keeper.tick()
    job = jobs.load(coordinator, "a")
    assert job.state == "failed" and "bad bundle" in job.reason


def test_stopped_runs_stay_stopped(
    coordinator: Coordinator, flower: Flower, keeper: Keeper
) -> None:
    jobs.stop(coordinator, "a", flower)
    keeper.tick()
    assert flower.stopped == [1] and len(flower.started) == 1
    with pytest.raises(ValueError, match="but it is stopped"):
        jobs.stop(coordinator, "a", flower)


@pytest.mark.parametrize("name", ["b", "../a", "", "x/../a"])
def test_an_unknown_run_is_told_with_the_known_ones(coordinator: Coordinator, name: str) -> None:
    with pytest.raises(ValueError, match=r"there is none called .*; those here: a"):
        jobs.load(coordinator, name)


def test_one_damaged_file_does_not_hide_the_others(
    coordinator: Coordinator, flower: Flower
) -> None:
    (coordinator.jobs / "bad.json").write_text("{")
    Keeper(coordinator, flower).tick()
    assert [job.name for job in jobs.load_all(coordinator)] == ["a"]
    assert len(flower.started) == 1
