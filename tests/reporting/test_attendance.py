"""Every site in every round: read from the record, counted, and drawn."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from fedlite.reporting import attendance, figures, page, table, wording
from fedlite.reporting.attendance import BAD, DECLINED, IDLE, MISSING, OUT, USED, VOID
from fedlite.reporting.progress import Progress
from fedlite.reporting.record import RoundRecord
from tests.reporting.reader import Make

ROUNDS = [
    RoundRecord(1, 2, joined=["a", "b"]),
    RoundRecord(2, 0, joined=["c"], missing=["a"], dropped={"c": "bad-update"}),
    RoundRecord(3, 1, asked=["a", "c"], dropped={"a": "failed"}, out={"b": "resting"}),
    RoundRecord(4, 1, asked=["a"], out={"b": "resting"}),
]


def test_the_grid_says_where_each_site_was() -> None:
    assert attendance.grid(ROUNDS) == {
        "a": [USED, MISSING, DECLINED, USED],
        "b": [USED, VOID, OUT, OUT],
        "c": [0, BAD, USED, IDLE],
    }
    assert attendance.rested(ROUNDS) == {"b": 2}
    assert attendance.worth_drawing(ROUNDS) and not attendance.worth_drawing(ROUNDS[:1])


def test_a_record_of_an_older_release_says_nothing_and_is_not_drawn() -> None:
    old = [RoundRecord(1, 2), RoundRecord(2, 1, missing=["a"])]
    assert attendance.grid(old) == {} and not attendance.worth_drawing(old)


def many(sites: int, rounds: int) -> list[RoundRecord]:
    names = [f"University hospital of city number {number:04d}" for number in range(sites)]
    return [
        RoundRecord(n, sites - 1, joined=names if n == 1 else [], missing=[names[n % sites]])
        for n in range(1, rounds + 1)
    ]


@pytest.mark.parametrize(("sites", "rounds"), [(1, 1), (2, 5), (40, 60), (41, 61), (700, 999)])
def test_few_and_many_are_drawn(sites: int, rounds: int) -> None:
    figure = attendance.draw(many(sites, rounds))
    (axes,) = figure.axes
    (image,) = axes.get_images()
    shown = image.get_array()
    assert shown is not None and shown.shape[0] == min(sites, 120) and shown.shape[1] <= 200
    assert MISSING in shown
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert len(set(names)) == (sites if sites <= 40 else 0) and all(len(n) <= 24 for n in names)
    low, high = axes.get_xlim()
    assert (low, high) == (0.5, rounds + 0.5)


def test_of_many_sites_those_that_failed_most_are_first() -> None:
    rows = [RoundRecord(1, 9, joined=[f"s{n:03d}" for n in range(300)], missing=["s299"])]
    shown = attendance.draw(rows).axes[0].get_images()[0].get_array()
    assert shown is not None and shown[0, 0] == MISSING and (shown[1:] == USED).all()


def test_of_many_sites_of_whom_nobody_failed_those_drawn_most_are_first() -> None:
    names = [f"s{n:03}" for n in range(200)]
    rows = [RoundRecord(n, 1, joined=[] if n > 1 else names, asked=["s199"]) for n in (1, 2)]
    axes = attendance.draw(rows).axes[0]
    assert axes.get_ylabel() == "the 120 that were drawn most, of 200 sites"
    assert axes.images[0].get_array()[0].tolist() == [USED, USED]


def test_the_worst_of_several_rounds_is_shown() -> None:
    rows = [RoundRecord(n, 1, joined=["a"] if n == 1 else []) for n in range(1, 402)]
    rows[200] = RoundRecord(201, 0, missing=["a"])
    rows[100] = RoundRecord(101, 1, asked=["b"])
    shown = attendance.draw(rows).axes[0].get_images()[0].get_array()
    assert shown is not None
    assert sorted(shown[0].tolist()) == [USED] * (shown.shape[1] - 1) + [MISSING]


def test_the_page_draws_and_tells_it(make_run: Make, tmp_path: Path) -> None:
    _, summary = make_run(private=False, binary=False)
    sites = summary["sites"]
    rows = [
        RoundRecord(1, 3, joined=sites, cut={sites[0]: 9e12}, moved=1.0, bytes_up=9, dense_up=9),
        RoundRecord(2, 1, missing=sites[1:], jump=1e9, out={sites[0]: "resting"}),
    ]
    summary |= {"rounds": 2, "jumps": {"2": 1e9}, "rested": {sites[0]: 1}}
    summary["updates"] = {"accepted": 4, "dropped": 0, "missing": 2, "cut": 1}
    assert tmp_path / "figures" / "attendance.png" in figures.draw(rows, summary, tmp_path)
    html = page.build(rows, summary, tmp_path / "figures")
    assert "who was used in which round" in html
    assert "The model may be spoilt: round 2 moved it 1e+09 times as far as usual" in html
    assert f"Asked less, as they did not answer or not validly: {sites[0]}." in html
    assert 'class="verdict warn"' in html
    assert ">at rest<" in html and ">cut<" in html
    told = " ".join(str(part) for part in table.render(summary))
    assert "The model may be spoilt" in told
    assert wording.spoilt(summary | {"jumps": {}}) == ""
    stream = io.StringIO()
    with Progress(20, stream=stream) as progress:
        for row in rows:
            progress.update(row, {"up": 9, "down": 9})
    assert "round 2 moved the model 1e+09 times as far" in stream.getvalue()
