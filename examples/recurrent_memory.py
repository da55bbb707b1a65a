"""A task that needs a memory: the first observation tells which action is rewarded eight steps later.

python examples/recurrent_memory.py --algo dqn --net recurrent
python examples/recurrent_memory.py --algo dqn --net blind     # no memory
python examples/recurrent_memory.py --algo dqn --net full      # no memory either, but sees the cue all the time
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from torch import nn
from torch.optim import Adam
from torch.utils.tensorboard import SummaryWriter

from rlpolicy import policy as policies
from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv
from rlpolicy.exploration import EpsilonGreedy
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils import LinearSchedule, TensorboardLogger
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, ActorProb, Critic
from rlpolicy.utils.net.recurrent import Memory, MemoryNet


@dataclass
class Args:
    """Remembering a cue, with and without a memory."""

    algo: str = "dqn"
    """dqn, ddpg, td3 or sac"""
    net: str = "recurrent"
    """recurrent; or without a memory: blind, or full, which sees the cue all the time"""
    core: str = "gru"
    """rnn, gru or lstm"""
    delay: int = 8
    """steps from the cue to the rewarded action"""
    seed: int = 0
    """of everything random"""
    epochs: int = 10
    """of 1,000 environment steps, at most; training stops at a test of 0.95"""
    logdir: str = "runs/recurrent_memory"
    """TensorBoard folder"""


class Cue(gym.Env[Any, Any]):
    """Observations: the cue, -1 or 1, at step 0 (else 0), and the share of the episode that is over. The action of
    step ``delay``, the last, earns cue times action, where the two discrete actions count as -1 and 1.
    """

    def __init__(self, delay: int, discrete: bool, always: bool) -> None:
        self.delay, self.always = delay, always
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
        self.action_space = gym.spaces.Discrete(2) if discrete else gym.spaces.Box(-1.0, 1.0, (1,))

    def _see(self) -> np.ndarray:
        return np.array([self.cue if self.t == 0 or self.always else 0, self.t / self.delay], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.cue = 0, int(self.np_random.choice([-1, 1]))
        return self._see(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        over = self.t == self.delay
        value = 2.0 * action - 1.0 if isinstance(self.action_space, gym.spaces.Discrete) else np.clip(action[0], -1, 1)
        self.t += 1
        return self._see(), self.cue * float(value) if over else 0.0, over, False, {}


def make_policy(args: Args, space: Any) -> Any:
    recurrent = args.net == "recurrent"

    def net(name: str, head: Any) -> dict[str, Any]:
        made = MemoryNet(Memory(Net(2, hidden_sizes=[32]), args.core, 32), head(32)) if recurrent else head(2)
        return {name: made, f"{name}_optim": Adam(made.parameters(), lr=3e-3)}
    options: dict[str, Any] = {"action_space": space}
    if recurrent:
        options["sequence_length"] = args.delay + 1
    if args.algo == "dqn":
        q = net("model", lambda n: Net(n, 2, hidden_sizes=[32]))
        explore = EpsilonGreedy(LinearSchedule(1.0, 0.05, steps=2_000))
        cls = policies.RecurrentDQNPolicy if recurrent else policies.DQNPolicy
        return cls(model=q["model"], optim=q["model_optim"], tau=0.02, exploration_noise=explore, **options)
    critic = net("critic", lambda n: Critic(Net(n, 1, hidden_sizes=[32], concat=True)))
    options |= critic | {"tau": 0.02}
    if args.algo == "sac":
        actor = net("actor", lambda n: ActorProb(Net(n, hidden_sizes=[32]), 1, unbounded=True, conditioned_sigma=True))
        options["alpha"] = 0.02
    else:
        actor = net("actor", lambda n: Actor(Net(n, hidden_sizes=[32]), 1))
    name = ("Recurrent" if recurrent else "") + args.algo.upper() + "Policy"
    return getattr(policies, name)(**actor, **options)


def main(args: Args) -> Any:
    seed_everything(args.seed)
    make = lambda: Cue(args.delay, args.algo == "dqn", args.net == "full")
    train_envs, test_envs = DummyVectorEnv([make] * 4), DummyVectorEnv([make] * 20)
    policy = make_policy(args, make().action_space)
    train = Collector(policy, train_envs, VectorReplayBuffer(10_000, 4), exploration_noise=True)
    return offpolicy_trainer(
        policy, train, Collector(policy, test_envs), max_epoch=args.epochs, step_per_epoch=1_000, step_per_collect=4,
        episode_per_test=100, batch_size=32 if args.net == "recurrent" else 256, update_per_step=0.25, learning_starts=500, test_in_train=False, seed=args.seed,
        stop_fn=lambda mean: mean >= 0.95, logger=TensorboardLogger(SummaryWriter(args.logdir)), show_progress=False
    )


if __name__ == "__main__":
    print(main(parse_args(Args)))
