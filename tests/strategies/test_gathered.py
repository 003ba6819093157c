"""Rules that see every update of a round: what all of them must do.

Covers strategies/median.py, strategies/trimmed.py, strategies/normbound.py.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import trim_mean

from fedlite.compression import Decoded
from fedlite.parameters import LARGEST_UPDATE, Vector
from fedlite.scenario import Federation, Link, from_dict
from strategies import STRATEGIES, CoordinateWise, Gathered, ServerState, gathered, make

RULES = ("median", "trimmed-mean", "krum", "multi-krum", "geometric-median", "norm-bound")
N, SITES, HOSTILE = 12, 11, 4
Rows = NDArray[np.float32]


def settings(name: str, sites: int = SITES, **keys: object) -> Federation:
    # Of eleven sites 0.36 are four, which is as many as Krum can bear.
    return Federation(strategy=name, sites=sites, quorum=sites, **keys)  # type: ignore[arg-type]


def rule(name: str) -> Gathered:
    if name in ("trimmed-mean", "krum", "multi-krum"):
        found = STRATEGIES[name](settings(name), attackers=0.36)  # type: ignore[call-arg]
    else:
        found = make(settings(name))
    assert isinstance(found, Gathered)
    return found


def updates(form: str, seed: int = 0) -> list[Decoded]:
    """Return what eleven sites send: dense, sparse with supports of their own, or both."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(SITES):
        values = (1 + rng.normal(size=N) * rng.uniform(0.5, 3)).astype(np.float32)
        where = np.sort(rng.choice(N, N // 2, replace=False)).astype(np.int32)
        if form == "sparse" or (form == "both" and index % 2):
            found.append(Decoded(N, where, values[: where.size]))
        else:
            found.append(Decoded(N, None, values))
    return found


def combined(name: str, given: list[Decoded]) -> Vector:
    strategy = rule(name)
    strategy.start(N)
    for update in given:
        strategy.add(update, 0)
    return strategy.combined()


def krum_scores(rows: Rows, hostile: int) -> list[float]:
    """Blanchard et al. 2017, section 4, as it stands: every pair, every neighbour."""
    scores = []
    for i, one in enumerate(rows):
        near = sorted(
            float(((one.astype(float) - other) ** 2).sum())
            for j, other in enumerate(rows)
            if j != i
        )
        scores.append(sum(near[: len(rows) - hostile - 2]))
    return scores


def krum(rows: Rows) -> NDArray[np.float64]:
    return rows[int(np.argmin(krum_scores(rows, HOSTILE)))].astype(float)


def multi_krum(rows: Rows) -> NDArray[np.float64]:
    scores = krum_scores(rows, HOSTILE)
    best = sorted(range(len(rows)), key=lambda i: scores[i])[: len(rows) - HOSTILE - 2]
    found: NDArray[np.float64] = rows[best].mean(axis=0, dtype=float)
    return found


def geometric_median(rows: Rows) -> NDArray[np.float64]:
    def total(point: NDArray[np.float64]) -> float:
        return float(np.sqrt(((rows - point) ** 2).sum(axis=1)).sum())

    exact = {"gtol": 1e-9, "maxiter": 10_000}
    found: NDArray[np.float64] = minimize(
        total, rows.mean(axis=0, dtype=float), method="BFGS", options=exact
    ).x
    return found


def norm_bound(rows: Rows) -> NDArray[np.float64]:
    lengths = [float(np.sqrt(sum(float(v) ** 2 for v in row))) for row in rows]
    bound = sorted(lengths)[len(lengths) // 2]
    cut = [row * min(1.0, bound / length) for row, length in zip(rows, lengths, strict=True)]
    return np.mean(cut, axis=0, dtype=float)


TRUTHS: dict[str, Callable[[Rows], NDArray[np.float64]]] = {
    "median": lambda rows: np.array([statistics.median(map(float, c)) for c in rows.T]),
    "trimmed-mean": lambda rows: trim_mean(rows.astype(float), HOSTILE / SITES + 1e-9, axis=0),
    "krum": krum,
    "multi-krum": multi_krum,
    "geometric-median": geometric_median,
    "norm-bound": norm_bound,
}


def test_every_rule_that_gathers_is_among_these() -> None:
    assert {n for n, kind in STRATEGIES.items() if issubclass(kind, Gathered)} == set(RULES)


@pytest.mark.parametrize("form", ["dense", "sparse", "both"])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_a_rule_is_what_its_paper_says(
    name: str, form: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = updates(form, seed)
    truth = TRUTHS[name](np.stack([update.dense() for update in given]))
    whole = combined(name, given)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, truth, rtol=2e-5, atol=2e-5)
    # In blocks of two coordinates nothing else comes out.
    monkeypatch.setattr(gathered, "_BLOCK", 2 * SITES)
    np.testing.assert_allclose(combined(name, given), whole, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", RULES)
def test_the_order_of_the_sites_makes_no_difference(name: str) -> None:
    given = updates("both")
    order = np.random.default_rng(1).permutation(SITES)
    again = combined(name, [given[i] for i in order])
    np.testing.assert_allclose(again, combined(name, given), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["same", "opposite", "own"])
@pytest.mark.parametrize("name", RULES)
def test_f_hostile_updates_of_2f_plus_3_move_it_no_further_than_honest_ones_differ(
    name: str, kind: str
) -> None:
    rng = np.random.default_rng(4)
    honest = updates("dense")[HOSTILE:]
    ways = {"same": [1.0] * 4, "opposite": [1.0, -1.0, 1.0, -1.0], "own": rng.normal(size=4)}
    hostile = [Decoded(N, None, np.full(N, 1e14 * w, np.float32)) for w in ways[kind]]
    found = combined(name, [*hostile, *honest])
    rows = np.stack([update.dense() for update in honest]).astype(float)
    if name in ("median", "trimmed-mean"):
        assert (found >= rows.min(axis=0) - 1e-6).all() and (found <= rows.max(axis=0) + 1e-6).all()
    elif name == "norm-bound":
        # The median length may be the longest of the honest ones; it cuts and does not choose.
        assert np.linalg.norm(found) <= np.linalg.norm(rows, axis=1).max() + 1e-5
    else:
        centre = rows.mean(axis=0)
        spread = np.linalg.norm(rows - centre, axis=1).max()
        # Lopuhaa and Rousseeuw 1991, theorem 2.2, for the geometric median.
        reach = 2 * (SITES - HOSTILE) / (SITES - 2 * HOSTILE) if name == "geometric-median" else 1
        assert np.linalg.norm(found - centre) <= reach * spread + 1e-4
    mean = make(settings("fedavg"))
    mean.start(N)
    for update in [hostile[0], *honest]:
        mean.add(update, 0)
    assert np.linalg.norm(mean.combined()) > 1e11, "what the mean makes of one of them"


@pytest.mark.parametrize("name", RULES)
def test_the_largest_updates_that_are_taken_give_numbers(name: str) -> None:
    most = np.full(N, LARGEST_UPDATE, np.float32)
    for given in (
        [Decoded(N, None, most)] * SITES,
        [Decoded(N, None, most), Decoded(N, None, -most)] * 5 + [Decoded(N, None, 0 * most)],
        [Decoded(N, None, np.zeros(N, np.float32))] * SITES,
        [Decoded(N, None, most)],
    ):
        assert np.isfinite(combined(name, given)).all()


@pytest.mark.parametrize("name", RULES)
def test_server_momentum_and_learning_rate_act_on_what_it_finds(name: str) -> None:
    strategy = rule(name)
    object.__setattr__(strategy.settings, "server_momentum", 0.9)
    object.__setattr__(strategy.settings, "server_learning_rate", 0.5)
    state, model, velocity = ServerState.initial(np.zeros(N, np.float32)), np.zeros(N), np.zeros(N)
    for number in range(1, 4):
        given = updates("dense", number)
        strategy.start(N)
        for update in given:
            strategy.add(update, 0)
        state = strategy.finish(state, number)
        velocity = 0.9 * velocity + combined(name, given)
        model = model + 0.5 * velocity
        np.testing.assert_allclose(state.model, model, atol=1e-5)
    strategy.start(N)
    assert strategy.finish(state, 4).model is state.model, "without any update nothing moves"


@pytest.mark.parametrize("name", RULES)
def test_a_claim_of_records_is_no_weight(name: str) -> None:
    with pytest.raises(ValueError, match=rf"federation\.weighting: must be uniform with {name} "):
        make(settings(name, weighting="records"))


@pytest.mark.parametrize("name", RULES)
def test_nobody_but_the_mechanism_sees_a_clear_sum(name: str) -> None:
    with pytest.raises(ValueError, match=rf"nobody but the mechanism .*'{name}'"):
        make(settings(name), lambda total, weight: total.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "sites", "least"),
    [
        ("median", 20, 3),
        ("geometric-median", 20, 3),
        ("norm-bound", 20, 3),
        ("trimmed-mean", 20, 9),
        ("krum", 20, 11),
        ("multi-krum", 20, 11),
        ("krum", 5, 5),
        ("trimmed-mean", 5, 3),
    ],
)
def test_a_round_counts_only_with_as_many_updates_as_the_rule_needs(
    name: str, sites: int, least: int
) -> None:
    make(Federation(strategy=name, sites=sites, quorum=least))
    wrong = Federation(strategy=name, sites=sites, quorum=least - 1)
    expected = rf"federation\.quorum: must be at least {least} with {name} .* got {least - 1}; "
    with pytest.raises(ValueError, match=expected + "raise it$"):
        make(wrong)


def test_what_a_rule_needs_is_still_known_of_an_error_from_another_process() -> None:
    with pytest.raises(gathered.TooFew) as told:
        make(Federation(strategy="median", sites=9, quorum=2))
    # As pickle does it: the class again, of the error's own arguments.
    back = copy.copy(told.value)
    assert str(back) == str(told.value)
    assert (back.least, back.strategy) == (3, "median")
    assert back.rule == "of two updates no middle one can be told"


def test_options_come_from_the_scenario() -> None:
    tables = {"strategy": "krum", "sites": 20, "quorum": 15}
    options = {"strategy_options": {"attackers": 0.3}}
    make(from_dict({"federation": tables | options}).federation)
    with pytest.raises(ValueError, match=r"at least 15 with krum .* f = 6 of 20 .* got 14"):
        make(from_dict({"federation": tables | options | {"quorum": 14}}).federation)


def test_too_few_sites_for_a_rule_are_told_so() -> None:
    with pytest.raises(ValueError, match=r"must be at least 5 .*raise it, with more sites asked"):
        make(Federation(strategy="krum", sites=3, quorum=3))


@pytest.mark.parametrize("share", [-0.1, 0.5, float("nan")])
@pytest.mark.parametrize("name", ["trimmed-mean", "krum", "multi-krum"])
def test_a_share_of_attackers_that_no_rule_bears_is_refused(name: str, share: float) -> None:
    with pytest.raises(ValueError, match=r"share of attackers .*less than 0\.5"):
        STRATEGIES[name](settings(name), attackers=share)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("multi-krum", {"select": -1}, "must select 0 .* got -1"),
        ("geometric-median", {"iterations": 0}, "at least 1 of iterations, got 0"),
        ("norm-bound", {"factor": 0.0}, r"factor greater than 0, got 0\.0"),
        ("norm-bound", {"factor": float("nan")}, "factor greater than 0, got nan"),
    ],
)
def test_options_without_a_meaning_are_refused(
    name: str, options: dict[str, object], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        STRATEGIES[name](settings(name), **options)  # type: ignore[arg-type]


def test_as_many_as_are_selected_are_taken() -> None:
    given = updates("dense")
    rows = np.stack([update.dense() for update in given])
    scores = krum_scores(rows, HOSTILE)
    for select, expected in ((1, 1), (3, 3), (99, SITES - HOSTILE - 2)):
        strategy = STRATEGIES["multi-krum"](
            settings("multi-krum"),
            attackers=0.36,  # type: ignore[call-arg]
            select=select,
        )
        strategy.start(N)
        for update in given:
            strategy.add(update, 0)
        best = np.argsort(scores, kind="stable")[:expected]
        np.testing.assert_allclose(strategy.combined(), rows[best].mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("name", ["median", "trimmed-mean"])
def test_rules_by_coordinate_refuse_updates_that_have_few_in_common(name: str) -> None:
    with pytest.raises(ValueError, match=rf"uplink\.compressor: must not be topk with {name} "):
        rule(name).check_updates(Link(compressor="topk", density=0.1), ())
    for compressor in ("rotated-topk", "eden", "randk", "dense"):
        rule(name).check_updates(Link(compressor=compressor), ())
    rule("krum").check_updates(Link(compressor="topk", density=0.1), ())


@pytest.mark.parametrize("name", RULES)
def test_what_travels_behind_the_model_would_be_a_way_round_every_rule(name: str) -> None:
    with pytest.raises(ValueError, match=rf"must not be {name} where sites send control .*mean of"):
        rule(name).check_updates(Link(compressor="eden"), ["control"])
    make(settings("fedavg")).check_updates(Link(compressor="eden"), ["control"])


def test_what_a_round_takes_of_memory_is_told() -> None:
    (note,) = make(settings("krum", 20)).notes(36_660)
    assert note == ("federation.strategy: krum holds every update of a round: up to 20 x 0.15 MB")
    assert make(settings("fedavg")).notes(36_660) == ()


def test_a_round_s_updates_are_forgotten_when_it_is_over() -> None:
    strategy = rule("median")
    strategy.start(N)
    strategy.add(updates("dense")[0], 0)
    strategy.combined()
    assert not any(isinstance(v, list) and v for v in vars(strategy).values())


def test_all_updates_are_never_dense_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered, "_BLOCK", 3 * SITES)
    widths = [values.shape for _, values in gathered.blocks(updates("sparse"))]
    assert widths == [(SITES, 3)] * 4


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (None, "None"),
        ([1.0] * N, r"\[1\.0, "),
        (np.zeros(N - 1, np.float32), r"float32 \(11,\)"),
        (np.zeros((1, N)), r"float64 \(1, 12\)"),
        (np.full(N, 1j), r"complex128 \(12,\)"),
        (np.array(["x"] * N), r"<U1 \(12,\)"),
    ],
)
@pytest.mark.parametrize(("base", "method"), [(Gathered, "combine"), (CoordinateWise, "across")])
def test_what_is_no_vector_of_the_model_is_named(
    base: type[Gathered], method: str, found: object, told: str
) -> None:
    mine = type("Mine", (base,), {method: lambda self, given: found})
    strategy = mine(Federation())
    strategy.start(N)
    strategy.add(updates("dense")[0], 0)
    expected = rf"Mine\.{method} must return one number for each of 12 coordinates.* got {told}"
    with pytest.raises(ValueError, match=expected):
        strategy.combined()
