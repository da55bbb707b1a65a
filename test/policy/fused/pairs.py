"""Policies that can be compiled, with small networks and random transitions, for comparing two runs of one of them."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import StepLR

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.vecbuf import PrioritizedVectorReplayBuffer, VectorReplayBuffer
from rlpolicy.exploration.random import GaussianNoise
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy
from rlpolicy.policy.modelfree.dqn import DQNPolicy
from rlpolicy.policy.modelfree.sac import SACPolicy
from rlpolicy.policy.modelfree.td3 import TD3Policy
from rlpolicy.policy.temperature import auto_alpha
from rlpolicy.utils.lr_scheduler import MultipleLRSchedulers
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, ActorProb, Critic

OBS, N, A = 5, 3, 2
ALGORITHMS = ("dqn", "ddpg", "td3", "sac")
DISCRETE = spaces.Discrete(N)
BOX = spaces.Box(-2.0, 2.0, (A,), np.float32)
ACTIVATIONS = [nn.ReLU, nn.Tanh]


def _net(outputs: Any = 0, obs: Any = OBS, **options: Any) -> Net:
    return Net(obs, outputs, hidden_sizes=[12, 8], activation=ACTIVATIONS, **options)


def _critic(obs: Any) -> Critic:
    return Critic(_net(A, obs, concat=True), hidden_sizes=[6])


def policy(
    algorithm: str,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    obs: Any = OBS,
    max_action: float = 1.0,
    optim: Any = Adam,
    scheduled: bool = False,
    **options: Any,
) -> Any:
    """A policy with reproducible weights.

    :param optim: class of the optimisers.
    :param scheduled: let learning rates fall during the updates.
    """
    torch.manual_seed(seed)
    optims: list[Any] = []

    def learner(name: str, net: nn.Module) -> dict[str, Any]:
        optims.append(optim(net.parameters(), lr=3e-3))
        return {name: net, ("" if name == "model" else f"{name}_") + "optim": optims[-1]}

    if algorithm == "dqn":
        made: Any = DQNPolicy(**learner("model", _net(N, obs)), action_space=DISCRETE, **options)
    else:
        options = {"action_space": BOX, **learner("critic", _critic(obs)), **options}
        if max_action != 1.0:
            options |= {"action_scaling": False, "action_bound_method": None}
        if algorithm == "sac":
            actor: Any = ActorProb(_net(obs=obs), A, unbounded=True, conditioned_sigma=True)
            if options.get("alpha") == "auto":
                options["alpha"] = auto_alpha(BOX, lr=3e-3)
                optims.append(options["alpha"][2])
            made = SACPolicy(**learner("actor", actor), **options)
        else:
            actor = Actor(_net(obs=obs), A, hidden_sizes=[7], max_action=max_action)
            options.setdefault("exploration_noise", GaussianNoise(sigma=0.1))
            made = {"ddpg": DDPGPolicy, "td3": TD3Policy}[algorithm](**learner("actor", actor), **options)
            if algorithm == "td3":
                optims.append(made.critic2_optim)
    if scheduled:
        made.lr_scheduler = MultipleLRSchedulers(*[StepLR(o, 10, 0.8) for o in optims])
    made.seed(seed)
    return made.to(dtype)


def buffer(algorithm: str, *, prioritized: bool = False, obs: Any = OBS, n: int = 40, **options: Any) -> Any:
    """Random transitions of two environments."""
    rng = np.random.default_rng(7)
    shape = (OBS,) if obs == OBS else obs
    options = {"seed": 3, **options}
    made: Any = VectorReplayBuffer(2 * n, 2, **options)
    if prioritized:
        made = PrioritizedVectorReplayBuffer(2 * n, 2, alpha=0.6, beta=0.4, **options)
    for _ in range(n):
        terminated = rng.random(2) < 0.15
        act: Any = rng.integers(N, size=2) if algorithm == "dqn" else rng.uniform(-1, 1, (2, A)).astype(np.float32)
        made.add(
            Batch(
                obs=rng.standard_normal((2, *shape), np.float32),
                act=act,
                rew=rng.standard_normal(2),
                terminated=terminated,
                truncated=(rng.random(2) < 0.1) & ~terminated,
                obs_next=rng.standard_normal((2, *shape), np.float32),
            )
        )
    return made


def optimisers(made: Any) -> dict[str, Any]:
    """All of a policy, by name."""
    found = {name: value for name, value in made.__dict__.items() if isinstance(value, torch.optim.Optimizer)}
    if getattr(made, "is_auto_alpha", False):
        found["alpha_optim"] = made.temperature.optim
    return found


def snapshot(made: Any) -> dict[str, Tensor]:
    """Everything that updates change: weights, and states of optimisers where they have made a step."""
    numbers = {name: value.clone() for name, value in made.state_dict().items()}
    for name, optim in optimisers(made).items():
        for i, state in optim.state_dict()["state"].items():
            if state["step"]:
                numbers |= {f"{name} {i} {key}": value.clone() for key, value in state.items()}
    return numbers


def run(made: Any, memory: Any, updates: int, batch_size: int = 16, seed: int = 0) -> dict[str, Any]:
    """Update, and return everything that came of it: numbers by name."""
    torch.manual_seed(seed)
    losses = [made.update(batch_size, memory).get_loss_stats_dict() for _ in range(updates)]
    numbers: dict[str, Any] = snapshot(made)
    numbers |= {f"stats: {name}": np.array([loss[name] for loss in losses[2:]]) for name in losses[-1]}
    if hasattr(memory, "weight"):
        numbers["priorities"] = memory.weight[np.arange(memory.maxsize)]
    numbers["random numbers"] = torch.rand(3)
    return numbers


def differences(ours: dict[str, Any], right: dict[str, Any]) -> dict[str, float]:
    """Of each array the largest difference, relative to its largest number."""
    assert ours.keys() == right.keys()
    return {name: _difference(np.asarray(ours[name]), np.asarray(right[name])) for name in right}


def _difference(ours: np.ndarray, right: np.ndarray) -> float:
    assert ours.dtype == right.dtype
    assert ours.shape == right.shape
    scale = float(np.abs(right).max())
    assert np.isfinite(scale)
    return float(np.abs(ours - right).max()) / scale if scale else float(np.abs(ours).max())


def assert_equal(ours: dict[str, Any], right: dict[str, Any], tolerance: float) -> None:
    """All differences are within the tolerance; a number that is none is not."""
    wrong = {name: value for name, value in differences(ours, right).items() if not value <= tolerance}
    assert not wrong, wrong


__all__ = ["ALGORITHMS", "AdamW", "assert_equal", "buffer", "differences", "optimisers", "policy", "run", "snapshot"]
