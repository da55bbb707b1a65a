"""Actor-critic algorithms on Pendulum-v1; a minute or two each on a laptop.

python examples/actor_critic_pendulum.py --algo sac --seed 1
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
from torch import nn
from torch.optim import Adam
from torch.utils.tensorboard import SummaryWriter

from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv
from rlpolicy.policy import CrossQPolicy, DroQPolicy, REDQPolicy, SACPolicy, TD3Policy, TQCPolicy
from rlpolicy.policy.temperature import auto_alpha
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils import TensorboardLogger
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net.common import EnsembleLinear, Net
from rlpolicy.utils.net.continuous import Actor, ActorProb, BatchRenorm, Critic


@dataclass
class Args:
    """An actor-critic algorithm on Pendulum-v1."""

    algo: str = "sac"
    """td3, sac, redq, tqc, crossq or droq"""
    seed: int = 0
    """of everything random"""
    steps: int = 20_000
    """environment steps after 400 random ones, at most; training stops at a test of -180"""
    steps_per_test: int = 1_000
    """environment steps between two tests of ten episodes"""
    mixed_precision: str = ""
    """bf16 or fp16: compute the networks in it while learning; empty: float32"""
    logdir: str = "runs/actor_critic_pendulum"
    """TensorBoard folder"""


def make_policy(algo: str, env: gym.Env[Any, Any], mixed_precision: str = "") -> Any:
    options: dict[str, Any] = {"action_space": env.action_space, "mixed_precision": mixed_precision or None}
    obs, act = env.observation_space.shape, env.action_space.shape

    def learner(name: str, net: nn.Module) -> dict[str, Any]:
        return {name: net, f"{name}_optim": Adam(net.parameters(), lr=1e-3)}

    def critic(norm_layer: Any = None, num_quantiles: int = 1, **linear: Any) -> dict[str, Any]:
        net = Net(obs, act, hidden_sizes=[64, 64], concat=True, norm_layer=norm_layer, **linear)
        return learner("critic", Critic(net, flatten_input=not linear, num_quantiles=num_quantiles, **linear))

    features = Net(obs, hidden_sizes=[64, 64])
    if algo == "td3":
        return TD3Policy(**learner("actor", Actor(features, act)), **critic(), **options)
    soft = learner("actor", ActorProb(features, act, unbounded=True, conditioned_sigma=True))
    soft |= {"alpha": auto_alpha(env.action_space, lr=1e-3), **options}
    match algo:
        case "sac":
            return SACPolicy(**soft, **critic())
        case "redq":
            return REDQPolicy(**soft, **critic(linear_layer=partial(EnsembleLinear, 5)), ensemble_size=5, actor_delay=5)
        case "tqc":
            return TQCPolicy(**soft, **critic(num_quantiles=25, linear_layer=partial(EnsembleLinear, 3)))
        case "crossq":
            norm = critic(linear_layer=lambda n_in, n_out: nn.Sequential(BatchRenorm(n_in), nn.Linear(n_in, n_out)))
            return CrossQPolicy(**soft, **norm)
        case "droq":
            dropped = critic(norm_layer=lambda units: nn.Sequential(nn.Dropout(0.01), nn.LayerNorm(units)))
            return DroQPolicy(**soft, **dropped, actor_delay=5)
    raise SystemExit(f"--algo must be td3, sac, redq, tqc, crossq or droq, got {algo}")


def main(args: Args) -> Any:
    seed_everything(args.seed)  # for the networks' first weights; the trainer's seed is for all that follows
    train_envs, test_envs = (DummyVectorEnv([lambda: gym.make("Pendulum-v1")] * k) for k in (1, 10))
    policy = make_policy(args.algo, gym.make("Pendulum-v1"), args.mixed_precision)
    train_envs.seed(args.seed)
    train = Collector(policy, train_envs, VectorReplayBuffer(args.steps, 1), exploration_noise=True)
    train.collect(n_step=400, random=True)
    return offpolicy_trainer(
        policy,
        train,
        Collector(policy, test_envs),
        max_epoch=args.steps // args.steps_per_test,
        step_per_epoch=args.steps_per_test,
        step_per_collect=1,
        episode_per_test=10,
        batch_size=128,
        update_per_step=5 if args.algo in ("redq", "droq") else 1,
        test_in_train=False,
        seed=args.seed,
        stop_fn=lambda mean_reward: mean_reward >= -180,
        logger=TensorboardLogger(SummaryWriter(f"{args.logdir}/{args.algo}")),
    )


if __name__ == "__main__":
    print(main(parse_args(Args)))
