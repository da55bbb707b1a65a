"""The plan of docs/scale.md: its simulation agrees with what can be worked out by hand."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[1] / "throughput" / "scale_simulation.py"


@pytest.fixture(scope="module")
def sim() -> Any:
    spec = importlib.util.spec_from_file_location("scale_simulation", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def free(sim: Any, **options: Any) -> Any:
    """A plan in which nothing costs anything but the environments."""
    plan = sim.Plan(ranks=1, workers=4, forward=0.0, per_block=0.0, per_add=0.0, per_row=0.0, update=0.0)
    return replace(plan, learner_link=1e18, worker_link=1e18, reductions=0, gradient_bytes=0, weight_bytes=0, **options)


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_environments_alone(sim: Any, max_staleness: int) -> None:
    found = sim.simulate(free(sim, max_staleness=max_staleness, envs_per_worker=2))
    assert found.steps == pytest.approx(4 / 2e-3, rel=0.02)  # 4 workers step one environment at a time
    assert found.busy["environments"] == pytest.approx(1.0, abs=0.02)
    assert found.greatest <= max_staleness


def test_workers_that_wait_and_workers_that_do_not(sim: Any) -> None:
    plan = replace(free(sim), update=2e-3, updates_per_round=8)  # 16 ms of collecting, 16 ms of updating
    waiting = sim.simulate(replace(plan, max_staleness=0))
    assert waiting.updates == pytest.approx(8 / 32e-3, rel=0.01)
    assert waiting.staleness == 0.0
    ahead = sim.simulate(plan)
    assert ahead.updates == pytest.approx(8 / 16e-3, rel=0.02)
    assert ahead.busy["learner"] == pytest.approx(1.0, abs=0.02)


def test_a_link_that_is_too_narrow(sim: Any) -> None:
    plan = replace(free(sim), learner_link=1e6, ranks_per_node=1)
    found = sim.simulate(plan)
    assert found.steps == pytest.approx(1e6 / plan.row_bytes, rel=0.02)
    assert found.bytes["transitions into a learner node"] == pytest.approx(1e6, rel=0.02)
    assert found.busy["learner's link"] == pytest.approx(1.0, abs=0.02)


def test_the_tables(sim: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sim.tables()
    printed = capsys.readouterr().out
    page = (FILE.parents[2] / "docs" / "scale.md").read_text()
    for line in printed.splitlines():
        assert line in page, f"docs/scale.md has not this line of the simulation: {line}"
