"""``HealthMonitor``: its figures against numbers worked out slowly, planted faults, healthy runs, any policy."""

import copy
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TransformReward
from torch import nn
from torch.optim import Adam

from rlpolicy import seed_everything
from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.exploration.random import EpsilonGreedy
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy
from rlpolicy.policy.modelfree.dqn import DQNPolicy
from rlpolicy.policy.modelfree.sac import SACPolicy
from rlpolicy.policy.multiagent.mixed_q import MixedQPolicy
from rlpolicy.trainer import Callback, OffpolicyTrainer
from rlpolicy.trainer.callbacks import HealthMonitor
from rlpolicy.trainer.callbacks import health_probes as probes
from rlpolicy.utils.logger.base import LazyLogger
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, ActorProb, Critic
from rlpolicy.utils.schedules import LinearSchedule

sys.path.insert(0, str(Path(__file__).parents[2] / "policy"))
from zoo import ZOO, make, transitions

Parts = Callable[..., dict[str, Any]]
FUSED = ("ddpg", "td3", "sac", "dqn")


class Loop:
    """What a monitor reads of a trainer, for a policy that only updates."""

    def __init__(self, policy: Any, buffer: ReplayBuffer, monitor: HealthMonitor | None) -> None:
        self.policy, self.buffer, self.monitor = policy, buffer, monitor
        self.train_collector, self.is_resumed, self.logger = None, False, LazyLogger()
        self.gradient_step = self.env_step = 0
        if monitor is not None:
            monitor.on_train_start(self)  # type: ignore[arg-type]

    def update(self, times: int) -> None:
        for _ in range(times):
            stats = self.policy.update(16, self.buffer)
            self.gradient_step += 1
            if self.monitor is not None:
                self.monitor.on_update(self, stats)  # type: ignore[arg-type]


def filled(name: str, **options: Any) -> VectorReplayBuffer:
    buffer, batch = VectorReplayBuffer(200, 2, seed=0), transitions(name, 80, **options)
    for i in range(80):
        buffer.add(batch[i : i + 1], buffer_ids=np.array([i % 2]))
    return buffer


def weights(policy: nn.Module) -> list[np.ndarray]:
    return [p.detach().double().numpy().copy() for p in policy.state_dict().values()]


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("compiled", [False, True])
def test_every_policy_gives_all_figures_and_goes_on_as_without(name: str, compiled: bool) -> None:
    if compiled and name not in FUSED:
        pytest.skip("has no compiled update")
    ours, theirs = make(name), make(name)
    for policy in (ours, theirs) if compiled else ():
        policy.compile(checks=2)
    monitor = HealthMonitor(every_updates=4, rows=16)
    torch.manual_seed(7)
    watched = Loop(ours, filled(name), monitor)
    watched.update(9)
    after = torch.get_rng_state()
    torch.manual_seed(7)
    plain = Loop(theirs, filled(name), None)
    plain.update(9)
    assert torch.equal(after, torch.get_rng_state())
    np.testing.assert_equal(weights(ours), weights(theirs))
    nets = {"model"} if hasattr(ours, "model") else {"actor", "critic"}
    wanted = {f"{kind}/{net}" for net in nets for kind in ("update_ratio", "grad_norm", "dormant")}
    if not isinstance(ours, MixedQPolicy):  # whose values are those of a team
        wanted |= {"return_size", "q", "observed", "overestimation"}
    wanted |= {"saturation"} if "actor" in nets else set()
    if name == "crossq":
        assert not any("target" in figure for figure in monitor.figures)
    else:
        wanted |= {f"target_lag/{net}_old" for net in nets & {"model", "critic"}}
    wanted -= {"saturation"} if name == "discrete_sac" else set()
    assert wanted <= monitor.figures.keys()
    assert all(np.isfinite(value) for value in monitor.figures.values())
    assert all(monitor.figures[f"update_ratio/{net}"] > 0.0 for net in nets)


@pytest.mark.parametrize("keys", [{"actor": ("a",), "critic": ("a", "b")}])
def test_dict_observations(keys: Any) -> None:
    monitor = HealthMonitor(every_updates=4, rows=8)
    Loop(make("sac", keys=keys), filled("sac", dict_obs=True), monitor).update(3)
    assert {"q", "saturation", "dormant/actor"} <= monitor.figures.keys()


