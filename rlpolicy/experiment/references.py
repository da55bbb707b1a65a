"""Published returns that ours are put beside, and the suites of runs that are compared with them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """A published return."""

    value: float
    """Mean return."""
    spread: float | None
    """Standard deviation, over what ``how`` says; None: not published."""
    how: str
    """After how many steps, over what, in which version of the environment."""
    source: str
    """Who published it."""


@dataclass(frozen=True)
class Entry:
    """One line of a suite."""

    algorithm: str
    env: str
    references: tuple[Reference, ...]
    """Published numbers; empty: there are none."""


_ZOO = "RL Baselines3 Zoo, benchmark.md"
_TIANSHOU = "Tianshou 1.0.0, examples/mujoco/benchmark"
_SLM = "SLM-Lab, docs/BENCHMARKS.md"


def _zoo(value: float, spread: float | None, steps: str) -> Reference:
    return Reference(value, spread, f"{steps} steps; one agent, deviation over episodes", _ZOO)


def _tianshou(value: float, spread: float, env: str) -> Reference:
    return Reference(value, spread, f"1,000,000 steps; 10 seeds, {env}", _TIANSHOU)


def _slm(value: float, steps: str) -> Reference:
    return Reference(value, None, f"{steps} steps; 4 seeds, training returns, v5", _SLM)


def _mujoco(algorithm: str, numbers: dict[str, tuple[float, float]], **more: Reference) -> tuple[Entry, ...]:
    return tuple(
        Entry(algorithm, f"{task}-v5", (_tianshou(*numbers[task], f"{task}-v3"), *filter(None, [more.get(task)])))
        for task in numbers
    )


SUITES: dict[str, tuple[Entry, ...]] = {
    "classic": (
        Entry("ddpg", "Pendulum-v1", (_zoo(-152, 94, "20,000"),)),
        Entry("td3", "Pendulum-v1", (_zoo(-152, 90, "20,000"),)),
        Entry("sac", "Pendulum-v1", (_zoo(-157, 89, "20,000"),)),
        Entry("dqn", "CartPole-v1", (_zoo(500, None, "50,000"),)),
    ),
    "mujoco": (
        *_mujoco(
            "ddpg",
            {"HalfCheetah": (11653, 430), "Hopper": (1604, 936), "Walker2d": (916, 535), "Ant": (385, 334)},
        ),
        *_mujoco(
            "td3",
            {"HalfCheetah": (10127, 692), "Hopper": (3133, 772), "Walker2d": (3842, 543), "Ant": (4911, 918)},
        ),
        *_mujoco(
            "sac",
            {"HalfCheetah": (12122, 1006), "Hopper": (3532, 43), "Walker2d": (4961, 327), "Ant": (5714, 369)},
            HalfCheetah=_slm(9815, "4,000,000"),
            Hopper=_slm(1417, "3,000,000"),
            Walker2d=_slm(3124, "3,000,000"),
            Ant=_slm(4943, "2,000,000"),
        ),
    ),
}
"""By name. The settings are the presets', for the presets' number of steps, without stopping early."""
EPISODES = {"classic": 1_000, "mujoco": 100}
"""New episodes per seed that a suite measures by.

All seeds are measured by the same ones, so that their number limits what an interval over seeds can tell: on Pendulum,
where the return is mostly that of how the pendulum begins (standard deviation 75), 100 have a standard error of 7.5.
"""
