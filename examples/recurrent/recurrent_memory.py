"""The first observation tells which action is rewarded eight steps later: with a memory, and without.

python examples/recurrent/recurrent_memory.py --algo dqn                 # learns to remember the cue
python examples/recurrent/recurrent_memory.py --algo dqn --net blind     # no memory: can only guess
python examples/recurrent/recurrent_memory.py --algo dqn --net full      # no memory, but sees the cue all the time
"""

from dataclasses import dataclass
from typing import Any

from cue import Cue
from networks import ALGORITHMS, make_policy
from torch.utils.tensorboard import SummaryWriter

from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv
from rlpolicy.exploration import EpsilonGreedy
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils import LinearSchedule, TensorboardLogger
from rlpolicy.utils.cli import parse_args


@dataclass
class Args:
    """Remember a cue."""

    algo: str = "dqn"
    """dqn, ddpg, td3 or sac"""
    net: str = "recurrent"
    """recurrent; or without a memory: blind, or full, which sees the cue all the time"""
    delay: int = 8
    """steps from the cue to the rewarded action"""
    seed: int = 0
    """of everything random"""
    steps: int = 10_000
    """environment steps, at most; training stops at a test of 0.95"""
    steps_per_test: int = 1_000
    """environment steps between two tests of 100 episodes"""
    logdir: str = "runs/recurrent_memory"
    """TensorBoard folder, for curves.py"""


def main(args: Args) -> Any:
    if args.algo not in ALGORITHMS or args.net not in ("recurrent", "blind", "full"):
        raise SystemExit(f"no such --algo or --net: {args.algo}, {args.net}")
    seed_everything(args.seed)  # for the networks' first weights; the trainer's seed is for all that follows
    env_fns = [lambda: Cue(args.delay, args.algo == "dqn", args.net == "full")]
    recurrent = args.net == "recurrent"
    options: dict[str, Any] = {"tau": 0.02}
    if recurrent:
        options["sequence_length"] = args.delay + 1  # whole episodes
    if args.algo == "dqn":
        options["exploration_noise"] = EpsilonGreedy(LinearSchedule(1.0, 0.05, steps=2_000))
    elif args.algo == "sac":
        options["alpha"] = 0.02
    elif args.algo == "td3":
        options["actor_lr"] = 3e-4  # at 3e-3 it may reach the limits of tanh before the critics know the cue, and stay
    policy = make_policy(args.algo, env_fns[0](), recurrent, 32, 3e-3, **options)
    train = Collector(policy, DummyVectorEnv(env_fns * 4), VectorReplayBuffer(10_000, 4), exploration_noise=True)
    return offpolicy_trainer(
        policy,
        train,
        Collector(policy, DummyVectorEnv(env_fns * 20)),
        max_epoch=args.steps // args.steps_per_test,
        step_per_epoch=args.steps_per_test,
        step_per_collect=4,
        episode_per_test=100,
        batch_size=32 if recurrent else 32 * (args.delay + 1),  # sequences, or steps
        update_per_step=0.25,
        learning_starts=min(500, args.steps // 2),
        test_in_train=False,
        seed=args.seed,
        stop_fn=lambda mean_reward: mean_reward >= 0.95,
        logger=TensorboardLogger(SummaryWriter(f"{args.logdir}/{args.algo}_{args.net}_{args.seed}")),
    )


if __name__ == "__main__":
    print(main(parse_args(Args)))
