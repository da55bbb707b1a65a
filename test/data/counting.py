"""An environment and a policy whose every number is known beforehand."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlpolicy.data.batch import Batch


class Counting(gym.Env):
    """Observes [step, episode]; an episode of ``length`` steps ends truncated when it is odd, else terminated."""

    def __init__(self, length: int = 3, kind: str = "array", fault: str | None = None, agents: int = 0) -> None:
        self.length, self.kind, self.fault, self.agents = length, kind, fault, agents
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        if kind == "dict":
            self.observation_space = spaces.Dict(x=self.observation_space, n=spaces.Discrete(10))
        self.action_space = spaces.Box(-2.0, 4.0, (2,), np.float32)
        self.t = self.episode = 0
        self.seen: list[np.ndarray] = []

    def _observe(self) -> Any:
        array = np.array([self.t, self.episode], np.float32)
        if self.kind == "dict":
            return {"x": array, "n": self.t}
        if self.kind == "object":
            return {"nodes", self.t, self.episode}
        return array

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.episode = 0, self.episode + 1
        return self._observe(), {"first": True, "options": 0 if not options else options["value"]}

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.seen.append(np.array(action))
        self.t += 1
        ends = self.t >= self.length
        obs = self._observe()
        reward: Any = 0.5 * self.t if not self.agents else np.arange(self.agents) + 1.0
        if self.fault == "obs" and self.t == 2:
            obs[0] = np.nan
        if self.fault == "rew" and self.t == 2:
            reward = np.inf
        if self.fault == "raise" and self.t == 2:
            raise RuntimeError("the simulator broke")
        odd = self.episode % 2 == 1
        info = {"t": self.t} | ({"late": {"x": 1.0}} if ends else {})
        return obs, reward, ends and not odd, ends and odd, info


class Scripted:
    """Acts [step, 0.1] from the observation alone; counts its calls in the recurrent state."""

    training = False

    def __init__(self, state: bool = False) -> None:
        self.action_space = spaces.Box(-2.0, 4.0, (2,), np.float32)
        self.state = state
        self.states: list[Any] = []

    def __call__(self, batch: Batch, state: Any = None, **kwargs: Any) -> Batch:
        obs = batch.obs.x if isinstance(batch.obs, Batch) else batch.obs
        n = len(obs)
        act = np.full((n, 2), 0.1)
        if obs.dtype != object:
            act[:, 0] = obs[:, 0] / 10
        if not self.state:
            return Batch(act=act)
        state = np.ones((n, 1)) if state is None else state + 1
        self.states.append(state.copy())
        return Batch(act=act, state=state)

    def map_action(self, act: np.ndarray) -> np.ndarray:
        return np.clip(act, -1, 1) * 3 + 1

    def map_action_inverse(self, act: np.ndarray) -> np.ndarray:
        return (np.asarray(act) - 1) / 3

    def exploration_noise(self, act: np.ndarray, batch: Batch) -> np.ndarray:
        return act + 0.5
