from __future__ import annotations

import hashlib
import json
import logging
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from typer.testing import CliRunner

from fedlite.commands.main import app
from fedlite.data.spread import spread
from fedlite.privacy.budget import Budget
from fedlite.privacy.ledger import read
from fedlite.scenario import Scenario, ScenarioError, from_dict, load, with_values
from server import checkpoint
from simulations import run
from simulations.run import simulate

Plan = Callable[..., Scenario]
Outcome = Callable[[Path], tuple[bytes, list[dict[str, Any]]]]
Wire = dict[str, dict[Any, Any]]
Arm = Callable[[pytest.MonkeyPatch], None]
Killed = Callable[[Callable[[], None], Arm], bool]
Trap = Callable[[Any, str, int, str], Arm]
ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("private", [False, True])
def test_a_pool_of_workers_equals_one_process_bit_for_bit(
    plan: Plan, tmp_path: Path, wire: Wire, outcome: Outcome, private: bool
) -> None:
    found = []
    for engine in ("serial", "pool"):
        for part in wire.values():
            part.clear()
        simulate(plan(private), tmp_path / engine, engine=engine, quiet=True)
        found.append((outcome(tmp_path / engine), dict(wire["hashes"])))
    assert len(found[0][1]) == 9
    assert found[0] == found[1]
    assert json.loads((tmp_path / "pool" / "summary.json").read_text())["engine"] == "pool"


@pytest.mark.usefixtures("undrawn")
def test_private_noise_is_new_in_every_run_unless_it_is_only_simulated(
    plan: Plan, tmp_path: Path, wire: Wire, outcome: Outcome
) -> None:
    def payloads(name: str, seed: int) -> dict[Any, str]:
        wire["hashes"].clear()
        simulate(plan(True, seed), tmp_path / name, engine="serial", quiet=True)
        return dict(wire["hashes"])

    real, again = payloads("a", -1), payloads("b", -1)
    assert real.keys() == again.keys()
    assert not set(real.values()) & set(again.values())
    assert payloads("c", 4) == payloads("d", 4)
    assert outcome(tmp_path / "c") == outcome(tmp_path / "d")
    summaries = {n: json.loads((tmp_path / n / "summary.json").read_text()) for n in "abcd"}
    assert [summaries[n]["privacy"]["claimed"] for n in "abcd"] == [True, True, False, False]
    for site in summaries["a"]["privacy"]["sites"].values():
        assert 0.99 < site["epsilon"]["pld"] <= 1.0 and site["accountants_agree"]
    rows = outcome(tmp_path / "a")[1]
    assert rows[0]["epsilon"] < rows[1]["epsilon"] < rows[2]["epsilon"] <= 1.0
    assert all(row["epsilon"] is None for row in outcome(tmp_path / "c")[1])


