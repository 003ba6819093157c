"""What the Hugging Face library wrote (`saved/`, by datasets 5.2.0), and folders changed by hand.

Covers fedlite/data/sources/saved_pictures.py.
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from fedlite.data import find, load
from fedlite.data.spread import spread
from fedlite.scenario import Data, Federation, Scenario
from fedlite.scenario.tabular import Columns
from tests.data.sources.writing import save_hf

SAVED = Path(__file__).parent / "saved"
PATIENTS, PICTURES = str(SAVED / "patients"), str(SAVED / "pictures")


def test_a_table_of_the_library_with_its_classes_and_its_test_set() -> None:
    """As it was made: ages 40 to 51 and 60 to 63 without every fourth, sexes in turn."""
    source = load("hf", path=PATIENTS, target="ill")
    assert source.labels == ("yes", "no"), "the order of the library, not of the alphabet"
    ages = [np.nan if n % 4 == 0 else 40 + n for n in range(12)]
    assert np.array_equal(source.train.x[:, 0], ages, equal_nan=True)
    assert source.features == ("age", "sex=f", "sex=m")
    assert source.train.x[:, 1].tolist() == [1, 0] * 6
    assert source.train.y.tolist() == [n * n % 3 % 2 for n in range(12)]
    assert source.group_names == ("north", "south", "west")
    assert source.groups is not None and source.groups.tolist() == [0, 1, 2] * 4
    assert source.test is not None and source.test.x[1:, 0].tolist() == [61, 62, 63]
    assert source.test.y.tolist() == [0, 1, 1, 0]


def test_the_test_set_is_scaled_by_all_records_and_one_part_may_be_named() -> None:
    data = Data(name="hf", path=PATIENTS, target="ill", drop="sex", test_fraction=0.0)
    source, _ = spread(Scenario(Federation(sites=1), data))
    ages = np.array([40 + n for n in range(12) if n % 4])
    expected = (np.array([61, 62, 63]) - ages.mean()) / ages.std()
    assert source.test is not None and source.test.x[0, 0] == 0
    assert np.allclose(source.test.x[1:, 0], expected, atol=1e-6)
    alone = load("hf", path=f"{PATIENTS}/test", target="ill")
    assert len(alone.train) == 4 and alone.test is None
    look = find("hf").survey
    assert look is not None and look(PATIENTS, "ill") == (12, 2, ("north", "south", "west"))


def test_the_parts_that_are_not_read_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(PATIENTS, folder)
    assert load("hf", path=str(folder), target="ill", columns=Columns(drop=("sex",))).notes == ()
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "validation", "test", "x"]}')
    (note,) = load("hf", path=str(folder), target="ill", columns=Columns(drop=("sex",))).notes
    assert note == "of the data set's parts, train and test are read, and not validation, x"


def test_pictures_of_the_library() -> None:
    source = load("hf", path=PICTURES, target="label", shape=(1, 6, 5))
    assert source.labels == ("cat", "dog", "owl")
    assert source.train.y.tolist() == [0, 1, 2, 0, 1, 2]
    with pa.memory_map(f"{PICTURES}/data-00000-of-00001.arrow") as file:
        rows = pa.ipc.open_stream(file).read_all()["image"].to_pylist()
    theirs = [np.asarray(Image.open(io.BytesIO(row["bytes"])), np.float32) / 255 for row in rows]
    assert np.allclose(source.train.x[:, 0], theirs, atol=1e-7)
    assert load("hf", path=PICTURES, target="label", shape=(3, 4, 4)).shape == (3, 4, 4)
    with pytest.raises(ValueError, match=r"data.shape: must be CxHxW for pictures.*1x28x28"):
        load("hf", path=PICTURES, target="label")
    with pytest.raises(ValueError, match=r"pictures, column 'lable': the label column"):
        load("hf", path=PICTURES, target="lable", shape=(1, 6, 5), columns=Columns(("image",)))


def pictures(folder: Path, *values: Any) -> str:
    columns = {"image": list(values), "label": [0, 1] * (len(values) // 2), "site": ["a"] * 4}
    about = {"image": {"_type": "Image"}, "label": {"names": ["x", "y"], "_type": "ClassLabel"}}
    return str(save_hf(folder / "set", columns, **about))


def test_a_path_beside_a_picture_is_not_followed(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(buffer, "PNG")
    elsewhere = tmp_path / "secret.png"
    elsewhere.write_bytes(buffer.getvalue())
    good = {"bytes": buffer.getvalue(), "path": "../../secret.png"}
    path = pictures(tmp_path, good, good, {"bytes": None, "path": str(elsewhere)}, good)
    with pytest.raises(ValueError, match=r"row 3, column 'image': a picture must be in the data"):
        load("hf", path=path, target="label", shape=(1, 4, 4))
    settings = {"shape": (1, 4, 4), "labels": ("x", "y"), "skip_wrong": True}
    source = load("hf", path=path, target="label", **settings)
    assert len(source.train) == 3 and source.group_names == ("a",)
    bad = {"bytes": b"no picture", "path": None}
    path = pictures(tmp_path, good, bad, good, good)
    with pytest.raises(ValueError, match=r"row 2, column 'image': .*got 'it is neither PNG nor"):
        load("hf", path=path, target="label", shape=(1, 4, 4))


def test_nothing_that_the_folder_names_is_followed_out_of_it(tmp_path: Path) -> None:
    good = save_hf(tmp_path / "good", {"a": [1.0, 2.0], "y": ["no", "yes"]})
    other = save_hf(tmp_path / "other", {"a": [8.0, 9.0], "y": ["no", "yes"]})
    shard = "data-00000-of-00001.arrow"
    for name in (f"../other/{shard}", str(other / shard), "..", "", ".hidden.arrow", None, 3):
        (good / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
        with pytest.raises(ValueError, match=r"which is no file of its own"):
            load("hf", path=str(good), target="y")
    (good / "state.json").write_text(json.dumps({"_data_files": [{"filename": shard}]}))
    assert load("hf", path=str(good), target="y").train.x.ravel().tolist() == [1, 2]
    (good / shard).unlink()
    (good / shard).symlink_to(other / shard)
    with pytest.raises(ValueError, match=r"is a link, which is not followed"):
        load("hf", path=str(good), target="y")


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("state.json", "{", r"that is whole, got .*state.json"),
        ("state.json", "[]", r"it is no JSON object"),
        ("state.json", "{}", r"it lists neither files nor features"),
        ("state.json", "[" * 100_000, r"state.json"),
        ("dataset_info.json", '{"features": {"a": {}, "z": {}, "y": {}}}', r"no column 'z'"),
        ("dataset_info.json", '{"features": [1]}', r"it lists neither files nor features"),
        ("dataset_dict.json", '{"splits": ["dev"]}', r"with a part 'train'.*name the folder"),
    ],
)
def test_a_folder_that_is_not_whole_is_named(
    tmp_path: Path, file: str, content: str, told: str
) -> None:
    folder = save_hf(tmp_path / "set", {"a": [1.0, 2.0], "y": ["no", "yes"]})
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=told) as caught:
        load("hf", path=str(folder), target="y")
    assert len(str(caught.value)) < 700


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=r"must name the folder that save_to_disk has written"):
            load("hf", path=str(path), target="y")


@pytest.mark.long
def test_changed_bytes_never_do_more_than_fail(tmp_path: Path) -> None:
    """Arrow says where each text begins and ends; unchecked, that would read other memory."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "set"
    shutil.copytree(SAVED / "patients" / "test", folder)
    shard = folder / "data-00000-of-00001.arrow"
    content = np.frombuffer(shard.read_bytes(), np.uint8)
    failed = 0
    for _ in range(400):
        changed = content.copy()
        places = rng.integers(0, len(content), rng.integers(1, 5))
        changed[places] = rng.integers(0, 256, len(places))
        shard.write_bytes(changed.tobytes())
        told = refused(str(folder))
        failed += bool(told)
        assert "\n" not in told and str(folder) in (told or str(folder))
    assert failed > 50


def refused(path: str) -> str:
    try:
        load("hf", path=path, target="ill")
    except ValueError as error:
        return str(error)
    return ""