# -- figures ----------------------------------------------------------------------------------------------------------


def test_weights_and_gradients_against_a_slow_loop() -> None:
    policy, buffer = make("ddpg"), filled("ddpg")
    monitor = HealthMonitor(every_updates=100, rows=8)
    loop = Loop(policy, buffer, monitor)

    def vector(net: nn.Module) -> np.ndarray:
        return np.concatenate([p.detach().double().numpy().ravel() for p in net.parameters()])

    before, lag_before = vector(policy.critic), vector(policy.critic_old)
    loop.update(1)
    now, gradient = vector(policy.critic), [p.grad.double().numpy().ravel() for p in policy.critic.parameters()]
    size = max(np.linalg.norm(before), 0.03 * np.sqrt(len(before)))
    figures = monitor.figures
    assert figures["update_ratio/critic"] == pytest.approx(np.linalg.norm(now - before) / size, rel=1e-4)
    assert figures["grad_norm/critic"] == pytest.approx(np.linalg.norm(np.concatenate(gradient)), rel=1e-4)
    lag = np.linalg.norm(vector(policy.critic_old) - now) / max(np.linalg.norm(now), 0.03 * np.sqrt(len(now)))
    assert figures["target_lag/critic_old"] == pytest.approx(lag, rel=1e-4)
    assert not np.array_equal(lag_before, vector(policy.critic_old))


def test_gradients_of_a_compiled_policy_are_those_of_its_last_update() -> None:
    eager, compiled = make("td3"), make("td3").compile(checks=2)
    for policy in (eager, compiled):
        torch.manual_seed(0)
        Loop(policy, filled("td3"), None).update(6)
    norms = [[probes.gradient_norm(net) for net in probes.trained_networks(p).values()] for p in (eager, compiled)]
    np.testing.assert_allclose(*norms, rtol=1e-2)


class Judge(DDPGPolicy):
    """Says of the k-th step of an episode of 5 that Q is the return of ones from there, and ``bias`` more."""

    bias = 0.0

    def action_values(self, buffer: ReplayBuffer, rows: np.ndarray) -> torch.Tensor:
        left = 5 - torch.as_tensor(buffer.get(rows, "obs")[:, 0])
        return (1 - self.gamma**left) / (1 - self.gamma) + self.bias


def judge(bias: float, gamma: float = 0.9) -> tuple[Judge, VectorReplayBuffer]:
    actor, critic = Actor(Net(1, hidden_sizes=[4]), 1), Critic(Net(1, 1, hidden_sizes=[4], concat=True))
    policy = Judge(
        actor=actor, actor_optim=Adam(actor.parameters()), critic=critic, critic_optim=Adam(critic.parameters()),
        action_space=spaces.Box(-1.0, 1.0, (1,)), gamma=gamma,
    )  # fmt: skip
    policy.bias = bias
    buffer = VectorReplayBuffer(60, 2)
    for t in range(25):
        step = Batch(obs=np.full((2, 1), t % 5.0), act=np.zeros((2, 1)), rew=np.ones(2), obs_next=np.zeros((2, 1)))
        step.terminated, step.truncated = np.full(2, t % 5 == 4), np.zeros(2, bool)
        buffer.add(step)
    return policy, buffer


@pytest.mark.parametrize("bias", [0.0, 2.0, -1.0])
def test_overestimation_of_a_critic_whose_error_is_known(bias: float) -> None:
    policy, buffer = judge(bias)
    rows = buffer.sample_indices(0)[:20]
    figures = probes.value_figures(policy, buffer, rows)
    returns = [sum(0.9**k for k in range(5 - int(buffer.obs[row, 0]))) for row in rows]
    assert figures["observed"] == pytest.approx(np.mean(returns), rel=1e-6)
    assert figures["q"] == pytest.approx(np.mean(returns) + bias, rel=1e-6)
    assert figures["overestimation"] == pytest.approx(bias / max(returns), abs=1e-6)
    assert figures["return_size"] == pytest.approx(np.sqrt(np.mean(np.square(returns))), rel=1e-6)