@pytest.mark.usefixtures("undrawn")
def test_bytes_in_the_record_are_the_bytes_on_the_grid(
    plan: Plan, tmp_path: Path, wire: Wire, outcome: Outcome
) -> None:
    small = plan(federation={"sites": 3, "participation": 0.6, "rounds": 5})
    simulate(small, tmp_path / "run", engine="serial", quiet=True)
    rows = outcome(tmp_path / "run")[1]
    assert {r["round"]: r["bytes_up"] for r in rows} == wire["up"]
    assert {r["round"]: r["bytes_down"] for r in rows} == wire["down"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["bytes"]["up"] == sum(wire["up"].values())
    assert summary["bytes"]["down"] == sum(wire["down"].values())
    dense = sum(r["dense_up"] for r in rows)
    assert dense == 4 * summary["parameters"] * len(wire["hashes"])


# A process that is killed ------------------------------------------------------------------------


def points() -> Iterator[tuple[str, str, int, str]]:
    # Every durable change is one rename: scenario, record, 3 x 3 site states, 3 checkpoints.
    for call, when in ((2, "after"), (4, "before"), (5, "after"), (9, "before"), (13, "after")):
        yield "os", "replace", call, when
    # Between the last site's save and the server's checkpoint; between record and checkpoint.
    yield "server.checkpoint", "save", 2, "before"
    yield "server.rounds", "append_round", 3, "after"
    # When all rounds are done, but the summary is not written.
    yield "server.closing", "write_summary", 1, "before"


@pytest.fixture(scope="module")
def truths() -> dict[bool, tuple[bytes, list[dict[str, Any]]]]:
    return {}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("private", "module", "name", "call", "when"),
    [
        *[(False, *point) for point in points()],
        (True, "server.checkpoint", "save", 2, "before"),
        (True, "server.rounds", "append_round", 2, "after"),
    ],
)
def test_a_killed_run_that_goes_on_equals_one_that_was_not_killed(
    killed: Killed,
    trap: Trap,
    plan: Plan,
    tmp_path: Path,
    outcome: Outcome,
    truths: dict[bool, Any],
    private: bool,
    module: str,
    name: str,
    call: int,
    when: str,
) -> None:
    if private not in truths:
        simulate(plan(private), tmp_path / "whole", engine="serial", quiet=True)
        truths[private] = outcome(tmp_path / "whole")
    directory = tmp_path / "run"
    arm = trap(sys.modules[module], name, call, when)
    assert killed(lambda: simulate(plan(private), directory, engine="serial", quiet=True), arm)
    assert not (directory / "summary.json").exists()
    simulate(run.resume_scenario(directory), directory, engine="serial", quiet=True)
    assert outcome(directory) == truths[private]


@pytest.mark.usefixtures("undrawn")
def test_a_kill_after_the_reservation_costs_that_round_and_never_more_than_the_plan(
    killed: Killed, trap: Trap, plan: Plan, tmp_path: Path, outcome: Outcome
) -> None:
    directory = tmp_path / "run"
    real = with_values(plan(True), "privacy", simulate_seed=-1)
    # The second site's reservation in the first round.
    arm = trap(Budget, "reserve", 2, "after")
    assert killed(lambda: simulate(real, directory, engine="serial", quiet=True), arm)
    simulate(run.resume_scenario(directory), directory, engine="serial", quiet=True)
    rows = outcome(directory)[1]
    assert [row["dropped"] for row in rows] == [{}, {}, {"site-02": "budget"}]
    for number in (1, 2, 3):
        kinds = [row.kind for row in read(directory / "ledgers" / f"site-0{number}.jsonl")]
        assert kinds.count("reserve") == 3
        assert kinds.count("release") == (2 if number == 2 else 3)


