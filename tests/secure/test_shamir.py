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


def test_a_share_has_sixteen_bytes() -> None:
    assert len(shamir.share(shamir.PRIME - 1)) == shamir.BYTES
    assert shamir.number(shamir.share(77)) == 77
