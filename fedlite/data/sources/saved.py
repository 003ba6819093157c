"""A data set that the Hugging Face library saved to disk (`save_to_disk`), read by pyarrow alone.

The library itself is not needed: what it writes is one Arrow stream or several, and JSON that says
what the columns are. Nothing that these files name is followed out of their folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlite.data.rows import Reader, Row
from fedlite.data.sources import arrow
from fedlite.data.sources.table import table_entry
from fedlite.scenario.tabular import Columns

NAME = "hf"
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.arrow")
_LONGEST_JSON = 1 << 24


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        with (folder / name).open("rb") as file:
            found = json.loads(file.read(_LONGEST_JSON))
    except (OSError, ValueError, RecursionError) as error:
        raise arrow.damaged(str(folder / name), error) from error
    if not isinstance(found, dict):
        raise arrow.damaged(str(folder / name), "it is no JSON object")
    return found


def parts(path: str) -> list[Any] | None:
    """Return the names of a data set's parts; None where it has no parts."""
    folder = Path(path).expanduser()
    if not (folder / "dataset_dict.json").is_file():
        return None
    found = _json(folder, "dataset_dict.json").get("splits")
    return found if isinstance(found, list) else []


def part(path: str, split: str) -> Path | None:
    """Return the folder of one part of a data set, or the data set where it has no parts.

    None where it has no such part. Raises ValueError when `path` is no data set that was saved.
    """
    folder, named = Path(path).expanduser(), parts(path)
    if named is not None:
        if "train" not in named:
            raise ValueError(
                f"data.path: must name a data set with a part 'train', got {path!r} with {named}; "
                "name the folder of the part that is meant"
            )
        return folder / split if split in named else None
    if not (folder / "state.json").is_file():
        raise ValueError(
            f"data.path: must name the folder that save_to_disk has written, got {path!r} without "
            "state.json or dataset_dict.json; correct the path"
        )
    return folder if split == "train" else None


@dataclass
class Saved:
    """The folder of one part: `state.json`, `dataset_info.json`, and Arrow streams."""

    path: str
    folder: Path
    unit: str = "row"
    test: Reader | None = None
    labels: Mapping[str, tuple[str, ...]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Read what the columns are called, and which hold classes by their numbers."""
        self._pyarrow = arrow.pyarrow(NAME)
        state, about = _json(self.folder, "state.json"), _json(self.folder, "dataset_info.json")
        listed, features = state.get("_data_files"), about.get("features")
        if not isinstance(listed, list) or not isinstance(features, dict):
            raise arrow.damaged(self.path, "it lists neither files nor features")
        if state.get("_indices_data_files"):
            raise arrow.damaged(self.path, "its records are listed in another file")
        self._files = [self._shard(one) for one in listed]
        self.features: dict[str, Any] = features
        self.labels = {
            name.strip(): tuple(map(str, told["names"]))
            for name, told in features.items()
            if isinstance(told, dict) and isinstance(told.get("names"), list)
        }
        self._names = list(features)
        self.header = [name.strip() for name in self._names]

    def _shard(self, listed: Any) -> Path:
        name = listed.get("filename") if isinstance(listed, dict) else None
        if not isinstance(name, str) or not _SHARD.fullmatch(name):
            raise arrow.damaged(self.path, f"it names {name!r}, which is no file of its own")
        if (self.folder / name).is_symlink():
            raise arrow.damaged(self.path, f"{name} is a link, which is not followed")
        return self.folder / name

    def rows(self, wanted: Collection[str]) -> Iterator[Row]:
        """Yield the rows."""
        names = [name for name in self._names if name.strip() in wanted]
        named = {name: self.labels[name.strip()] for name in names if name.strip() in self.labels}
        yield from arrow.rows(self.path, self.batches(names), self._names, names, named)

    def batches(self, names: list[str], *, checked: bool = True) -> Iterator[Any]:
        """Yield record batches with these columns; their types are `checked` to be a table's."""
        pa = self._pyarrow
        for file in self._files:
            try:
                with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
                    if missing := [name for name in names if name not in stream.schema.names]:
                        raise arrow.damaged(str(file), f"it has no column {missing[0]!r}")
                    if checked:
                        arrow.check_types(stream.schema, self.path, names)
                    for batch in stream:
                        chosen = batch.select(names)
                        # Offsets are what the file says: one beyond the end reads other memory.
                        chosen.validate(full=True)
                        for start in range(0, len(chosen), arrow.BATCH):
                            yield chosen.slice(start, arrow.BATCH)
            except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
                raise arrow.damaged(str(file), error) from error


def read(path: str, columns: Columns, targets: tuple[str, ...], settled: bool) -> Saved:
    """Return the part `train`, or the whole, and with it the part `test`."""
    arrow.pyarrow(NAME)
    train, test = part(path, "train"), part(path, "test")
    if train is None:
        raise ValueError(f"data.path: must name a data set with records, got {path!r}; correct it")
    return Saved(path, train, test=Saved(path, test) if test else None)


TABLE = table_entry(
    NAME, "a data set as the Hugging Face library saves it to disk; needs the extra `hf`", read
)
