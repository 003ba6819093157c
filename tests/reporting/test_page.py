"""The page of a run: it says what the record holds, stands alone, and runs nothing.

Covers fedlite/reporting/many.py, fedlite/reporting/markup.py, fedlite/reporting/page_baselines.py,
fedlite/reporting/page_privacy.py, fedlite/reporting/page_read.py, fedlite/reporting/page_sites.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedlite.reporting.report import report
from tests.reporting.reader import Make, read


def test_page_has_every_figure(private: Path) -> None:
    text, _ = read(private / "report.html")
    for figure in [
        *("quickstart", "seed 7", "one run", "3 sites", "12 rounds"),
        *("91.4 %", "87.4 %", "81.1 %", "71.1 %", "82.1 %", "360 records", "2.9 points"),
        *("0.022 MB", "0.060 MB", "2.97 MB", "132 times less", "49 times less", "0.0075 MB"),
        *("0.031 MB", "0.071 MB", "20,640 parameters"),
        *("2.882", "2.887", "3.124", "3.00", "2.89", "1e-05"),
        *("7.618", "0.25", "48", "0.1", "add or remove one record", "record: one record"),
        *("19,988", "4,096", "641", "24,727", "accepted 36"),
        *("5f0c9e2b", "wheel, sha256 09ed5f", "flwr 1.41.0", "python 3.11.7", "2 x AMD EPYC"),
        *("23.4 s", "0.74 s", "41.2 s", "412 J, modelled (10 W for each busy core)", "pool"),
        "The compressed update, the signed head of its privacy ledger, and nothing else",
        "Scores and counts of held-out records are exact, and no epsilon covers them",
    ]:
        assert figure in text, figure
    assert "No privacy is claimed" not in text
    for absent in ("home head", "Beside other ways", "None", "nan"):
        assert absent not in text, absent


def test_a_run_that_ended_early_shows_the_bound_of_its_whole_plan(
    make_run: Make, write_run: Make, tmp_path: Path
) -> None:
    rounds, summary = make_run()
    for row in summary["privacy"]["sites"].values():
        row["prefix"] = {"steps": 12, "epsilon": 1.06}
    report(write_run(tmp_path / "run", (rounds[:3], summary | {"rounds": 3})))
    text, _ = read(tmp_path / "run" / "report.html")
    assert "Each figure is that of the whole plan, however early the run or a site stopped." in text
    assert "At most 12 of 48 steps were asked of a site" in text
    assert "The dotted privacy loss is no bound" in text
    assert "2.882" in text and re.search(
        r"2\.89\s+privacy loss|privacy loss, epsilon\s+2\.89", text
    )


def test_of_many_sites_that_share_the_noise_a_few_counts_are_told_in_order(
    make_run: Make, write_run: Make, tmp_path: Path
) -> None:
    rounds, summary = make_run()
    losses = {str(n): round(100.0 / n, 4) for n in range(1, 101)}
    summary["privacy"] |= {
        "noise_at": "shared",
        "shared": {"sites": 100, "honest": 67, "alone": 100.0, "epsilon": losses},
    }
    report(write_run(tmp_path / "run", (rounds, summary)))
    text, _ = read(tmp_path / "run" / "report.html")
    assert re.findall(
        r"epsilon if (\d+) of 100 sites are honest(, as planned)? ([\d.]+)", text
    ) == [
        ("100", "", "1.000"),
        ("75", "", "1.334"),
        ("67", ", as planned", "1.493"),
        ("50", "", "2.000"),
        ("25", "", "4.000"),
        ("1", "", "100.000"),
    ]


@pytest.mark.parametrize("sites", [20, 200])
def test_where_no_site_holds_records_out_no_chart_and_no_rows_are_empty(
    make_run: Make, write_run: Make, tmp_path: Path, sites: int
) -> None:
    rounds, summary = make_run(private=False)
    names = [f"site-{i:03d}" for i in range(sites)]
    rounds = [
        replace(row, joined=[] if at else names, asked=names[:3]) for at, row in enumerate(rounds)
    ]
    summary["sites"] = names
    summary["accuracy"]["by_site"] = {}
    made = report(write_run(tmp_path / "run", (rounds, summary)))
    assert [Path(name).name for name in made["figures"]] == ["rounds.png", "attendance.png"]
    text, _ = read(tmp_path / "run" / "report.html")
    assert "Site by site" not in text and "No site holds records out" in text
    assert re.search(r"all\s+360\s+87\.4 %\s+91\.4 %", text) and "site-0" not in text
    # 22,500 bytes of 36 updates: a mean over the sites would be over those never asked.
    assert "For each update that was used the sites sent 625 bytes" in text


def test_page_is_self_contained_and_runs_nothing(private: Path) -> None:
    _, reader = read(private / "report.html")
    assert reader.seen.isdisjoint({"script", "link", "iframe", "object", "form", "a"})
    sources = [value for name, value in reader.attributes if name in ("src", "href")]
    assert sources and all(str(value).startswith("data:image/png;base64,") for value in sources)
    css = (private / "report.html").read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in css and "@import" not in css
    assert "prefers-color-scheme: dark" in css and "@media print" in css


def test_binary_page_has_baselines_exchange_and_home_head(
    make_run: Make, write_run: Make, tmp_path: Path
) -> None:
    directory = write_run(tmp_path / "run", make_run(binary=True))
    made = report(directory)
    assert [Path(p).name for p in made["figures"]] == ["rounds.png", "baselines.png"]
    text, reader = read(directory / "report.html")
    for figure in ("0.876", "0.832", "0.801", "0.791", "0.889", "0.751", "0.841", "0.654"):
        assert figure in text, figure
    for words in (
        "AUC, home head",
        "is never sent",
        "5-fold cross-validation, 2 repeats",
        "One site is small.",
        "trained at",
        "how many records it trained on",
    ):
        assert words in text, words
    assert sum(name == "src" for name, _ in reader.attributes) == 2
    assert json.loads(json.dumps(made)) == made


def test_seeded_noise_is_no_claim_anywhere(make_run: Make, write_run: Make, tmp_path: Path) -> None:
    rounds, summary = make_run()
    summary["privacy"]["claimed"] = False
    rounds = [replace(record, epsilon=None) for record in rounds]
    report(write_run(tmp_path / "run", (rounds, summary)))
    text, _ = read(tmp_path / "run" / "report.html")
    assert text.count("No privacy is claimed: noise was seeded") == 2, "verdict and section"
    assert "exceeds epsilon" not in text and "not claimed" in text


def test_page_without_privacy(make_run: Make, write_run: Make, tmp_path: Path) -> None:
    report(write_run(tmp_path / "run", make_run(private=False)))
    text, _ = read(tmp_path / "run" / "report.html")
    assert "No privacy is claimed: no noise was added to any update." in text
    assert "PLD" not in text


def test_hostile_names_stay_text(make_run: Make, write_run: Make, tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>$title\x1b[31m\u202e'
    rounds, summary = make_run(binary=True)
    text = json.dumps(summary).replace("site-01", json.dumps(evil)[1:-1])
    summary = json.loads(text)
    for key in ("scenario", "machine", "run", "engine"):
        summary[key] = evil
    summary["versions"] = {evil: evil}
    summary["disclosed"] = [evil]
    summary["baselines"]["note"] = evil
    summary["baselines"]["rows"][0]["name"] = "$\\frac{" + evil
    summary["accuracy"]["on"] = evil
    rounds[2] = replace(rounds[2], dropped={evil: "<i>size</i>"}, missing=["<b>late</b>"])
    directory = write_run(tmp_path / "run", (rounds, summary))
    report(directory)
    shown, reader = read(directory / "report.html")
    assert reader.seen.isdisjoint({"script", "i", "b"})
    assert "<script>alert(1)</script>$title" in shown and "<i>size</i>" in shown
    assert "\x1b" not in shown and "\u202e" not in shown


EVIL = '"><script>alert(1)</script>{{ 7 * 7 }}\x1b[31m\u202e'


def poisoned(value: Any) -> Any:
    """Return a record with evil in place of every text in it that is not a key."""
    if isinstance(value, dict):
        return {key: poisoned(held) for key, held in value.items()}
    if isinstance(value, list):
        return [poisoned(held) for held in value]
    return EVIL if isinstance(value, str) else value


@pytest.mark.parametrize("whole", [poisoned, lambda summary: summary])
def test_whatever_text_a_record_holds_stays_text(
    make_run: Make, write_run: Make, tmp_path: Path, whole: Callable[[Any], Any]
) -> None:
    rounds, summary = make_run(binary=True)
    summary["refused"] = summary["disclosed"] = [EVIL]
    summary["data"]["read"] = {
        "name": EVIL,
        "records": 9,
        "shape": [2],
        "classes": {EVIL: 5, "b": 4},
        "sites": {EVIL: [5, 4]},
        "warnings": [EVIL],
    }
    summary["settings"][EVIL] = EVIL
    summary = whole(summary) | {"sites": [EVIL, "site-02"]}
    report(write_run(tmp_path / "run", (rounds, summary)))
    shown, reader = read(tmp_path / "run" / "report.html")
    assert "script" not in reader.seen
    assert shown.count("<script>alert(1)</script>{{ 7 * 7 }}") > 8
    assert "\x1b" not in shown and "\u202e" not in shown


def test_what_was_set_and_what_was_read_are_shown(
    make_run: Make, write_run: Make, tmp_path: Path
) -> None:
    rounds, summary = make_run(private=False)
    summary["data"]["read"] = {
        "name": "csv",
        "records": 1200,
        "test_records": 300,
        "shape": [13],
        "missing": 0.0312,
        "classes": {"ill": 300, "well": 900},
        "sites": {"a": [700, 75], "b": [400, 25]},
        "warnings": ["The labels 'Yes' and 'yes' differ in case only and are 2 classes."],
    }
    report(write_run(tmp_path / "run", (rounds, summary)))
    text, _ = read(tmp_path / "run" / "report.html")
    for words in (
        "csv, 1,200 records of 13 columns, 3.1 % of their cells missing",
        "300 records more, held by no site",
        "well is 75.0 %, ill is 25.0 %; always answering well would be right for 75.0 %",
        "a 700 + 75 held out, b 400 + 25 held out",
        "The labels 'Yes' and 'yes' differ in case only",
    ):
        assert words in text, words
    for key, value in (
        ("data.partition", "dirichlet"),
        ("training.learning_rate", "24.5"),
        ("training.logit_adjustment", "true"),
        ("uplink.compressor", "rotated-topk"),
    ):
        assert re.search(rf"{re.escape(key)}\s+{value}\s", text), key


def test_a_thousand_sites_are_a_distribution(
    make_run: Make, write_run: Make, tmp_path: Path
) -> None:
    rounds, summary = make_run(private=True)
    names = [f"site-{i:04}" for i in range(1001)]
    summary["sites"] = names
    summary["accuracy"]["by_site"] = {
        name: {"shallow": i / 2000, "deep": i / 1000, "records": 5 + i}
        for i, name in enumerate(names)
    }
    row = summary["privacy"]["sites"]["site-01"]
    summary["privacy"]["sites"] = {
        name: row | {"releases": 12 - (i > 500)} for i, name in enumerate(names)
    }
    summary["privacy"]["sites"]["site-0007"] = row | {"budget": 9.0}
    rounds[3] = replace(rounds[3], dropped=dict.fromkeys(names[:60], "budget"))
    rounds[4] = replace(rounds[4], dropped=dict.fromkeys(names[:70], "budget"))
    made = report(write_run(tmp_path / "run", (rounds, summary)))
    assert [Path(name).name for name in made["figures"]] == ["rounds.png", "sites.png"]
    text, reader = read(tmp_path / "run" / "report.html")
    assert "site-0" not in text
    assert len(reader.texts) < 1500, "no row for each of a thousand sites"
    assert re.search(r"lowest\s+5\s+0\.0 %\s+0\.0 %", text)
    assert re.search(r"1/4 at most\s+255\s+12\.5 %\s+25\.0 %", text)
    assert re.search(r"median\s+505\s+25\.0 %\s+50\.0 %", text)
    assert re.search(r"highest\s+1,005\s+50\.0 %\s+100\.0 %", text)
    assert re.search(r"1,000 sites\s+2\.882\s+3\.00\s.*?11 to 12 \(median 12\)", text)
    assert re.search(r"1 site\s+2\.882\s+9\.00\s", text)
    assert re.search(r"budget\s+70\s+130\s", text)
    assert "moves its accuracy by 20.0 points" in text


def test_dropped_and_missing_are_named_with_their_reason(
    make_run: Make, write_run: Make, tmp_path: Path
) -> None:
    rounds, summary = make_run()
    for i in (3, 4):
        rounds[i] = replace(rounds[i], dropped={"site-02": "wrong-round"}, accepted=2)
    rounds[5] = replace(rounds[5], missing=["site-03"], accepted=2)
    summary["updates"] = {"accepted": 33, "dropped": 2, "missing": 1}
    report(write_run(tmp_path / "run", (rounds, summary)))
    text, _ = read(tmp_path / "run" / "report.html")
    assert re.search(r"site-02\s+wrong-round\s+2", text)
    assert re.search(r"site-03\s+missing\s+1", text)


def test_a_coordinator_without_records_says_that_it_measured_nothing(
    make_run: Make, write_run: Make, tmp_path: Path
) -> None:
    rounds, summary = make_run()
    rounds = [replace(record, accuracy={}) for record in rounds]
    summary |= {"accuracy": {"by_site": {}}, "engine": "network"}
    summary["data"] = {"name": "csv", "origin": "the sites' own files", "at_sites": True}
    directory = write_run(tmp_path / "run", (rounds, summary))
    report(directory)
    text, _ = read(directory / "report.html")
    assert text.count("No accuracy was measured: the coordinator holds no records.") == 2
    assert "site-01, site-02, site-03" in text and "epsilon 2.89" in text
    for wrong in ("None", "held-out", "Held-out", "0.0 %", "simulation"):
        assert wrong not in text


def test_a_dense_run_without_privacy_is_called_so(
    make_run: Make, write_run: Make, tmp_path: Path
) -> None:
    rounds, summary = make_run(private=False)
    summary["settings"]["uplink.compressor"] = "dense"
    report(write_run(tmp_path / "run", (rounds, summary)))
    text, _ = read(tmp_path / "run" / "report.html")
    assert "The update and nothing else" in text and "compressed update" not in text
    assert "Accuracy and bytes sent over the rounds of this one run." in text