def test_overestimation_where_episodes_go_on() -> None:
    """Rewards of 1 for ever; a critic that says 15 instead of 1 / (1 - 0.9) = 10, judged by the 20 last steps."""
    policy, _ = judge(0.0)
    policy.action_values = lambda buffer, rows: torch.full((len(rows),), 15.0)  # type: ignore[method-assign]
    buffer = VectorReplayBuffer(40, 1)
    for _ in range(30):
        one = np.zeros((1, 1))
        buffer.add(Batch(obs=one, act=one, rew=np.ones(1), terminated=[False], truncated=[False], obs_next=one))
    figures = probes.value_figures(policy, buffer, np.arange(10, 30))
    assert figures["overestimation"] == pytest.approx(0.5, rel=1e-6)


def test_entropy_is_no_overestimation() -> None:
    policy, buffer = judge(3.0)
    rows = buffer.sample_indices(0)
    excess = probes.value_figures(policy, buffer, rows)["overestimation"]
    policy.alpha = 0.2  # type: ignore[assignment]
    less = probes.value_figures(policy, buffer, rows)["overestimation"]
    assert excess - less == pytest.approx(0.2 * np.log(2.0) / 0.1 / (1 - 0.9**5) * 0.1, rel=1e-6)
    policy.alpha = 5.0  # type: ignore[assignment]
    assert probes.value_figures(policy, buffer, rows)["overestimation"] == 0.0


def test_dormant_units_are_counted() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1))
    with torch.no_grad():
        net[0].weight[:3], net[0].bias[:3] = 0.0, -1.0
        net[2].weight[1], net[2].bias[1] = 0.0, 1e-4
    with probes.watching_activity({"net": net}) as seen:
        net(torch.randn(64, 3))
    assert probes.dormant_share(seen["net"]) == pytest.approx(4 / 12)
    assert not net[1]._forward_hooks
    image = probes._per_unit(torch.arange(24.0).reshape(2, 3, 2, 2))
    np.testing.assert_allclose(image, [7.5, 11.5, 15.5])


def test_actions_at_the_bounds_are_counted() -> None:
    policy = make("ddpg")  # Box(-2, 2), scaled
    act = np.array([[1.0, 0.0], [-0.995, 0.98], [0.5, -0.9]], np.float32)
    assert probes.saturation(policy, act) == pytest.approx(2 / 6)
    assert probes.saturation(make("dqn"), np.zeros(3)) is None


def test_replay_ratio_and_draws(parts: Parts, make_ddpg: Any) -> None:
    monitor = HealthMonitor(every_updates=50)
    given = parts(make_ddpg(), test=False, max_epoch=1, step_per_epoch=1_200, update_per_step=0.25, batch_size=8)
    OffpolicyTrainer(**given, callbacks=[monitor]).run()
    figures = monitor.figures
    assert figures["replay_ratio"] == pytest.approx(0.25, rel=0.02)
    assert figures["draws"] == pytest.approx(2.0, rel=0.02)
    assert figures["replay_kept"] == pytest.approx(1.0, rel=0.02)
    assert not any(warning.figure in ("replay_ratio", "draws", "replay_kept") for warning in monitor.warnings)


# -- faults -----------------------------------------------------------------------------------------------------------

WANTED = {
    "learning rate": "update_ratio",
    "saturated": "saturation",
    "never synced": "target_age",
    "rewards": "return_size",
    "frozen critic": "update_ratio",
    "stale optimiser": "update_ratio",
}
SAID = {
    "learning rate": "learning rate is too high",
    "saturated": "actor is saturated",
    "never synced": "target network",
    "rewards": "Scale rewards down",
    "frozen critic": "does not learn",
    "stale optimiser": "does not learn",
}


class StopWhenNamed(Callback):
    """Saves time."""

    def __init__(self, monitor: HealthMonitor, figure: str) -> None:
        self.monitor, self.figure = monitor, figure

    def on_step_end(self, trainer: Any) -> None:
        if any(warning.figure.startswith(self.figure) for warning in self.monitor.warnings):
            trainer.request_stop("named")


