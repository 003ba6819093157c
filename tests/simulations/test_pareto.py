"""The picture of the compressors is drawn from what the study writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from simulations.benchmarks.pareto import draw, read


def row(up: str, down: str, ratio: float) -> dict[str, Any]:
    figures = {"up": up, "down": down, "up_ratio": ratio}
    figures |= {f"{key}_lost{sd}": 0.5 for key in ("deep", "shallow") for sd in ("", "_sd")}
    return {"parameters": {"rounds": 30, "participation": 0.25}, "figures": figures}


def test_studies_are_drawn_without_their_twins(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    rows = [row("dense", "dense", 1), row("topk-3", "dense", 130), row("topk-3", "topk-3", 130)]
    file.write_text(json.dumps(rows), encoding="utf-8")
    studies = read([file])
    assert list(studies) == ["30 rounds, 25 % of the sites"]
    assert [f["up"] for f in studies["30 rounds, 25 % of the sites"]] == ["topk-3"]
    draw(studies, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