@pytest.mark.usefixtures("undrawn")
def test_sigkill_at_a_random_moment(plan: Plan, tmp_path: Path, outcome: Outcome) -> None:
    many = plan(federation={"rounds": 30, "evaluate_every": 10})
    file = tmp_path / "small.toml"
    file.write_text(many.to_toml())
    directory = tmp_path / "run"
    command = [sys.executable, "-c", "from fedlite.cli import main; main()", "simulate", str(file)]
    command += ["--engine", "serial", "--json", "--out", str(directory)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    record = directory / "rounds.jsonl"
    until = time.monotonic() + 60
    while not (record.exists() and record.stat().st_size) and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(random.uniform(0.0, 0.15))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = len(record.read_text().splitlines())
    assert 1 <= done < 30
    simulate(run.resume_scenario(directory), directory, engine="serial", quiet=True)
    simulate(many, tmp_path / "whole", engine="serial", quiet=True)
    assert outcome(directory) == outcome(tmp_path / "whole")


# Disk full ---------------------------------------------------------------------------------------


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount 2 MB of memory as a file system, or skip where that is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "fedlite-test", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.usefixtures("undrawn")
def test_a_disk_that_fills_up_leaves_the_last_checkpoint_usable(
    plan: Plan,
    tmp_path: Path,
    tiny_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    outcome: Outcome,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = tmp_path / "small.toml"
    file.write_text(plan(federation={"rounds": 4}).to_toml())
    simulate(plan(federation={"rounds": 4}), tmp_path / "whole", engine="serial", quiet=True)
    arguments = ["simulate", str(file), "--engine", "serial", "--json"]
    directory = tiny_disk / "run"
    result = CliRunner().invoke(app, [*arguments, "--out", str(directory)])
    assert result.exit_code == 1 and "needs 200 MB of free disk" in result.output
    assert not directory.exists()

    monkeypatch.setattr(run, "_FREE_BYTES", 0)
    filler, save, saved = tiny_disk / "filler", checkpoint.save, iter(range(1, 99))

    def fill(folder: Path, point: Any) -> None:
        save(folder, point)
        if next(saved) == 2:
            with filler.open("wb", buffering=0) as rest:
                try:
                    while rest.write(bytes(4096)):
                        pass
                except OSError:
                    return

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", fill)
        result = CliRunner().invoke(app, [*arguments, "--out", str(directory)])
    assert result.exit_code == 1
    assert "no space left on device; make room" in result.output
    # A site's traceback used to stand before it, in the terminal of the one disk of both.
    assert result.output.count("fedlite: ") == 1 and "Traceback" not in result.output
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    point = checkpoint.load(directory / "checkpoint")
    assert point is not None and point.round == 2
    filler.unlink()
    result = CliRunner().invoke(
        app, ["simulate", "--resume", str(directory), "--engine", "serial", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert outcome(directory) == outcome(tmp_path / "whole")
    debris = [p.name for p in directory.rglob("*.part")]
    assert debris == []


# What is wrong is told before anything runs ------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_a_finished_run_is_not_resumed_and_no_run_is_overwritten(
    plan: Plan, tmp_path: Path
) -> None:
    file, directory = tmp_path / "small.toml", tmp_path / "run"
    file.write_text(plan(federation={"rounds": 1}).to_toml())
    runner = CliRunner()
    arguments = ["simulate", str(file), "--engine", "serial", "--json"]
    assert runner.invoke(app, [*arguments, "--out", str(directory)]).exit_code == 0
    before = {p: p.stat().st_mtime_ns for p in directory.rglob("*")}
    result = runner.invoke(app, ["simulate", "--resume", str(directory)])
    assert result.exit_code == 2 and "the run has finished" in result.output
    result = runner.invoke(app, [*arguments, "--out", str(directory)])
    assert result.exit_code == 2 and "already exists" in result.output
    # It used to advise --resume, which the line above refuses.
    assert "--resume" not in result.output
    (directory / "summary.json").rename(directory / "kept")
    result = runner.invoke(app, [*arguments, "--out", str(directory)])
    assert result.exit_code == 2 and f"--resume {directory}" in result.output
    (directory / "kept").rename(directory / "summary.json")
    result = runner.invoke(app, ["simulate", "--resume", str(directory), "--rounds", "9"])
    assert result.exit_code == 2 and "a run goes on as it began" in result.output
    result = runner.invoke(app, ["simulate", "--resume", str(tmp_path / "nothing")])
    assert result.exit_code == 2 and "no scenario.toml there" in result.output
    assert {p: p.stat().st_mtime_ns for p in directory.rglob("*")} == before


def test_a_run_in_which_nothing_was_accepted_presents_no_model(plan: Plan, tmp_path: Path) -> None:
    """It ended with exit code 0, a table, a report and the initial model."""
    file, directory = tmp_path / "small.toml", tmp_path / "run"
    diverging = {"steps": 1, "learning_rate": 1e30}
    file.write_text(plan(federation={"rounds": 2}, training=diverging).to_toml())
    arguments = ["simulate", str(file), "--engine", "serial", "--out", str(directory)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert result.output.count("fedlite: ") == 1 and "Traceback" not in result.output
    assert "no update was ever accepted" in result.output and "site-01 data" in result.output
    assert "Next:" not in result.output
    for name in ("model.safetensors", "model.json", "summary.json", "report.html"):
        assert not (directory / name).exists()
    assert CliRunner().invoke(app, ["report", str(directory)]).exit_code != 0


def test_a_changed_scenario_is_not_resumed(plan: Plan, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "scenario.toml").write_text(plan(federation={"seed": 9}).to_toml())
    with pytest.raises(RuntimeError, match=r"scenario.toml: differs"):
        simulate(plan(), directory, engine="serial", quiet=True)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("unit", ["none", "record", "client"])
@pytest.mark.parametrize("change", ["a label", "a test record", "a record more"])
def test_a_run_does_not_go_on_with_other_records(
    killed: Killed, trap: Trap, tmp_path: Path, unit: str, change: str
) -> None:
    table, directory = tmp_path / "own.csv", tmp_path / "run"
    table.write_text(CSV)
    scenario = from_dict(
        {
            "federation": {"rounds": 3, "sites": 2},
            "data": {
                "name": "csv",
                "path": str(table),
                "target": "label",
                "labels": "0,1",
                "partition": "natural",
                "scaling": "none",
                "test_fraction": 0.5,
            },
            "model": {"name": "mlp"},
            "training": {"steps": 1},
            "privacy": {"unit": unit} | ({"expected_batch": 5} if unit == "record" else {}),
        }
    )
    arm = trap(checkpoint, "save", 2, "before")
    assert killed(lambda: simulate(scenario, directory, engine="serial", quiet=True), arm)
    kept = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    _, sites = spread(scenario)
    part = sites[0].test if change == "a test record" else sites[0].train
    row = next(r for r in CSV.splitlines() if r.startswith(f"h0,{part.x[0, 0]:.3f},"))
    other = row + "\n" + row if change == "a record more" else row[:-1] + str(1 - int(row[-1]))
    table.write_text(cut(CSV, row, other))
    command = ["simulate", "--resume", str(directory), "--engine", "serial"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1, result.output
    assert "the records are not those that the run began with" in result.output
    assert "put them back" in result.output and "Traceback" not in result.output
    kept_now = {p: p.read_bytes() for p in kept}
    assert {p for p in kept if kept[p] != kept_now[p]} <= {directory / "failure.json"}
    table.write_text(CSV)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("private", [False, True])
def test_what_was_found_in_a_table_is_told_before_the_run(tmp_path: Path, private: bool) -> None:
    table = tmp_path / "own.csv"
    table.write_text(",a,b,y\n" + "".join(f"{n},{n % 7},{n % 5},{n % 2}\n" for n in range(60)))
    data = {"name": "csv", "path": str(table), "target": "y", "labels": "0,1"}
    tables = {
        "federation": {"sites": 2},
        "data": data | {"ranges": "a 0:6, b 0:3"},
        "training": {"steps": 1},
        "privacy": {"unit": "record", "expected_batch": 20} if private else {},
    }
    notes = [note for note in run.check(from_dict(tables)).notes if note.startswith("data: ")]
    assert notes == [
        "data: the first column has no name, as row numbers have none, and is left out",
        "data: column 'b': 12 of 60 values lie beyond its range 0:3 and are cut to it; "
        "widen it in data.ranges",
    ]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("unit", ["none", "record"])
def test_a_run_goes_on_from_any_directory_and_with_records_that_have_moved(
    killed: Killed,
    trap: Trap,
    tmp_path: Path,
    unit: str,
    outcome: Outcome,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All paths were relative to where the run began, so that only from there it could go on."""
    study, other = tmp_path / "study", tmp_path / "other"
    for folder in (study, other):
        folder.mkdir()
    (study / "own.csv").write_text(CSV)
    tables: dict[str, Any] = {
        "federation": {"rounds": 3, "sites": 2, "name": "moved"},
        "data": {
            "name": "csv",
            "path": "own.csv",
            "target": "label",
            "labels": "0,1",
            "partition": "natural",
            "scaling": "none",
            "test_fraction": 0.5,
        },
        "model": {"name": "mlp"},
        "training": {"steps": 1},
        "privacy": {"unit": unit},
    }
    if unit == "record":
        tables["privacy"]["expected_batch"] = 5
        tables["simulation"] = {"sites": "homes", "witness": "seen.jsonl"}
    (study / "s.toml").write_text(tomli_w.dumps(tables))
    monkeypatch.chdir(other)
    arm = trap(checkpoint, "save", 2, "before")
    scenario = load(Path("../study/s.toml"))
    assert killed(lambda: simulate(scenario, Path("run"), engine="serial", quiet=True), arm)
    kept = load(other / "run" / "scenario.toml")
    assert kept.data.path == str(study / "own.csv")

    monkeypatch.chdir(tmp_path)
    command = ["simulate", "--resume", "other/run", "--engine", "serial", "--json"]
    (study / "own.csv").rename(tmp_path / "elsewhere.csv")
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2 and "--set data.path=FILE" in result.output
    (tmp_path / "wrong.csv").write_text(CSV.replace("h0,0.000", "h0,0.001"))
    result = CliRunner().invoke(app, [*command, "--set", "data.path=wrong.csv"])
    assert result.exit_code == 1 and "records are not those" in result.output
    assert load(other / "run" / "scenario.toml").data.path == str(study / "own.csv")
    result = CliRunner().invoke(
        app, [*command, "--set", "data.path=elsewhere.csv", "--set", "data.target=a"]
    )
    assert result.exit_code == 2 and "a run goes on as it began" in result.output
    result = CliRunner().invoke(app, [*command, "--set", "data.path=elsewhere.csv"])
    assert result.exit_code == 0, result.output
    kept = load(other / "run" / "scenario.toml")
    assert kept.data.path == str(tmp_path / "elsewhere.csv")
    rows = outcome(other / "run")[1]
    assert [row["accepted"] for row in rows] == [2, 2, 2]
    if unit == "none":
        simulate(kept, tmp_path / "whole", engine="serial", quiet=True)
        assert outcome(other / "run") == outcome(tmp_path / "whole")
    else:
        assert sorted(path.name for path in (study / "homes").iterdir()) == ["h0", "h1"]
        assert (study / "seen.jsonl").stat().st_size and (study / "seen.pem").exists()
        for site in ("h0", "h1"):
            kinds = [row.kind for row in read(other / "run" / "ledgers" / f"{site}.jsonl")]
            assert kinds.count("release") == 3
    assert sorted(path.name for path in other.iterdir()) == ["run"]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("unit", ["none", "record"])
def test_no_file_that_is_shown_to_others_confirms_a_guess_of_the_table(
    tmp_path: Path, unit: str
) -> None:
    """summary.json used to have the path and the SHA-256 of the file."""
    table, directory = tmp_path / "secret-clinic.csv", tmp_path / "run"
    table.write_text(CSV)
    data = {"name": "csv", "path": str(table), "target": "label", "partition": "natural"}
    private = {"unit": unit} | ({"expected_batch": 5} if unit == "record" else {})
    scenario = from_dict(
        {
            "federation": {"rounds": 1, "sites": 2},
            "data": data | {"labels": "0,1", "scaling": "none", "test_fraction": 0.5},
            "model": {"name": "mlp"},
            "training": {"steps": 1},
            "privacy": private,
        }
    )
    simulate(scenario, directory, engine="serial", quiet=True)
    source, sites = spread(scenario)
    parts = [source.train, *(part for site in sites for part in (site.train, site.test))]
    digests = [hashlib.sha256(table.read_bytes()).digest(), source.digest()]
    digests += [part.digest() for part in parts]
    shown = [
        p
        for p in directory.rglob("*")
        if p.is_file() and "checkpoint" not in p.relative_to(directory).parts
    ]
    assert {"summary.json", "rounds.jsonl", "scenario.toml"} <= {p.name for p in shown}
    for path in shown:
        content = path.read_bytes()
        for digest in digests:
            assert digest not in content and digest.hex()[:12].encode() not in content, path
        # The scenario says what was asked for, as a resumed run needs it.
        assert b"secret-clinic" not in content or path.name == "scenario.toml", path


CSV = "site,a,b,label\n" + "".join(
    f"h{n % 2},{n / 7:.3f},{(n * 37 % 11) / 5},{n // 2 % 2}\n" for n in range(40)
)


def cut(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("content", "settings", "expected"),
    [
        (None, [], ["path", "readable CSV file", "missing.csv", "correct the path"]),
        ("", [], ["target", "label"]),
        ("\x00\xff", [], ["UTF-8"]),
        (cut(CSV, "0.143", "nan"), [], ["line 3", "'a'", "finite number", "nan", "correct"]),
        (cut(CSV, "0.143", "high"), [], ["line 3", "'a'", "finite number", "high", "correct"]),
        (cut(CSV, "0.143", "inf"), [], ["line 3", "'a'", "finite number", "inf", "correct"]),
        (cut(CSV, "h0,0.000,0.0,0\n", "h0,0.000\n"), [], ["line 2", "4 cells", "2", "commas"]),
        (CSV.replace(",1\n", ",0\n"), [], ["classes", "0"]),
        (
            "\n".join(r for r in CSV.splitlines() if not (r.startswith("h1") and r[-1] == "1")),
            [],
            ["h1", "two classes", "only class 0", "natural partition"],
        ),
        (
            "site,a,b,label\n" + "\n".join(["h0,1,2,0", "h0,2,1,1"] * 9 + ["h1,1,1,0"]),
            [],
            ["h1", "two classes", "only class 0", "more records"],
        ),
        (CSV, ["federation.sites=3"], ["sites", "2 groups", "3", "set sites = 2"]),
        (CSV, ["data.target=outcome"], ["outcome", "target", "header"]),
        (CSV, ["data.shape=3x9"], ["shape", "2 feature columns", "27", "correct it"]),
        (CSV, ["data.test_fraction=0.0"], ["data.test_fraction", "greater than 0", "0.0", "0.2"]),
        (
            "site,a,b,label\nh0,1,2,0\nh0,1,3,1\nh1,1,2,0\nh1,1,3,1\n",
            ["data.test_fraction=0.1", "federation.seed=4"],
            ["data.test_fraction", "of 4 records none is held out", "larger", "federation.seed"],
        ),
        (CSV, ["model.name=cnn"], ["cnn", "images", "2"]),
        (CSV, ["model.name=resnet"], ["resnet", "unknown", "mlp"]),
        (CSV, ["uplink.compressor=zip"], ["uplink", "compressor", "topk", "zip"]),
        (CSV, ["downlink.values=int3"], ["downlink", "values", "sign", "int3"]),
        (CSV, ["federation.strategy=best"], ["federation.strategy", "fedavg", "best"]),
        (CSV, ["federation.quorum=3"], ["federation.quorum", "at most", "3", "lower it"]),
        (CSV, ["uplink.density=2"], ["uplink.density", "from 0.0 to 1.0", "2", "0.0"]),
        (CSV, ["privacy.epsilon=-1"], ["privacy.epsilon", "greater than 0", "-1", "3.0"]),
        (
            CSV,
            [
                "privacy.unit=record",
                "training.steps=1",
                "data.scaling=none",
                "data.labels=0,1",
                "privacy.delta=0.1",
                "privacy.expected_batch=10",
            ],
            ["privacy.delta", "less than 1 / records", "0.1", "use 1e-5"],
        ),
        (
            CSV,
            [
                "privacy.unit=record",
                "training.steps=1",
                "data.scaling=none",
                "data.labels=0,1",
                "privacy.expected_batch=9",
                "privacy.sampling_rate=0.5",
                "privacy.max_batch=17",
                "privacy.max_records=17",
            ],
            ["privacy.max_records", "at least", "expected_batch / sampling_rate = 18", "got 17"],
        ),
        (CSV, ["training.device=cuda"], ["training.device", "auto or cpu", "GPU", "got 'cuda'"]),
        (CSV, ["trainig.steps=1"], ["trainig", "did you mean training?"]),
    ],
)
def test_a_bad_input_is_one_message_before_any_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str | None,
    settings: list[str],
    expected: list[str],
) -> None:
    table = tmp_path / ("missing.csv" if content is None else "table.csv")
    if content is not None:
        table.write_bytes(content.encode("latin-1"))
    file, directory = tmp_path / "mine.toml", tmp_path / "run"
    file.write_text(
        "[federation]\nsites = 2\nrounds = 1\n[model]\nname = 'mlp'\n"
        f"[data]\nname = 'csv'\npath = '{table}'\ntarget = 'label'\npartition = 'natural'\n"
    )

    def trained(*arguments: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(run, "_run_here", trained)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    command = ["simulate", str(file), "--out", str(directory), "--engine", "serial"]
    for setting in settings:
        command += ["--set", setting]
    result = CliRunner().invoke(app, command)
    assert result.exit_code in (1, 2) and "Traceback" not in result.output
    assert result.output.startswith("fedlite: ")
    assert result.output.strip().count("\n") == 0
    for part in expected:
        assert part in result.output
    assert not directory.exists()


def test_scenarios_are_found_by_name_or_path() -> None:
    assert run.scenario_path("quickstart").is_file()
    assert run.scenario_path("mine.toml") == Path("mine.toml")
    with pytest.raises(ScenarioError, match=r"scenario: must be one of .*quickstart.* got 'quick'"):
        run.scenario_path("quick")


def test_an_engine_is_chosen_by_the_work(plan: Plan) -> None:
    assert run.choose_engine("pool", plan()) == "pool"
    assert run.choose_engine("auto", plan()) == "serial"
    with pytest.raises(ScenarioError, match=r"--engine: must be one of .* got 'gpu'"):
        run.check_engine("gpu")


AT_SITES = {
    "federation": {"sites": 2, "rounds": 1},
    "data": {"name": "csv", "shape": "3", "labels": "no,yes", "scaling": "none"},
    "model": {"name": "mlp"},
    "training": {"steps": 1},
}


def test_a_simulation_needs_the_records_and_a_deployment_does_not(tmp_path: Path) -> None:
    scenario = from_dict(AT_SITES)
    with pytest.raises(ScenarioError, match=r"data\.path: must be set in a simulation.*set data"):
        simulate(scenario, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    settled = run.check(scenario, deployed=True)
    # Whether the coordinator has a GPU is not what its sites have.
    assert run.check(with_values(scenario, "training", device="cuda"), deployed=True)
    # Nothing but the links, which it leaves open, depends on how large the model is.
    assert replace(settled, uplink=scenario.uplink, downlink=scenario.downlink) == scenario
    assert settled.uplink.compressor == settled.downlink.compressor == "dense"


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"model": {"name": "cnn"}}, "cnn"),
        ({"model": {"name": "none-such"}}, "none-such"),
        ({"federation": {"strategy": "none-such"}}, "none-such"),
        ({"uplink": {"compressor": "none-such"}}, r"uplink\."),
        (
            {"privacy": {"unit": "record", "expected_batch": 5, "epsilon": 1e-6, "delta": 1e-9}},
            r"privacy\.epsilon: ",
        ),
    ],
)
def test_everything_else_is_checked_for_a_deployment_too(
    tables: dict[str, Any], message: str
) -> None:
    scenario = from_dict(AT_SITES | tables)
    with pytest.raises(ValueError, match=message):
        run.check(scenario, deployed=True)


def test_a_private_division_into_too_small_sites_is_refused_by_its_public_size(
    plan: Plan, tmp_path: Path
) -> None:
    many = plan(True, federation={"sites": 150})
    with pytest.raises(ScenarioError, match=r"site-001: must expect at least 10 records.*got 9\.6"):
        simulate(many, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    assert run.check(plan(federation={"sites": 60}))
