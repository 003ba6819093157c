"""Shares against polynomials that are evaluated term by term."""

from __future__ import annotations

import secrets
from itertools import combinations

import pytest

from fedlite.secure import shamir


def test_the_modulus_is_prime() -> None:
    odd, twos = shamir.PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in range(2, 60):
        power = pow(base, odd, shamir.PRIME)
        squares = [power]
        for _ in range(twos):
            squares.append(squares[-1] ** 2 % shamir.PRIME)
        assert power == 1 or shamir.PRIME - 1 in squares[:-1], base


@pytest.mark.parametrize("least", [1, 2, 4])
def test_any_so_many_shares_give_the_secret(least: int) -> None:
    terms = [secrets.randbelow(shamir.PRIME) for _ in range(least)]
    shares = {
        x: sum(term * x**power for power, term in enumerate(terms)) % shamir.PRIME
        for x in range(1, 7)
    }
    for places in combinations(shares, least):
        some = {place: shares[place] for place in places}
        assert shamir.at(some, 0) == terms[0]
        assert shamir.at(some, 6) == shares[6]
    assert shamir.at(shares, 0) == terms[0], "more points than needed are no other polynomial"


@pytest.mark.parametrize(("points", "least"), [(1, 1), (3, 2), (5, 5), (9, 3), (19, 14), (99, 67)])
def test_whoever_lies_the_polynomial_is_found_while_the_others_are_enough(
    points: int, least: int
) -> None:
    most = (points - least) // 2
    for lies in {0, 1, most} if most else {0}:
        for _ in range(3):
            terms = [secrets.randbelow(shamir.PRIME) for _ in range(least)]
            places = secrets.SystemRandom().sample(range(points + 5), points)
            shares = {place: shamir.value(terms, place) for place in places}
            for place, lie in zip(places[:lies], (0, 1, *range(2, 50)), strict=False):
                shares[place] = (shares[place] + 1) % shamir.PRIME if lie % 2 else lie
            assert shamir.corrected(shares, least) == terms


def test_a_polynomial_of_low_degree_has_all_its_coefficients() -> None:
    assert shamir.corrected(dict.fromkeys(range(1, 10), 0) | {3: 7}, 5) == [0] * 5
    assert shamir.corrected(dict.fromkeys(range(1, 10), 4), 5) == [4, 0, 0, 0, 0]


def test_with_too_many_lies_it_is_none_or_another() -> None:
    shares = {place: place**2 for place in range(1, 8)} | {1: 0, 4: 1, 6: 2}
    assert shamir.corrected(shares, 3) != [0, 0, 1]


def test_a_share_has_sixteen_bytes() -> None:
    assert len(shamir.share(shamir.PRIME - 1)) == shamir.BYTES
    assert shamir.number(shamir.share(77)) == 77
