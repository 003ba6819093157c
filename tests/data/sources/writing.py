"""Files of one's own as other programs write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa


def save_hf(folder: Path, columns: dict[str, list[Any]], **features: dict[str, Any]) -> Path:
    """Write a folder as `datasets.Dataset.save_to_disk` does: see tests/data/sources/saved."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    name = "data-00000-of-00001.arrow"
    with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table, max_chunksize=7)
    told = {c: {"dtype": str(table.schema.field(c).type), "_type": "Value"} for c in columns}
    (folder / "dataset_info.json").write_text(json.dumps({"features": told | features}))
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": name}], "_indices_data_files": None})
    )
    return folder
