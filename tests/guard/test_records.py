"""What a site reads of its own records, whatever file or folder its operator has named."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from fedlite.deployment import sandbox
from fedlite.guard.policy import DataSet
from fedlite.guard.records import own_records
from fedlite.scenario import Scenario, from_dict
from fedlite.storage import content_digest, stamp

N = 24
RNG = np.random.default_rng(0)
A, LABELS = RNG.normal(size=N), ["no", "yes"] * (N // 2)
SAVED = Path(__file__).parents[1] / "data" / "sources" / "saved"


def write(folder: Path, source: str, keep: list[int]) -> DataSet:
    """Write the records of these numbers as a file or folder of this kind."""
    path = folder / f"own-{source}"
    a, labels = A[keep], [LABELS[n] for n in keep]
    if source == "parquet":
        parquet.write_table(pa.table({"a": a, "ill": labels}), path)
    elif source == "npz":
        path = path.with_suffix(".npz")
        np.savez(path, x=a[:, None], y=np.array(labels))
    elif source == "jsonl":
        rows = zip(a, labels, strict=True)
        path.write_text("".join(f'{{"a": {x}, "ill": "{y}"}}\n' for x, y in rows))
    else:
        for n, label in zip(keep, labels, strict=True):
            (path / label).mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(n).integers(0, 256, (4, 4), dtype=np.uint8)
            Image.fromarray(pixels).save(path / label / f"{n:02}.png")
    target = "ill" if source in ("parquet", "jsonl") else ""
    return DataSet("scans", source, path=str(path), target=target)


def plan(source: str, **more: Any) -> Scenario:
    keys: dict[str, Any] = {"name": source, "labels": "no, yes", "test_fraction": 0.2}
    if source == "images":
        keys["shape"] = "1x4x4"
    elif source == "npz":
        keys |= {"shape": "1", "ranges": "-3:3"}
    else:
        keys |= {"columns": "a", "ranges": "-3:3"}
    tables = {"data": keys | more, "privacy": {"unit": "record", "expected_batch": 5}}
    return from_dict(tables | {"training": {"steps": 1}, "federation": {"sites": 1}})


SOURCES = ("parquet", "npz", "jsonl", "images")


@pytest.mark.parametrize("source", SOURCES)
def test_a_private_site_reads_its_records_and_one_less_changes_no_other(
    tmp_path: Path, source: str
) -> None:
    everything = list(range(N))

    def held(keep: list[int]) -> list[bytes]:
        shutil.rmtree(tmp_path / f"own-{source}", ignore_errors=True)
        (tmp_path / f"own-{source}").unlink(missing_ok=True)
        _, data = own_records(plan(source), write(tmp_path, source, keep), tmp_path, "here")
        assert data.name == "here"
        return sorted(
            name + x.tobytes() + y.tobytes()
            for name, part in ((b"train", data.train), (b"test", data.test))
            for x, y in zip(part.x, part.y, strict=True)
        )

    whole = held(everything)
    assert len(whole) == N
    for row in (0, 7, N - 1):
        less = held([n for n in everything if n != row])
        assert len(less) == N - 1 and set(less) < set(whole)


@pytest.mark.parametrize("kind", ["column", "file"])
def test_no_plan_says_whose_a_site_s_records_are(tmp_path: Path, kind: str) -> None:
    chosen = write(tmp_path, "parquet", list(range(N)))
    keys = {"name": "parquet", "columns": "a", "labels": "no, yes"}
    keys |= {"partition": kind, f"partition_{kind}": "/etc/passwd"}
    asked = from_dict({"data": keys, "federation": {"sites": 1}})
    with pytest.raises(ValueError, match=rf"data.partition: must not be '{kind}' at a real site"):
        own_records(asked, chosen, tmp_path, "here")


def test_a_folder_is_known_by_all_that_it_holds(tmp_path: Path) -> None:
    write(tmp_path, "images", list(range(N)))
    folder = tmp_path / "own-images"
    shutil.copytree(folder, tmp_path / "copy")
    digest, seen = content_digest(folder), stamp(folder)
    assert content_digest(tmp_path / "copy") == digest and stamp(folder) == seen
    file = folder / "no" / "00.png"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"x")
    assert content_digest(folder) != digest and stamp(folder) != seen
    file.unlink()
    file.symlink_to("/etc/passwd")
    linked = content_digest(folder)
    assert linked != digest
    file.unlink()
    file.write_bytes(content)
    assert content_digest(folder) == digest
    file.rename(folder / "no" / "zz.png")
    assert content_digest(folder) != digest


@pytest.mark.skipif(bool(sandbox.problem()), reason="the kernel has neither Landlock nor seccomp")
def test_every_source_can_be_read_in_the_sandbox(tmp_path: Path) -> None:
    paths = {source: write(tmp_path, source, list(range(N))).path for source in SOURCES}
    paths |= {"hf": str(SAVED / "patients")}
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from fedlite.deployment import sandbox\n"
        "from fedlite.deployment.readable import python_paths\n"
        f"paths = {paths!r}\n"
        "sandbox.restrict([*python_paths(), *map(Path, paths.values())], [])\n"
        "from fedlite.data import load\n"
        "for name, path in paths.items():\n"
        "    target = {'parquet': 'ill', 'jsonl': 'ill', 'hf': 'ill'}.get(name, '')\n"
        "    print(name, len(load(name, path=path, target=target).train))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={"OPENBLAS_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        cwd=Path(__file__).parents[2],
    )
    told = done.stdout.split()
    assert told == ["parquet", "24", "npz", "24", "jsonl", "24", "images", "24", "hf", "12"], (
        done.stderr
    )
