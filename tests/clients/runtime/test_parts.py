"""A part, a source or a label column that does not exist makes no site."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet as pq
from typer.testing import CliRunner

from clients.runtime import doctor, parts
from fedlite import data
from fedlite.commands.main import app
from fedlite.guard import policy
from fedlite.guard.policy import DataSet
from fedlite.guard.records import own_records
from fedlite.scenario import from_dict

TABLE = "site,age,ill\n" + "north,1,no\nsouth,2,yes\n" * 3 + "east,x,no\n"


def init(home: Path, *words: object) -> tuple[int, str]:
    given = ["site", "init", home, "--name", "s", *words]
    result = CliRunner().invoke(app, list(map(str, given)))
    return result.exit_code, result.output


@pytest.mark.long
@pytest.mark.data("heart-disease")
def test_a_wrong_part_of_a_named_source_is_refused_with_those_there_are(tmp_path: Path) -> None:
    """Before: `site 's' is ready`, and every run was declined for want of data."""
    home = tmp_path / "h"
    code, output = init(home, "--data", "heart-disease", "--part", "clevland")
    assert code == 2 and "cleveland, " in output and "'clevland'" in output
    assert not home.exists()
    for number, name in enumerate(("cleveland", "", "site-01")):
        given = ("--part", name) if name else ()
        assert init(tmp_path / str(number), "--data", "heart-disease", *given)[0] == 0


def test_a_source_without_parts_and_a_wrong_name_are_refused(tmp_path: Path) -> None:
    code, output = init(tmp_path / "h", "--data", "digits", "--part", "north")
    assert code == 2 and "must be left out, as it has none" in output
    code, output = init(tmp_path / "h", "--data", "digitz")
    assert code == 2 and "--data: must be one of digits, " in output and "did you mean" in output
    assert not (tmp_path / "h").exists()


def test_a_file_s_parts_and_label_column_are_looked_up(tmp_path: Path) -> None:
    table, home = tmp_path / "own.csv", tmp_path / "h"
    table.write_text(TABLE)
    own = ("--data", "scans", "--path", table)
    code, output = init(home, *own, "--target", "ill", "--part", "nrth")
    assert code == 2 and "must be one of east, north, south, got 'nrth'" in output
    code, output = init(home, *own, "--target", "sick", "--part", "north")
    assert code == 2 and "label column `target` must be in the header" in output
    assert not home.exists()
    # A row that does not fit is no reason: a private run leaves it out.
    assert init(home, *own, "--target", "ill", "--part", "east")[0] == 0
    found = policy.load(home / "site.toml").data_set("scans")
    assert found is not None and found.part == "east"


def test_what_is_not_there_yet_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--data", "scans", "--path", tmp_path / "later.csv", "--target", "y", "--part", "x")
    code, output = init(tmp_path / "a", *words)
    assert code == 0 and "warning: --path: " in output and "not there yet" in output
    monkeypatch.setattr(data, "available", lambda name: False)
    code, output = init(tmp_path / "b", "--data", "heart-disease", "--part", "wherever")
    assert code == 0 and "fedlite data fetch heart-disease" in output


def test_the_doctor_takes_a_share_for_a_part(tmp_path: Path) -> None:
    for part, state in (("site-02", doctor.OK), ("north", doctor.FAIL)):
        (check,) = doctor._load(tmp_path, DataSet("digits", "digits", part=part))
        assert check.state == state
    assert not list(parts.check(DataSet("digits", "digits")))


@pytest.mark.data("sentiment")
def test_a_domain_of_the_sentences_is_a_part(tmp_path: Path) -> None:
    """Its records need a tokenizer, which a plan names; what parts there are needs none."""
    (check,) = doctor._load(tmp_path, DataSet("sentiment", "sentiment", part="nyt"))
    assert check.state == doctor.OK
    assert not list(parts.check(DataSet("sentiment", "sentiment", part="tweets")))
    with pytest.raises(ValueError, match=r"--part: must be one of movie, nyt, tweets, amazon"):
        list(parts.check(DataSet("sentiment", "sentiment", part="film")))


@pytest.mark.long
def test_other_files_and_folders_of_one_s_own_make_a_site(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 2)), np.arange(12) % 2
    np.savez(tmp_path / "own.npz", x=x, y=y, site=["north", "south"] * 6)
    lines = [{"a": 1.5, "site": "north", "ill": "no"}, {"a": 2, "site": "south", "ill": "yes"}]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = pa.table({name: [line[name] for line in lines] for name in ("a", "site", "ill")})
    pq.write_table(table, tmp_path / "own.parquet")
    for site in ("north", "south"):
        for name in ("cat", "dog"):
            folder = tmp_path / "pictures" / site / name
            folder.mkdir(parents=True)
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "a.png")
    files = {f"own.{kind}": kind for kind in ("npz", "jsonl", "parquet")}
    for number, (name, source) in enumerate([*files.items(), ("pictures", "images")]):
        home = tmp_path / f"home-{number}"
        own = ["--data", "scans", "--path", tmp_path / name]
        if source in ("jsonl", "parquet"):
            code, output = init(tmp_path / f"bare-{number}", *own)
            assert code == 0 and "--target: no label column is named" in output
            own += ["--target", "ill"]
        code, output = init(home, *own, "--part", "west")
        assert code == 2 and "must be one of north, south, got 'west'" in output
        code, output = init(home, *own, "--part", "north")
        assert code == 0, output
        found = policy.load(home / "site.toml").data_set("scans")
        assert found is not None and (found.source, found.part) == (source, "north")
        (check,) = doctor._load(home, found)
        assert check.state == doctor.OK and check.what == f"{source} loads, 2 classes"


def test_texts_for_language_models_need_no_label_column(tmp_path: Path) -> None:
    notes, home = tmp_path / "notes.jsonl", tmp_path / "h"
    # More of them than there may be classes.
    rows = [json.dumps({"note": f"the patient {n}", "site": "ab"[n % 2]}) for n in range(1200)]
    notes.write_text("\n".join(rows))
    code, output = init(home, "--data", "notes", "--path", notes, "--part", "a")
    assert code == 0 and "--target: no label column is named" in output
    (chosen,) = policy.load(home / "site.toml").data
    assert chosen.target == "" and parts.survey(chosen, chosen.path) == (1200, 0, ("a", "b"))
    (check,) = doctor._load(home, chosen)
    assert (check.state, check.what) == (doctor.OK, "jsonl loads, without labels")


def test_without_a_label_column_no_other_task_is_trained(tmp_path: Path) -> None:
    table = tmp_path / "own.csv"
    table.write_text(TABLE)
    scenario = from_dict({"data": {"name": "csv", "labels": "no, yes", "columns": "age"}})
    with pytest.raises(ValueError, match=r"site\.toml: data\.scans\.target: must name the label"):
        own_records(scenario, DataSet("scans", "csv", path=str(table)), tmp_path, "north")
