"""Thousands of pendulums as tensors: environments, buffer and networks on one device. A few minutes on one CPU core.

python examples/device/pendulum.py --algo sac --device cuda
"""

import time
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Adam
from torch_envs import TorchPendulum
from torch_vector_env import TorchVectorEnv

from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.exploration import GaussianNoise
from rlpolicy.policy import DDPGPolicy, SACPolicy
from rlpolicy.policy.temperature import auto_alpha
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, ActorProb, Critic


@dataclass
class Args:
    """DDPG or SAC on thousands of pendulums, all on one device."""

    algo: str = "sac"
    """ddpg or sac"""
    device: str = "cpu"
    """where everything is, e.g. cuda"""
    seed: int = 0
    """of everything random"""
    envs: int = 4096
    """number of environments"""
    epochs: int = 20
    """tests of 100 episodes; training stops at one of -180"""
    steps_per_epoch: int = 20
    """steps of each environment per epoch"""
    updates_per_step: int = 16
    """gradient steps after each step of all environments"""
    batch_size: int = 512
    """transitions per gradient step"""
    test_envs: int = 100
    """environments, and episodes, of a test"""
    compile: bool = False
    """update without autograd; on a GPU as CUDA graphs"""


def make_policy(algo: str, env: TorchVectorEnv) -> Any:
    obs, act, device = env.single_observation_space.shape, env.single_action_space.shape, env.device

    def learner(name: str, net: nn.Module) -> dict[str, Any]:
        return {name: net, f"{name}_optim": Adam(net.parameters(), lr=1e-3)}

    features = Net(obs, hidden_sizes=[64, 64], device=device)
    critic = learner("critic", Critic(Net(obs, act, hidden_sizes=[64, 64], concat=True, device=device), device=device))
    if algo == "ddpg":
        actor: nn.Module = Actor(features, act, device=device)
        noise = GaussianNoise(sigma=0.3)
        return DDPGPolicy(
            **learner("actor", actor), **critic, action_space=env.single_action_space, exploration_noise=noise, tau=0.02
        )
    if algo != "sac":
        raise SystemExit(f"--algo must be ddpg or sac, got {algo}")
    actor = ActorProb(features, act, unbounded=True, conditioned_sigma=True, device=device)
    alpha = auto_alpha(env.single_action_space, lr=1e-3, device=device)
    return SACPolicy(**learner("actor", actor), **critic, alpha=alpha, action_space=env.single_action_space, tau=0.02)


def main(args: Args) -> Any:
    seed_everything(args.seed)
    env = TorchPendulum(args.envs, args.device)
    policy = make_policy(args.algo, env)
    if args.compile:
        policy.compile()
    buffer = VectorReplayBuffer(args.envs * args.epochs * args.steps_per_epoch, args.envs, device=args.device)
    train = Collector(policy, env, buffer, exploration_noise=True)
    test = Collector(policy, TorchPendulum(args.test_envs, args.device))
    start = time.perf_counter()
    info = offpolicy_trainer(
        policy, train, test, max_epoch=args.epochs, step_per_epoch=args.envs * args.steps_per_epoch,
        step_per_collect=args.envs, episode_per_test=args.test_envs, batch_size=args.batch_size,
        gradient_steps_per_collect=args.updates_per_step, random_steps=10 * args.envs, test_in_train=False,
        seed=args.seed, stop_fn=lambda mean_reward: mean_reward >= -180,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    print(
        f"{info.train_step / seconds:,.0f} environment steps and {info.gradient_step / seconds:,.0f} updates a second"
    )
    return info


if __name__ == "__main__":
    print(main(parse_args(Args)))
