"""rlpolicy on the workloads of the comparison with other libraries; prints one JSON line.

python test/throughput/bench_runner.py --workload W3 --threads 1 --seed 0

The workloads, the meter and the driver that runs the other libraries beside it are not part of this repository;
``--bench`` says where they lie (a folder with ``common.py``).
"""

import argparse
import sys
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parents[3] / "shared" / "bench"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options beside those of every runner."""
    parser.add_argument("--bench", default=str(BENCH), help="folder with common.py")
    parser.add_argument("--compile", action="store_true", help="call policy.compile()")


def bench_folder(argv: list[str]) -> str:
    """``--bench``, read before its module can be imported."""
    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser)
    return str(parser.parse_known_args(argv)[0].bench)


def main() -> None:
    """Run one workload as a user's script would be written."""
    sys.path.insert(0, bench_folder(sys.argv[1:]))
    import common  # type: ignore[import-not-found]

    args, work = common.parse(add_options)
    torch = common.set_torch(args)
    import numpy as np

    import rlpolicy
    from rlpolicy.data import Collector, VectorReplayBuffer
    from rlpolicy.env import DummyVectorEnv
    from rlpolicy.trainer import OffpolicyTrainer

    rlpolicy.seed_everything(args.seed)
    done = {"updates": 0}
    meter = common.Meter(args, work, "rlpolicy", rlpolicy.__version__, grads=lambda: done["updates"])
    envs = DummyVectorEnv([lambda i=i: meter.make_env(i) for i in range(work.n_envs)])
    envs.seed(args.seed)
    policy = build_policy(work, envs.observation_space[0].shape, envs.action_space[0], torch, np)
    update = policy.update

    def counted(*args: Any, **kwargs: Any) -> Any:
        done["updates"] += 1
        return update(*args, **kwargs)

    policy.update = counted
    if args.compile:
        policy.compile()
    buffer = VectorReplayBuffer(work.buffer, work.n_envs, obs_dtype="float32", seed=args.seed)
    collector = Collector(policy, envs, buffer, exploration_noise=True)
    meter.begin()
    collector.collect(n_step=work.start, random=True)
    OffpolicyTrainer(
        policy=policy,
        train_collector=collector,
        max_epoch=1,
        step_per_epoch=work.env_steps - work.start,
        step_per_collect=work.n_envs,
        batch_size=work.batch,
        update_per_step=1.0,
        show_progress=False,
        verbose=False,
    ).run()
    meter.end(done["updates"])


def build_policy(work: Any, obs: Any, space: Any, torch: Any, np: Any) -> Any:
    """The workload's algorithm with its networks."""
    from rlpolicy.exploration import GaussianNoise
    from rlpolicy.policy import DDPGPolicy, DQNPolicy, SACPolicy
    from rlpolicy.utils.net.common import Net
    from rlpolicy.utils.net.continuous import Actor, ActorProb, Critic

    def optim(*modules: Any) -> Any:
        return torch.optim.Adam([p for m in modules for p in m.parameters()], lr=work.lr)

    def critic() -> Any:
        return Critic(Net(obs, space.shape, hidden_sizes=work.hidden, concat=True))

    if work.algo == "dqn":
        net = Net(obs, space.n, hidden_sizes=work.hidden)
        policy = DQNPolicy(
            model=net, optim=optim(net), action_space=space, discount_factor=work.gamma,
            target_update_freq=work.target_every, is_double=False,
        )  # fmt: skip
        policy.set_eps(work.noise)
        return policy
    if work.algo == "ddpg":
        actor, q = Actor(Net(obs, hidden_sizes=work.hidden), space.shape), critic()
        return DDPGPolicy(
            actor=actor, actor_optim=optim(actor), critic=q, critic_optim=optim(q), action_space=space, tau=work.tau,
            gamma=work.gamma, exploration_noise=GaussianNoise(sigma=work.noise),
        )  # fmt: skip
    actor = ActorProb(Net(obs, hidden_sizes=work.hidden), space.shape, unbounded=True, conditioned_sigma=True)
    q1, q2 = critic(), critic()
    log_alpha = torch.zeros(1, requires_grad=True)
    alpha = (-float(np.prod(space.shape)), log_alpha, torch.optim.Adam([log_alpha], lr=work.lr))
    return SACPolicy(
        actor=actor, actor_optim=optim(actor), critic=q1, critic_optim=optim(q1), critic2=q2, critic2_optim=optim(q2),
        action_space=space, tau=work.tau, gamma=work.gamma, alpha=alpha,
    )  # fmt: skip


if __name__ == "__main__":
    main()
