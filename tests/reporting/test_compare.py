"""Runs beside each other, against figures worked out by hand.

Covers fedlite/reporting/compare_cost.py, fedlite/reporting/compare_figures.py,
fedlite/reporting/compare_page.py, fedlite/reporting/drawing.py.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from fedlite.privacy.admission import order_for
from fedlite.privacy.composition import compose_pld, compose_rdp, rdp_at
from fedlite.privacy.mechanism import Event
from fedlite.reporting import compare_page
from fedlite.reporting.compare import Spread, compare, expand
from fedlite.reporting.compare_figures import best, curve_of, pareto
from fedlite.reporting.record import rewrite_rounds, write_summary
from fedlite.scenario import Scenario
from tests.reporting.reader import Make

Written = Callable[..., Path]


@pytest.fixture
def written(make_run: Make, tmp_path: Path) -> Written:
    """Return a writer of finished runs: `written(name, deep=..., seed=..., rate=...)`."""

    def write(
        name: str,
        deep: float = 0.9,
        seed: int = 1,
        rate: float = 0.1,
        *,
        private: bool = False,
        binary: bool = False,
        held: float = 0.8,
        finished: bool = True,
        **tables: dict[str, Any],
    ) -> Path:
        rounds, summary = make_run(private=private, binary=binary)
        summary["seed"] = seed
        summary["accuracy"]["deep"] = deep
        for row in summary["accuracy"]["by_site"].values():
            row |= {"deep": held, "records": 10}
        summary["privacy"]["noise_at"] = "site"
        summary["privacy"]["expected_batch"] = 100
        scenario = Scenario().to_dict()
        scenario["federation"] |= {"seed": seed, "name": name}
        scenario["training"]["learning_rate"] = rate
        for section, table in tables.items():
            scenario[section] |= table
        directory = tmp_path / name
        directory.mkdir()
        rewrite_rounds(directory, rounds)
        (directory / "scenario.toml").write_text(tomli_w.dumps(scenario))
        if finished:
            write_summary(directory, summary)
        return directory

    return write


def test_seeds_make_a_group_and_are_paired(written: Written) -> None:
    first = [written(f"a{n}", deep, n, 0.1) for n, deep in enumerate([0.8, 0.9, 0.85], 1)]
    # Another order, and one seed less: pairs are found by seed, and never by place.
    second = [written(f"b{n}", deep, n, 0.3) for n, deep in ((3, 0.87), (1, 0.83))]
    found = compare([*first, *second])
    assert [group.name for group in found.groups] == ["learning_rate 0.1", "learning_rate 0.3"]
    one, two = found.groups
    score = found.measures[0]
    assert one.spread(score) == Spread(pytest.approx(0.85), pytest.approx(0.05), 3)
    # 0.83 - 0.80 and 0.87 - 0.85.
    beyond = two.beyond(one, score)
    assert beyond is not None and beyond.n == 2
    assert beyond.mean == pytest.approx(0.025)
    assert beyond.sd == pytest.approx(0.01 / math.sqrt(2))
    assert any("Not every setting was run with every seed" in note for note in found.notes)


def test_a_seed_played_twice_is_two_runs_of_one_group(written: Written) -> None:
    found = compare([written("x", 0.8), written("y", 0.9)])
    assert len(found.groups) == 1 and len(found.groups[0].members) == 2
    spread = found.groups[0].spread(found.measures[0])
    assert spread is not None and spread.sd == pytest.approx(math.sqrt(0.005))


def test_of_one_seed_no_spread_is_claimed(written: Written) -> None:
    found = compare([written("x", 0.8, rate=0.1), written("y", 0.9, rate=0.3)])
    assert all(group.spread(found.measures[0]).sd is None for group in found.groups)  # type: ignore[union-attr]
    assert "it may be chance" in compare_page.verdict(found)


def test_groups_are_named_by_what_differs(written: Written) -> None:
    runs = [
        written("x", uplink={"density": 0.1}),
        written("y", uplink={"density": 0.2}, model={"name": "mlp"}),
        written("z", downlink={"density": 0.2}, model={"name": "mlp"}),
    ]
    names = [group.name for group in compare(runs).groups]
    assert names[0] == "model cosine, uplink.density 0.1, downlink.density 0"
    assert len(set(names)) == 3
    assert [g.name for g in compare(runs[:2]).groups] == [
        "model cosine, density 0.1",
        "model mlp, density 0.2",
    ]


def test_what_judges_is_what_sites_hold_out(written: Written) -> None:
    # The one is better on the test set, the other on what the sites hold out.
    runs = [written("x", 0.95, rate=0.1, held=0.7), written("y", 0.9, rate=0.3, held=0.8)]
    found = compare(runs)
    assert found.ranked[0][0].name == "learning_rate 0.3"
    told = compare_page.verdict(found)
    assert told.startswith("learning_rate 0.3 has the best mean: 80.0 %")
    assert "90.0 % on the global test set" in told and "it is +10.0 points, n 1" in told


def test_a_tie_is_told_as_one(written: Written) -> None:
    rates = (0.1, 0.3, 1.0, 3.0)
    runs = [
        written(f"r{r}-{s}", s, s, r, held=0.7 if r == 3.0 else 0.8) for r in rates for s in (1, 2)
    ]
    found = compare(runs)
    assert compare_page.verdict(found).startswith(
        "3 settings share the best mean, learning_rate 0.1 the first: 80.0 ± 0.0 % on the"
    )
    for run in runs[:4]:
        summary = json.loads((run / "summary.json").read_text())
        summary["accuracy"] |= {"of": "sites", "on": f"sites' own held-out parts ({run.name})"}
        (run / "summary.json").write_text(json.dumps(summary))
    assert compare(runs[:4]).on == "sites' own held-out parts"


def test_a_search_keeps_the_test_set_for_what_it_chose(written: Written, tmp_path: Path) -> None:
    runs = [written("x", 0.951, rate=0.1, held=0.7), written("y", 0.912, rate=0.3, held=0.8)]
    found = compare(runs, searched=True)
    made = compare_page.write(found, tmp_path / "out")
    everything = json.dumps(made) + (tmp_path / "out" / "compare.csv").read_text()
    assert "0.951" not in everything and "score" not in made["groups"][0]["measures"]
    assert not (tmp_path / "out" / "curves.png").exists()
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "91.2 %" in page and "95.1 %" not in page


def test_other_parts_at_the_sites_are_told_of_a_mean_over_them(written: Written) -> None:
    runs = [written("x", binary=True), written("y", binary=True, rate=0.3)]
    runs.append(written("z", binary=True, seed=2))
    told = "Not scored on the same records: the sites' parts differ"
    for run, sizes in zip(runs, ((19, 19, 17), (15, 15, 25), (15, 20, 20)), strict=True):
        summary = json.loads((run / "summary.json").read_text())
        summary["accuracy"]["of"] = "sites"
        for row, size in zip(summary["accuracy"]["by_site"].values(), sizes, strict=True):
            row["records"] = size
        (run / "summary.json").write_text(json.dumps(summary))
    assert any(told in note for note in compare(runs).notes)
    # The accuracy counts each record once, and another seed draws another lot.
    assert not any(told in note for note in compare(runs, "accuracy.deep").notes)
    assert not any(told in note for note in compare([runs[0], runs[2]]).notes)
    # What was not scored has no parts.
    unscored = json.loads((runs[1] / "summary.json").read_text())
    unscored["accuracy"]["by_site"] = {}
    (runs[1] / "summary.json").write_text(json.dumps(unscored))
    assert not any(told in note for note in compare(runs[:2]).notes)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda summary: summary["data"].update(name="fashion-mnist"), "the same data set"),
        (lambda summary: summary["accuracy"].update(records=10_000), "the same test records"),
        (lambda summary: summary["accuracy"].update(of="sites"), "the same test records"),
    ],
)
def test_runs_on_other_records_are_refused(
    written: Written, change: Callable[[dict[str, Any]], None], rule: str
) -> None:
    runs = [written("x"), written("y", rate=0.3)]
    path = runs[1] / "summary.json"
    summary = json.loads(path.read_text())
    change(summary)
    path.write_text(json.dumps(summary))
    with pytest.raises(ValueError, match=f"y: must have {rule} as .*x to be compared"):
        compare(runs)


def test_other_records_under_the_same_name_are_found_by_their_digest(written: Written) -> None:
    runs = [written("x"), written("y", rate=0.3)]
    for run, digest in zip(runs, "ab", strict=True):
        (run / "checkpoint").mkdir()
        (run / "checkpoint" / "records.sha256").write_text(digest * 64)
    with pytest.raises(ValueError, match="must have the same records"):
        compare(runs)
    (runs[1] / "checkpoint" / "records.sha256").write_text("a" * 64)
    compare(runs)


def test_other_folds_are_told_where_the_sites_score(written: Written) -> None:
    runs = [written("x"), written("y", data={"fold": 1})]
    assert not any("same records" in note for note in compare(runs).notes)
    for run in runs:
        summary = json.loads((run / "summary.json").read_text())
        summary["accuracy"]["of"] = "sites"
        (run / "summary.json").write_text(json.dumps(summary))
    assert any(
        "Not scored on the same records: data.fold differ" in note for note in compare(runs).notes
    )


def test_a_folder_stands_for_its_runs_and_the_unfinished_are_named(
    written: Written, tmp_path: Path
) -> None:
    written("a"), written("b", seed=2), written("c", seed=3, finished=False)
    (tmp_path / "notes").mkdir()
    assert [[p.name for p in found] for found in expand([tmp_path, tmp_path / "a"])] == [
        ["a", "b"],
        ["c"],
    ]
    found = compare([tmp_path])
    assert found.as_dict()["unfinished"] == [str(tmp_path / "c")]
    assert "Not finished, and left out: c." in compare_page.build(found, tmp_path)


def test_what_cannot_be_compared_is_said_with_its_mend(written: Written, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: no such directory"):
        compare([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="needs at least one finished run"):
        compare([tmp_path])
    with pytest.raises(ValueError, match=r"score: must be one of accuracy.deep, .*got 'f1.deep'"):
        compare([written("a")], "f1.deep")
    (tmp_path / "a" / "scenario.toml").unlink()
    with pytest.raises(ValueError, match=r"a/scenario.toml: cannot be read"):
        compare([tmp_path / "a"])


def test_what_all_runs_cost_is_their_composition(written: Written) -> None:
    event, steps, delta = Event(7.618, 0.25), 48, 1e-5
    runs = [written(f"p{n}", seed=n, private=True) for n in range(1, 4)]
    fixed = compare(runs, fixed_beforehand=True).cost
    assert fixed is not None and (fixed.bound, fixed.runs) == ("pld", 3)
    assert fixed.epsilon == pytest.approx(compose_pld([(event, 3 * steps)], delta))
    chosen = compare(runs).cost
    assert chosen is not None and chosen.bound == "rdp"
    # The least ceiling whose own order adds the plans up to no more; never less than the best one.
    parts = [(event, 3 * steps)]
    assert rdp_at(parts, order_for(chosen.epsilon, delta), 0.99 * delta) <= chosen.epsilon
    lower = 0.995 * chosen.epsilon
    assert rdp_at(parts, order_for(lower, delta), 0.99 * delta) > lower
    assert compose_rdp(parts, delta) <= chosen.epsilon <= 1.05 * compose_rdp(parts, 0.99 * delta)
    alone = compare(runs[:1]).cost
    assert alone is not None and alone.epsilon == pytest.approx(compose_pld([(event, 48)], delta))
    assert compare([written("clear", rate=0.3)]).cost is None


def test_what_a_search_chose_by_is_said_to_be_in_no_epsilon(written: Written) -> None:
    """A run refuses to choose its round by private held-out records; a search goes by them."""
    runs = [written(f"s{n}", seed=n, private=True) for n in (1, 2)]
    for count in (1, 2):
        found, plain = (compare(runs[:count], searched=told).cost for told in (True, False))
        assert found is not None and plain is not None
        assert found.epsilon == plain.epsilon and found.as_dict()["searched"] is True
        assert found.told() == plain.told() + (
            " It covers the records that are trained on: a search chooses by those that sites hold "
            "out, which no plan charges. Where they are private as well, search on public records."
        )


def test_cut_samples_take_their_part_of_delta_or_there_is_no_bound(written: Written) -> None:
    def cost(name: str, cap: int) -> float:
        caps = {"max_batch": cap, "max_records": 400}
        found = compare(
            [written(f"{name}{n}", seed=n, private=True, privacy=caps) for n in (1, 2)],
            fixed_beforehand=True,
        ).cost
        assert found is not None
        return found.epsilon

    event = Event(7.618, 0.25)
    assert cost("wide", 300) == pytest.approx(compose_pld([(event, 96)], 0.99e-5))
    # A sample of 400 records at rate 0.25 is larger than 105 every fourth time.
    assert cost("narrow", 105) == math.inf


def test_every_figure_is_in_the_csv(written: Written) -> None:
    found = compare([written("a", 0.8), written("b", 0.9, rate=0.3)])
    rows = list(csv.DictReader(io.StringIO(compare_page.as_csv(found))))
    assert [(row["setting"], row["seed"], row["run"]) for row in rows] == [
        ("learning_rate 0.1", "1", "a"),
        ("learning_rate 0.3", "1", "b"),
    ]
    assert [float(row["score"]) for row in rows] == [0.8, 0.9]
    assert float(rows[0]["held_out"]) == pytest.approx(0.8)
    assert float(rows[0]["bytes_up"]) == 12 * 1_875


def test_the_page_carries_its_pictures_and_runs_nothing(written: Written, tmp_path: Path) -> None:
    hostile = written("a", 0.8, data={"target": "<script>alert(1)</script>"})
    found = compare([hostile, written("b", rate=0.3)])
    made = compare_page.write(found, tmp_path / "out")
    page = Path(made["page"]).read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    for name in ("curves.png", "pareto.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_a_terminal_of_80_columns_cuts_no_figure(written: Written) -> None:
    runs = [
        written(f"{rate}-{seed}", 0.8 + seed / 50, seed, rate, private=True)
        for rate in (0.1, 0.25)
        for seed in (1, 2)
    ]
    text = io.StringIO()
    compare_page.print_comparison(compare(runs), "compare.html", text)
    lines = text.getvalue().splitlines()
    assert "…" not in text.getvalue() and max(map(len, lines)) <= 80
    assert "83.0 ± 1.4 %" in text.getvalue()


def test_curves_are_means_of_the_seeds_round_by_round(written: Written) -> None:
    found = compare([written("a"), written("b", seed=2)])
    points = curve_of(found.groups[0], "accuracy.deep")
    # As the fixture makes them: every second round is scored, alike in both runs.
    assert [number for number, _ in points] == [2, 4, 6, 8, 10, 12]
    assert points[0][1].mean == pytest.approx(0.5 + 0.0345 * 2) and points[0][1].sd == 0.0


def test_the_axis_of_bytes_makes_no_trend_of_a_few(written: Written) -> None:
    found = compare([written("a"), written("b", rate=0.3)])
    for member in found.groups[1].members.values():
        member.summary["bytes"]["up"] += 12
    low, high = pareto(found).axes[0].get_xlim()
    assert high / low == pytest.approx(1.5) and low < 12 * 1_875 / 1e6 < high


def test_single_runs_have_no_band_and_the_page_says_none(written: Written, tmp_path: Path) -> None:
    found = compare([written("a"), written("b", rate=0.3)])
    page = Path(compare_page.write(found, tmp_path / "one")["page"]).read_text()
    assert "of a single seed no spread is known" in page and "the band" not in page
    more = compare([written("c", 0.8), written("d", 0.9, seed=2)])
    page = Path(compare_page.write(more, tmp_path / "two")["page"]).read_text()
    assert "the band is one standard deviation" in page


def test_the_front_is_what_nothing_else_beats_in_both() -> None:
    points = [(1.0, 0.5), (1.0, 0.6), (2.0, 0.6), (3.0, 0.9), (4.0, 0.1)]
    assert best(points) == [(1.0, 0.6), (3.0, 0.9)]
    assert best(points, less=True) == [(1.0, 0.5), (4.0, 0.1)]
