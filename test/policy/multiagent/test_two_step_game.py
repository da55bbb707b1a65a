"""The two-step game of the QMIX paper (arXiv:1803.11485, table 1)."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "multi_agent" / "two_step_game.py"
PAPER = {
    "qmix": [[[6.93, 6.93], [7.92, 7.92]], [[7.00, 7.00], [7.00, 7.00]], [[0.00, 1.00], [1.00, 8.00]]],
    "vdn": [[[6.94, 6.94], [6.35, 6.36]], [[6.99, 7.02], [6.99, 7.02]], [[-1.87, 2.31], [2.33, 6.51]]],
}
"""Q_tot in the states 1, 2A and 2B, by the actions of both agents."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mixer", ["qmix", "vdn", "iql"])
def test_qmix_finds_what_is_best_and_the_others_what_is_safe(mixer: str, seed: int) -> None:
    game: Any = runpy.run_path(str(EXAMPLE))
    policy, reached = game["train"](game["Args"](mixer=mixer, seed=seed))
    assert reached == (8.0 if mixer == "qmix" else 7.0)
    values = game["joint_values"](policy)
    print(mixer, seed, reached, values.round(2).tolist())
    if mixer == "qmix":
        np.testing.assert_allclose(values, PAPER["qmix"], atol=0.5)
    elif mixer == "vdn":  # least squares of a sum, where the paper's values are those of one run
        np.testing.assert_allclose(values, PAPER["vdn"], atol=1.0)
        assert values[0, 0].min() > values[0, 1].max()
