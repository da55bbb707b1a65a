"""The same algorithm with a memory and without."""

from typing import Any

import gymnasium as gym
from torch.optim import Adam

from rlpolicy import policy as policies
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, ActorProb, Critic
from rlpolicy.utils.net.recurrent import Memory, MemoryNet

ALGORITHMS = ("dqn", "ddpg", "td3", "sac")


def make_policy(
    algo: str,
    env: gym.Env[Any, Any],
    recurrent: bool,
    units: int,
    lr: float,
    actor_lr: float | None = None,
    **options: Any,
) -> Any:
    """``RecurrentSACPolicy`` or ``SACPolicy``, and so on, with small networks.

    :param actor_lr: None: the same.
    :param options: of the policy's constructor.
    """
    obs, n = env.observation_space.shape, env.action_space.shape or 2

    def net(head: Any) -> Any:
        if not recurrent:
            return head(obs, [units, units])
        return MemoryNet(Memory(Net(obs, hidden_sizes=[units]), "gru", units), head(units, [units]))

    def q_values(size: Any, hidden: list[int]) -> Net:
        return Net(size, n, hidden_sizes=hidden)

    def action(size: Any, hidden: list[int]) -> Actor:
        return Actor(Net(size, hidden_sizes=hidden), n)

    def gaussian(size: Any, hidden: list[int]) -> ActorProb:
        return ActorProb(Net(size, hidden_sizes=hidden), n, unbounded=True, conditioned_sigma=True)

    def q_value(size: Any, hidden: list[int]) -> Critic:
        return Critic(Net(size, n, hidden_sizes=hidden, concat=True))

    kind = getattr(policies, ("Recurrent" if recurrent else "") + algo.upper() + "Policy")
    options["action_space"] = env.action_space
    if algo == "dqn":
        model = net(q_values)
        return kind(model=model, optim=Adam(model.parameters(), lr=lr), **options)
    actor, critic = net(gaussian if algo == "sac" else action), net(q_value)
    return kind(
        actor=actor,
        actor_optim=Adam(actor.parameters(), lr=actor_lr or lr),
        critic=critic,
        critic_optim=Adam(critic.parameters(), lr=lr),
        **options,
    )
