"""Actor-critic algorithms on Pendulum-v1; a minute or two each on a laptop.

python examples/actor_critic_pendulum.py --algo sac --seed 1
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from torch import nn
from torch.optim import Adam
from torch.utils.tensorboard import SummaryWriter

from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.data.stats import InfoStats
from rlpolicy.env import DummyVectorEnv
from rlpolicy.policy import BasePolicy, CrossQPolicy, DroQPolicy, REDQPolicy, SACPolicy, TD3Policy, TQCPolicy
from rlpolicy.policy.temperature import auto_alpha
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils import TensorboardLogger
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net.common import EnsembleLinear, Net
from rlpolicy.utils.net.continuous import Actor, ActorProb, BatchRenorm, Critic

LR, HIDDEN = 1e-3, [64, 64]


@dataclass
class Args:
    """An actor-critic algorithm on Pendulum-v1."""

    algo: str = "sac"
    """td3, sac, redq, tqc, crossq or droq"""
    seed: int = 0
    """of everything random"""
    steps: int = 20_000
    """environment steps at most; training stops at --target"""
    steps_per_test: int = 1_000
    """environment steps between two tests"""
    target: float = -180.0
    """mean test return to stop at"""
    logdir: str = "runs"
    """TensorBoard folder"""


def with_optim(name: str, net: Any) -> dict[str, Any]:
    return {name: net, f"{name}_optim": Adam(net.parameters(), lr=LR)}


def soft_actor(env: gym.Env[Any, Any]) -> dict[str, Any]:
    obs, act = env.observation_space.shape, env.action_space.shape
    actor = ActorProb(Net(obs, hidden_sizes=HIDDEN), act, unbounded=True, conditioned_sigma=True)
    alpha = auto_alpha(env.action_space, lr=LR)
    return {**with_optim("actor", actor), "alpha": alpha, "action_space": env.action_space}


def critic(env: gym.Env[Any, Any], norm_layer: Any = None, num_quantiles: int = 1, **options: Any) -> dict[str, Any]:
    obs, act = env.observation_space.shape, env.action_space.shape
    net = Net(obs, act, hidden_sizes=HIDDEN, concat=True, norm_layer=norm_layer, **options)
    return with_optim("critic", Critic(net, flatten_input=not options, num_quantiles=num_quantiles, **options))


def td3(env: gym.Env[Any, Any]) -> BasePolicy[Any]:
    actor = Actor(Net(env.observation_space.shape, hidden_sizes=HIDDEN), env.action_space.shape)
    return TD3Policy(**with_optim("actor", actor), **critic(env), action_space=env.action_space)


def sac(env: gym.Env[Any, Any]) -> BasePolicy[Any]:
    return SACPolicy(**soft_actor(env), **critic(env))


def redq(env: gym.Env[Any, Any]) -> BasePolicy[Any]:
    ensemble = critic(env, linear_layer=lambda n_in, n_out: EnsembleLinear(5, n_in, n_out))
    return REDQPolicy(**soft_actor(env), **ensemble, ensemble_size=5, actor_delay=5)


def tqc(env: gym.Env[Any, Any]) -> BasePolicy[Any]:
    ensemble = critic(env, num_quantiles=25, linear_layer=lambda n_in, n_out: EnsembleLinear(3, n_in, n_out))
    return TQCPolicy(**soft_actor(env), **ensemble)


def crossq(env: gym.Env[Any, Any]) -> BasePolicy[Any]:
    normalised = critic(env, linear_layer=lambda n_in, n_out: nn.Sequential(BatchRenorm(n_in), nn.Linear(n_in, n_out)))
    return CrossQPolicy(**soft_actor(env), **normalised)


def droq(env: gym.Env[Any, Any]) -> BasePolicy[Any]:
    dropped = critic(env, norm_layer=lambda n: nn.Sequential(nn.Dropout(0.01), nn.LayerNorm(n)))
    return DroQPolicy(**soft_actor(env), **dropped, actor_delay=5)


ALGORITHMS: dict[str, tuple[Callable[[gym.Env[Any, Any]], BasePolicy[Any]], int]] = {
    # policy, gradient steps per environment step
    "td3": (td3, 1),
    "sac": (sac, 1),
    "redq": (redq, 5),
    "tqc": (tqc, 1),
    "crossq": (crossq, 1),
    "droq": (droq, 5),
}


def main(args: Args) -> InfoStats:
    seed_everything(args.seed)
    env = gym.make("Pendulum-v1")
    make_policy, updates_per_step = ALGORITHMS[args.algo]
    policy = make_policy(env)
    train_env = DummyVectorEnv([lambda: gym.make("Pendulum-v1")])
    test_envs = DummyVectorEnv([lambda: gym.make("Pendulum-v1") for _ in range(10)])
    train_env.seed(args.seed)
    train = Collector(policy, train_env, VectorReplayBuffer(args.steps, 1), exploration_noise=True)
    train.collect(n_step=400, random=True)
    info = offpolicy_trainer(
        policy,
        train,
        Collector(policy, test_envs),
        max_epoch=args.steps // args.steps_per_test,
        step_per_epoch=args.steps_per_test,
        step_per_collect=1,
        episode_per_test=10,
        batch_size=128,
        update_per_step=updates_per_step,
        test_in_train=False,
        seed=args.seed,
        stop_fn=lambda mean_reward: mean_reward >= args.target,
        logger=TensorboardLogger(SummaryWriter(f"{args.logdir}/{args.algo}_pendulum")),
    )
    print(info)
    return info


if __name__ == "__main__":
    main(parse_args(Args))
