"""Draws what the other two scripts of this folder have measured; needs matplotlib.

python examples/recurrent/curves.py --logdir runs/recurrent_memory --out memory.png
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from networks import ALGORITHMS

from rlpolicy.utils.cli import parse_args

COLOURS = {"recurrent": "tab:blue", "full": "tab:green", "blind": "tab:red"}


@dataclass
class Args:
    """Curves of test returns."""

    logdir: str = "runs/recurrent_memory"
    """where the runs are, as <algo>_<net>_<seed>"""
    out: str = "memory.png"
    """the picture"""
    title: str = "A cue is rewarded eight steps later: mean of 100 test episodes"
    """above the picture"""


def test_returns(run: Path) -> tuple[list[int], list[float]]:
    """Environment steps and mean test returns."""
    from tensorboard.backend.event_processing import event_accumulator

    events = event_accumulator.EventAccumulator(str(run))
    events.Reload()
    rows = events.Scalars("test/returns_stat/mean")
    return [row.step for row in rows], [row.value for row in rows]


def main(args: Args) -> dict[str, dict[int, float]]:
    """The best test of each run."""
    from matplotlib import pyplot as plt

    best: dict[str, dict[int, float]] = {}
    runs = sorted(Path(args.logdir).iterdir())
    algorithms = [name for name in ALGORITHMS if any(run.name.startswith(f"{name}_") for run in runs)]
    figure, panels = plt.subplots(1, len(algorithms), figsize=(3.2 * len(algorithms), 3.4), sharey=True, squeeze=False)
    for algorithm, panel in zip(algorithms, panels[0], strict=True):
        seen: set[str] = set()
        for run in (run for run in runs if run.name.startswith(f"{algorithm}_")):
            _, net, seed = run.name.split("_")
            steps, returns = test_returns(run)
            best.setdefault(f"{algorithm} {net}", {})[int(seed)] = max(returns)
            label: Any = None if net in seen else net
            panel.plot(steps, returns, color=COLOURS[net], marker=".", label=label, alpha=0.8)
            seen.add(net)
        panel.set(title=algorithm.upper(), xlabel="environment steps")
        panel.grid(alpha=0.25)
    panels[0][0].set_ylabel("return")
    panels[0][0].legend(frameon=False)
    figure.suptitle(args.title)
    figure.tight_layout()
    figure.savefig(args.out, dpi=90)
    return best


if __name__ == "__main__":
    for name, returns in main(parse_args(Args)).items():
        print(f"{name:16}", *(f"{value:9.2f}" for value in returns.values()))