def make_run(
    algorithm: str, fault: str = "", steps: int = 5_000, seed: int = 0, compiled: bool = False
) -> tuple[OffpolicyTrainer, HealthMonitor]:
    """A usual run on Pendulum or CartPole, with one fault planted."""
    seed_everything(seed)
    task = "CartPole-v1" if algorithm == "dqn" else "Pendulum-v1"

    def env() -> Any:
        made = gym.make(task)
        return TransformReward(made, lambda reward: 1e6 * float(reward)) if fault == "rewards" else made

    obs, space = env().observation_space.shape, env().action_space
    lr, never = 1.0 if fault == "learning rate" else 1e-3, fault == "never synced"
    policy: Any
    if algorithm == "dqn":
        model = Net(obs, 2, hidden_sizes=[64, 64])
        policy = DQNPolicy(
            model=model, optim=Adam(model.parameters(), lr=0.0 if fault == "frozen critic" else lr),
            action_space=space, estimation_step=3, target_update_freq=10**9 if never else 200,
            exploration_noise=EpsilonGreedy(LinearSchedule(1.0, 0.05, steps=2_000)),
        )  # fmt: skip
    else:
        critic = Critic(Net(obs, space.shape, hidden_sizes=[64, 64], concat=True))
        body = Net(obs, hidden_sizes=[64, 64])
        actor: Any = (
            ActorProb(body, space.shape, unbounded=True, conditioned_sigma=True)
            if algorithm == "sac"
            else Actor(body, space.shape)
        )
        actor_lr = lr
        if fault == "saturated":
            list((actor.mu if algorithm == "sac" else actor.last).parameters())[-1].data.fill_(200.0)
            actor_lr = 0.0 if algorithm == "sac" else lr  # else the gradient of log π pulls it back in 200 updates
        options = {"alpha": "auto"} if algorithm == "sac" else {}
        policy = (SACPolicy if algorithm == "sac" else DDPGPolicy)(
            actor=actor, actor_optim=Adam(actor.parameters(), lr=actor_lr), critic=critic,
            critic_optim=Adam(critic.parameters(), lr=0.0 if fault == "frozen critic" else lr),
            action_space=space, tau=0.0 if never else 0.005, **options,
        )  # fmt: skip
        if fault == "stale optimiser":
            policy.critic = copy.deepcopy(policy.critic)
    if compiled:
        policy.compile()
    monitor = HealthMonitor()
    train = Collector(policy, DummyVectorEnv([env] * 4), VectorReplayBuffer(20_000, 4), exploration_noise=True)
    trainer = OffpolicyTrainer(
        policy=policy, train_collector=train, test_collector=None, max_epoch=None, total_steps=steps, batch_size=64,
        step_per_epoch=1_000, step_per_collect=4, learning_starts=500, seed=seed, verbose=False, show_progress=False,
        callbacks=[monitor, StopWhenNamed(monitor, WANTED.get(fault, "-"))],
    )  # fmt: skip
    return trainer, monitor


def assert_named(algorithm: str, fault: str, **options: Any) -> None:
    trainer, monitor = make_run(algorithm, fault, **options)
    trainer.run()
    named = [warning for warning in monitor.warnings if warning.figure.startswith(WANTED[fault])]
    assert named, f"{fault} was not named, only {monitor.warnings}"
    assert named[0].env_step <= 5_000
    assert SAID[fault] in named[0].text


@pytest.mark.parametrize("fault", ["learning rate", "rewards", "frozen critic"])
def test_planted_faults_are_named(fault: str) -> None:
    assert_named("ddpg", fault)


@pytest.mark.slow
@pytest.mark.parametrize("fault", WANTED)
@pytest.mark.parametrize(
    ("algorithm", "compiled"), [("ddpg", False), ("ddpg", True), ("sac", False), ("sac", True), ("dqn", False)]
)
def test_planted_faults_are_named_whatever_the_algorithm(algorithm: str, compiled: bool, fault: str) -> None:
    if (algorithm == "dqn" and fault in ("saturated", "stale optimiser")) or (compiled and fault == "stale optimiser"):
        pytest.skip("has no such fault: no bounded actions, or compile() refuses the policy")
    assert_named(algorithm, fault, compiled=compiled)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("algorithm", ["ddpg", "sac", "dqn"])
def test_healthy_runs_raise_nothing(algorithm: str, seed: int) -> None:
    trainer, monitor = make_run(algorithm, steps=8_000, seed=seed)
    trainer.run()
    assert len(monitor.figures) > 8
    assert monitor.warnings == []


