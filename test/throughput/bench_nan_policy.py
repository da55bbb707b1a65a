"""What ``nan_policy`` costs per update: python test/throughput/bench_nan_policy.py

CPU time of one thread, so that other work on the machine counts little. "raise" and "stop" are so cheap that the guard
is timed alone, around an update that does nothing; "skip" by the difference of whole updates, taken in turns.
"""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch.optim import Adam

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy
from rlpolicy.policy.modelfree.dqn import DQNPolicy
from rlpolicy.policy.modelfree.sac import SACPolicy
from rlpolicy.trainer.finite import FiniteGuard
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, ActorProb, Critic

OBS, HIDDEN = 4, {"dqn": 128, "ddpg": 256, "sac": 256}
BATCH = {"dqn": 64, "ddpg": 256, "sac": 256}


def adam(module: torch.nn.Module) -> Adam:
    return Adam(module.parameters(), lr=1e-3)


def make(algorithm: str) -> Any:
    """The policy of workload W1 (DQN), W2 (DDPG) or W3 (SAC) of the comparison with other libraries."""
    hidden = [HIDDEN[algorithm]] * 2
    if algorithm == "dqn":
        net = Net(OBS, 2, hidden_sizes=hidden)
        return DQNPolicy(model=net, optim=adam(net), action_space=spaces.Discrete(2), target_update_freq=250)
    box = spaces.Box(-1.0, 1.0, (1,))
    critic = Critic(Net(OBS, 1, hidden_sizes=hidden, concat=True))
    actor: Any = Actor(Net(OBS, hidden_sizes=hidden), 1)
    if algorithm == "sac":
        actor = ActorProb(Net(OBS, hidden_sizes=hidden), 1, unbounded=True, conditioned_sigma=True)
    given = {"actor": actor, "actor_optim": adam(actor), "critic": critic, "critic_optim": adam(critic)}
    return (
        SACPolicy(**given, action_space=box, alpha="auto")
        if algorithm == "sac"
        else DDPGPolicy(**given, action_space=box)
    )


def filled(algorithm: str) -> VectorReplayBuffer:
    buffer, rng = VectorReplayBuffer(4_000, 4, seed=0), np.random.default_rng(0)
    for _ in range(1_000):
        act = rng.integers(2, size=4) if algorithm == "dqn" else rng.uniform(-1, 1, (4, 1)).astype(np.float32)
        obs, obs_next = rng.standard_normal((2, 4, OBS), np.float32)
        never = np.zeros(4, bool)
        buffer.add(Batch(obs=obs, act=act, rew=rng.random(4), terminated=never, truncated=never, obs_next=obs_next))
    return buffer


def seconds(call: Callable[[], Any], count: int) -> float:
    begin = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - begin) / count


def measure(algorithm: str, compiled: bool) -> str:
    policy, buffer, size = make(algorithm), filled(algorithm), BATCH[algorithm]
    if compiled:
        policy.compile()
    run = SimpleNamespace(policy=policy, epoch=1, env_step=0, gradient_step=0, skipped_updates=0)
    calls = {"plain": lambda: policy.update(size, buffer)}
    if not compiled:
        skip = FiniteGuard(run, "skip")  # type: ignore[arg-type]
        calls["skip"] = lambda: skip.update(size, buffer)
    best = dict.fromkeys(calls, float("inf"))
    for call in calls.values():
        seconds(call, 50)
    for _ in range(15):
        for name, call in calls.items():
            best[name] = min(best[name], seconds(call, 30))
    stats = policy.update(size, buffer)
    still = SimpleNamespace(policy=SimpleNamespace(update=lambda *args: stats), gradient_step=0)
    guard = FiniteGuard(still, "raise")  # type: ignore[arg-type]
    alone = min(seconds(lambda: guard.update(size, buffer), 3_000) for _ in range(7))
    nothing = min(seconds(lambda: still.policy.update(size, buffer), 3_000) for _ in range(7))
    cost = alone - nothing
    text = f"{algorithm}{' compiled' if compiled else '':10} update {best['plain'] * 1e6:7.0f} us   "
    text += f"raise, stop: {cost * 1e6:4.1f} us = {cost / best['plain']:.2%}"
    return text + ("" if compiled else f"   skip: {best['skip'] / best['plain'] - 1:+.0%}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for algorithm in HIDDEN:
        for compiled in (False, True):
            print(measure(algorithm, compiled), flush=True)
