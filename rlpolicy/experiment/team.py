"""Teams of agents: their policy, and what their returns are worth together."""

from typing import TYPE_CHECKING, Any

from gymnasium import spaces

from rlpolicy.policy.base import BasePolicy
from rlpolicy.policy.multiagent.build import actions_of_agents
from rlpolicy.policy.multiagent.mixed_q import MixedQPolicy
from rlpolicy.trainer.utils import RewardMetric
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.scaler import RunningStandardScaler

if TYPE_CHECKING:
    from rlpolicy.experiment.value_based import DQNConfig


def team_policy(config: "DQNConfig", obs_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> Any:
    """QMIX, VDN or independent learners, by ``mixing_strategy``; the agents know their numbers if they share a network.

    :param obs_space: (N, O), or a dict with such an entry ``obs``, see ``docs/multi_agent.md``.
    :raises ValueError: the environment is not one of a team.
    """
    sizes = actions_of_agents(action_space)
    seen = obs_space["obs"] if isinstance(obs_space, spaces.Dict) and "obs" in obs_space.spaces else obs_space
    if not isinstance(seen, spaces.Box) or seen.shape[:-1] != sizes.shape:
        raise InvalidArgument(f"a team of {len(sizes)} needs observations of shape ({len(sizes)}, O), got {obs_space}")
    shared = config.share_parameters
    width = seen.shape[1] + len(sizes) * shared
    nets = [config.net(width, int(sizes.max())) for _ in range(1 if shared else len(sizes))]
    scaler = RunningStandardScaler(seen).to(config.device) if config.normalize_obs else None
    return config.value_policy(
        MixedQPolicy,
        nets[0] if shared else nets,
        mixer=config.mixing_strategy,
        share_parameters=shared,
        append_agent_id=shared,
        aggregate_rewards=None if config.aggregate_rewards == "none" else config.aggregate_rewards,
        clip_loss_grad=config.clip_loss_grad,
        **config.policy_options(seen, action_space) | {"observation_space": obs_space, "obs_preprocessor": scaler},
    )


def reward_metric(policy: BasePolicy[Any]) -> RewardMetric | None:
    """What makes one return of those of the agents; None: there is one agent."""
    return policy.team_return if isinstance(policy, MixedQPolicy) else None
