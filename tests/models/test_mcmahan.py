"""The network of the federated averaging paper, by its published size."""

from __future__ import annotations

from fedlite.models import build


def test_the_deep_way_has_the_parameters_that_the_paper_counts() -> None:
    """1,663,370 (section 3); the linear exit on 32 maps of 3 x 3 is on top of that."""
    costs = build("mcmahan", (1, 28, 28), 10, seed=0).costs()
    assert costs["stem"]["parameters"] + costs["tail"]["parameters"] == 1_663_370
    assert costs["exit"]["parameters"] == 32 * 9 * 10 + 10
    # 5 x 5 x 1 x 32 at 28 x 28 places; 5 x 5 x 32 x 64 at 14 x 14, and two matrices.
    assert costs["stem"]["macs"] == 25 * 32 * 784
    assert costs["tail"]["macs"] == 25 * 32 * 64 * 196 + 3136 * 512 + 512 * 10