# -- the callback -----------------------------------------------------------------------------------------------------


class Written(LazyLogger):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, int, dict[str, Any]]] = []

    def write(self, step_type: str, step: int, data: dict[str, Any]) -> None:
        self.rows.append((step_type, step, data))


def test_a_warning_comes_once_and_figures_are_logged(parts: Parts, make_ddpg: Any, caplog: Any) -> None:
    logging.getLogger("rlpolicy.trainer.callbacks.health").addHandler(caplog.handler)
    logger, monitor = Written(), HealthMonitor(every_updates=8, rows=8, ranges={"saturation": (0.9, 1.0)})
    given = parts(make_ddpg(), test=False, max_epoch=2, step_per_epoch=80, logger=logger)
    OffpolicyTrainer(**given, callbacks=[monitor]).run()
    assert [warning.figure for warning in monitor.warnings].count("saturation") == 1
    logging.getLogger("rlpolicy.trainer.callbacks.health").removeHandler(caplog.handler)
    assert len({text for text in caplog.messages if "saturation" in text}) == 1
    rows = [(step, data) for kind, step, data in logger.rows if kind == "health/gradient_step"]
    assert [step for step, _ in rows] == [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80]
    assert rows[-1][1]["health/saturation"] == monitor.figures["saturation"]


@pytest.mark.parametrize("nan_policy", ["raise", "skip", "stop"])
def test_with_every_nan_policy(parts: Parts, make_ddpg: Any, nan_policy: Any) -> None:
    monitor = HealthMonitor(every_updates=4, rows=8)
    given = parts(make_ddpg(), test=False, max_epoch=1, nan_policy=nan_policy)
    OffpolicyTrainer(**given, callbacks=[monitor]).run()
    assert monitor.figures["update_ratio/critic"] > 0.0


def test_goes_on_from_a_checkpoint(parts: Parts, make_ddpg: Any, tmp_path: Path) -> None:
    ranges = {"saturation": (0.9, 1.0)}
    first = HealthMonitor(every_updates=8, rows=8, ranges=ranges)
    trainer = OffpolicyTrainer(**parts(make_ddpg(), test=False, max_epoch=2, step_per_epoch=80), callbacks=[first])
    next(trainer)
    trainer.save(tmp_path / "run")
    second = HealthMonitor(every_updates=8, rows=8, ranges=ranges)
    resumed = OffpolicyTrainer(**parts(make_ddpg(), test=False, max_epoch=2, step_per_epoch=80), callbacks=[second])
    resumed.load(tmp_path / "run")
    assert second.warnings == first.warnings
    assert second.figures == first.figures
    resumed.run()
    assert [warning.figure for warning in second.warnings].count("saturation") == 1
    assert second.figures != first.figures


def test_a_policy_that_is_not_known_gives_what_can_be_told(parts: Parts, make_constant: Any) -> None:
    monitor = HealthMonitor(every_updates=2, rows=4)
    OffpolicyTrainer(**parts(make_constant(), test=False, max_epoch=1), callbacks=[monitor]).run()
    assert monitor.figures["return_size"] > 0.0
    assert "q" not in monitor.figures


def test_a_policy_that_cannot_be_asked_does_not_end_the_run(parts: Parts, make_ddpg: Any) -> None:
    policy, monitor = make_ddpg(), HealthMonitor(every_updates=2, rows=4)
    policy.action_values = lambda buffer, rows: 1 / 0
    OffpolicyTrainer(**parts(policy, test=False, max_epoch=1), callbacks=[monitor]).run()
    assert monitor.figures["update_ratio/critic"] > 0.0
    assert "q" not in monitor.figures


@pytest.mark.parametrize(
    "options", [{"every_updates": 0}, {"rows": 0}, {"ranges": {"nonsense": (0, 1)}}, {"ranges": {"q": (0.0, 1.0)}},
                {"ranges": {"dormant": (1.0, 0.0)}}]
)  # fmt: skip
def test_bad_arguments(options: Any) -> None:
    with pytest.raises(ValueError, match=r"every_updates|ranges"):
        HealthMonitor(**options)
