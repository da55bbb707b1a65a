"""PettingZoo's environments as environments that vector environments and collectors take.

Nothing here imports PettingZoo: an environment brings it along. ``pip install 'rlpolicy[pettingzoo]'`` has the classic
games and the particle environments (package ``mpe2``).

Shapes: N agents, n actions, O observation of one agent, S state.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlpolicy.utils.errors import InvalidArgument

Obs = dict[str, Any]


class PettingZooEnv(gym.Env[Any, Any]):
    """An environment whose agents act one after the other (PettingZoo's ``AECEnv``), as one of gymnasium's form.

    Observations are those of the agent that acts next: a dict with ``agent_id`` (its name), ``obs``, and for Discrete
    actions ``mask``, a bool per action (all True where the environment has none). Rewards are a vector, one per agent,
    of the last step alone. ``info["agent_terminated"]``, (N,) bool, says whose life has ended by the task's rules so
    far. Agents that die before the others are passed over; the episode ends with the last one, and is terminated unless
    one of the agents was cut off. Train with
    :class:`~rlpolicy.policy.multiagent.mapolicy.MultiAgentPolicyManager`.

    :param env: such an environment, e.g. ``tictactoe_v3.env()``. All agents must have the same spaces (wrappers of
        SuperSuit pad them).
    :raises TypeError: it steps all agents at once.
    :raises ValueError: spaces of agents differ.
    """

    def __init__(self, env: Any) -> None:
        if not hasattr(env, "agent_iter"):
            raise TypeError(
                f"PettingZooEnv takes an AECEnv, got {type(env).__name__}: ParallelPettingZooEnv is for environments "
                "that step all agents at once"
            )
        self.env = env
        self.agents: list[Any] = list(env.possible_agents)
        """Names of all agents, in a fixed order."""
        self.agent_idx = {agent: i for i, agent in enumerate(self.agents)}
        """Index of each agent, by name."""
        self.rewards = [0.0] * len(self.agents)
        """Rewards of the last step, one per agent."""
        self.observation_space = self._common("observation_space")
        self.action_space = self._common("action_space")
        self.metadata = getattr(env, "metadata", {})
        self.render_mode = getattr(env, "render_mode", None)
        self.reset()

    def _common(self, name: str) -> spaces.Space[Any]:
        """The space that all agents have."""
        of_agents = {agent: getattr(self.env, name)(agent) for agent in self.agents}
        first: spaces.Space[Any] = of_agents[self.agents[0]]
        other = next((agent for agent, space in of_agents.items() if space != first), None)
        if other is not None:
            raise InvalidArgument(
                f"all agents need the same {name}: {self.agents[0]} has {first}, {other} has {of_agents[other]}; "
                "pad them (supersuit.pad_observations_v0, supersuit.pad_action_space_v0)"
            )
        return first

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        """Begin an episode: (obs, info). Arguments go to the environment."""
        self.env.reset(seed=seed, options=options, **kwargs)
        self.rewards = [0.0] * len(self.agents)
        self._terminated = np.zeros(len(self.agents), np.bool_)
        self._was_cut = False
        observation, _, _, _, info = self.env.last()
        return self._obs(observation), self._info(info)

    def step(self, action: Any) -> tuple[Obs, Any, bool, bool, dict[str, Any]]:
        """The action of the agent whose turn it is: (obs of the next one, rewards, terminated, truncated, info)."""
        self.env.step(action)
        self.rewards = [float(self.env.rewards.get(agent, 0.0)) for agent in self.agents]
        observation, _, _, _, info = self.env.last()
        self._note_ends()
        while self.env.agents and self._is_over(self.env.agent_selection):
            if all(self._is_over(agent) for agent in self.env.agents):
                return self._obs(observation), self.rewards, not self._was_cut, self._was_cut, self._info(info)
            self.env.step(None)  # PettingZoo's way to remove an agent
            observation, _, _, _, info = self.env.last()
            self._note_ends()
        return self._obs(observation), self.rewards, False, False, self._info(info)

    def _is_over(self, agent: Any) -> bool:
        return bool(self.env.terminations[agent] or self.env.truncations[agent])

    def _note_ends(self) -> None:
        for agent, over in self.env.terminations.items():
            self._terminated[self.agent_idx[agent]] |= bool(over)
        self._was_cut |= any(cut and not self.env.terminations[agent] for agent, cut in self.env.truncations.items())

    def _obs(self, observation: Any) -> Obs:
        agent = self.env.agent_selection
        obs: Obs = {"agent_id": agent, "obs": observation}
        if isinstance(observation, Mapping) and "action_mask" in observation:
            obs["obs"] = observation["observation"]
            obs["mask"] = (np.asarray(observation["action_mask"]) == 1).tolist()
        elif isinstance(self.action_space, spaces.Discrete):
            obs["mask"] = [True] * int(self.action_space.n)
        return obs

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        return {**info, "agent_terminated": self._terminated.copy()}

    def seed(self, seed: int | None = None) -> None:
        """Seed the environment, which thereby begins an episode."""
        self.reset(seed=seed)

    def render(self, *args: Any, **kwargs: Any) -> Any:
        """What the environment renders."""
        return self.env.render(*args, **kwargs)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


class ParallelPettingZooEnv(gym.Env[Any, Any]):
    """An environment whose agents act at once (PettingZoo's ``ParallelEnv``), with arrays that have an axis of agents.

    Observations are a dict: ``obs`` (N, O), the agents' own; ``mask`` (N, n), which actions they may take (Discrete
    actions alone); ``alive`` (N,), who takes part; ``state`` (S,), what only a learner may see, where the environment
    has ``state()``. Actions and rewards are (N,); actions of agents that do not take part are not looked at.
    ``info["agent_terminated"]``, (N,), says whose life has ended by the task's rules so far, and what the environment
    says of an agent stands under that agent's name.

    The episode ends with the last agent; it is terminated unless one of them was cut off. Observations of those that
    are gone are zeros. Where they differ in size they are filled up with zeros to (N, O) of the largest (they must be
    flat then), and agents with fewer actions have a mask. Train with
    :class:`~rlpolicy.policy.multiagent.mixed_q.MixedQPolicy`.

    :param env: such an environment, e.g. ``simple_spread_v3.parallel_env()``.
    :param with_state: give ``state``; None: if the environment has ``state()``. Without it the observations of all
        agents are the state that a mixer gets.
    :raises TypeError: agents act one after the other, or a kind of space that has no such arrays.
    """

    def __init__(self, env: Any, with_state: bool | None = None) -> None:
        if hasattr(env, "agent_iter"):
            raise TypeError(
                f"ParallelPettingZooEnv takes a ParallelEnv, got {type(env).__name__}: use the environment's "
                "parallel_env(), pettingzoo.utils.conversions.aec_to_parallel, or PettingZooEnv"
            )
        self.env = env
        self.agents: list[Any] = list(env.possible_agents)
        """Names of all agents, in the order of the axis N."""
        self.metadata = getattr(env, "metadata", {})
        self.render_mode = getattr(env, "render_mode", None)
        seen = [self._inner(env.observation_space(agent)) for agent in self.agents]
        acts = [env.action_space(agent) for agent in self.agents]
        self._boxes, self._obs_space = seen, _joint_box(seen)
        self.action_space = _joint_actions(acts)
        n = len(self.agents)
        entries: dict[str, spaces.Space[Any]] = {"obs": self._obs_space, "alive": spaces.MultiBinary(n)}
        self._limits: NDArray[np.bool_] | None = None
        if isinstance(self.action_space, spaces.MultiDiscrete):
            sizes = self.action_space.nvec
            self._limits = np.arange(sizes.max()) < sizes[:, None]
            entries["mask"] = spaces.MultiBinary(self._limits.shape)
        self._alive = np.zeros(n, np.bool_)
        self._begin(None, None)
        self.with_state = self._has_state() if with_state is None else with_state
        if self.with_state:
            state = np.asarray(env.state())
            entries["state"] = spaces.Box(-np.inf, np.inf, state.shape, np.float32)
        self.observation_space = spaces.Dict(entries)

    @staticmethod
    def _inner(space: spaces.Space[Any]) -> spaces.Space[Any]:
        """The space of what an agent sees, without the mask that may come with it."""
        has_mask = isinstance(space, spaces.Dict) and "action_mask" in space.spaces
        return space["observation"] if isinstance(space, spaces.Dict) and has_mask else space

    def _has_state(self) -> bool:
        try:
            self.env.state()
        except (NotImplementedError, AttributeError):
            return False
        return True

    def _begin(self, seed: int | None, options: dict[str, Any] | None) -> tuple[Any, Any]:
        observations, infos = self.env.reset(seed=seed, options=options)
        n = len(self.agents)
        self._terminated, self._was_cut = np.zeros(n, np.bool_), False
        self._alive = np.array([agent in observations for agent in self.agents], np.bool_)
        return observations, infos

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Begin an episode: (obs, info)."""
        observations, infos = self._begin(seed, options)
        return self._obs(observations, infos), self._info(infos)

    def step(self, action: Any) -> tuple[Obs, Any, bool, bool, dict[str, Any]]:
        """One step of all agents that take part.

        :param action: (N,), or (N, A) for Box actions.
        :return: (obs, rewards (N,), terminated, truncated, info).
        """
        own = {agent: self._own_action(i, action[i]) for i, agent in enumerate(self.agents) if self._alive[i]}
        observations, rewards, terminations, truncations, infos = self.env.step(own)
        for i, agent in enumerate(self.agents):
            self._terminated[i] |= bool(terminations.get(agent, False))
            self._was_cut |= bool(truncations.get(agent, False)) and not self._terminated[i]
        living = set(self.env.agents)
        self._alive = np.array([agent in living for agent in self.agents], np.bool_)
        is_over = not living
        rew = np.array([rewards.get(agent, 0.0) for agent in self.agents], np.float64)
        obs, info = self._obs(observations, infos), self._info(infos)
        return obs, rew, is_over and not self._was_cut, is_over and self._was_cut, info

    def _own_action(self, i: int, action: Any) -> Any:
        if self._limits is not None:
            return int(action)
        space: Any = self.env.action_space(self.agents[i])
        return np.asarray(action, space.dtype)[: space.shape[0]]

    def _obs(self, observations: Mapping[Any, Any], infos: Mapping[Any, Any]) -> Obs:
        """The arrays of what each agent that still sees something sees."""
        seen = np.zeros(self._obs_space.shape, self._obs_space.dtype)
        mask = None if self._limits is None else np.zeros_like(self._limits)
        for i, agent in enumerate(self.agents):
            observation = observations.get(agent)
            if observation is None or self._terminated[i]:
                continue
            allowed = infos.get(agent, {}).get("action_mask")
            if isinstance(observation, Mapping) and "action_mask" in observation:
                observation, allowed = observation["observation"], observation["action_mask"]
            part = np.asarray(observation)
            _corner(seen[i], part.shape)[...] = part
            if mask is not None and self._limits is not None and self._alive[i]:
                mask[i] = self._limits[i]
                if allowed is not None:
                    mask[i, : len(allowed)] &= np.asarray(allowed, np.bool_)
        obs: Obs = {"obs": seen, "alive": self._alive.copy()}
        if mask is not None:
            obs["mask"] = mask
        if self.with_state:
            obs["state"] = np.asarray(self.env.state(), np.float32)
        return obs

    def _info(self, infos: Mapping[Any, Any]) -> dict[str, Any]:
        said: dict[Any, Any] = {"agent_terminated": self._terminated.copy()}
        for agent, info in infos.items():
            if any(key != "action_mask" for key in info):
                said[agent] = {key: value for key, value in info.items() if key != "action_mask"}
        return said

    def render(self) -> Any:
        """What the environment renders."""
        return self.env.render()

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


def _joint_box(of_agents: list[spaces.Space[Any]]) -> spaces.Box:
    """The Box (N, ...) of the agents' Boxes; flat ones of different size are filled up."""
    boxes = [space for space in of_agents if isinstance(space, spaces.Box)]
    if len(boxes) < len(of_agents):
        other = next(space for space in of_agents if not isinstance(space, spaces.Box))
        raise TypeError(f"observations of agents must be arrays (Box), got {other}: flatten them with a wrapper")
    shapes = {box.shape for box in boxes}
    if len(shapes) > 1 and any(len(shape) != 1 for shape in shapes):
        raise TypeError(f"observations of agents have the shapes {sorted(shapes)}: only flat ones can be filled up")
    shape = max(shapes)
    dtype = np.result_type(*(box.dtype for box in boxes))
    low, high = np.zeros((len(boxes), *shape), dtype), np.zeros((len(boxes), *shape), dtype)
    for i, box in enumerate(boxes):
        _corner(low[i], box.shape)[...] = np.minimum(box.low, 0)  # zeros stand for those that are gone
        _corner(high[i], box.shape)[...] = np.maximum(box.high, 0)
    return spaces.Box(low, high, dtype=dtype.type)


def _corner(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The first entries along each axis, a view."""
    place: Any = tuple(slice(size) for size in shape)
    corner: NDArray[Any] = array[place]
    return corner


def _joint_actions(of_agents: list[spaces.Space[Any]]) -> spaces.Space[Any]:
    """A MultiDiscrete of the agents' Discrete spaces, or a Box (N, A) of their flat Boxes."""
    sizes = [int(space.n) for space in of_agents if isinstance(space, spaces.Discrete) and space.start == 0]
    if len(sizes) == len(of_agents):
        return spaces.MultiDiscrete(sizes)
    if all(isinstance(space, spaces.Box) and len(space.shape) == 1 for space in of_agents):
        return _joint_box(of_agents)
    raise TypeError(f"agents need Discrete actions from 0, or flat Boxes, got {of_agents[0]}")
