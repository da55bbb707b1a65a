"""A task that needs a memory."""

from typing import Any

import gymnasium as gym
import numpy as np


class Cue(gym.Env[Any, Any]):
    """Shows a cue, -1 or 1, at step 0; the last action earns cue x action, where discrete ones count as -1 and 1."""

    def __init__(self, delay: int, discrete: bool, always: bool) -> None:
        self.delay, self.always = delay, always
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
        self.action_space = gym.spaces.Discrete(2) if discrete else gym.spaces.Box(-1.0, 1.0, (1,))

    def _see(self) -> np.ndarray:
        return np.array([self.cue if self.always or self.t == 0 else 0, min(self.t / self.delay, 1)], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.cue = 0, int(self.np_random.choice([-1, 1]))
        return self._see(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        value = 2.0 * action - 1.0 if isinstance(self.action_space, gym.spaces.Discrete) else float(action[0])
        self.t += 1
        over = self.t > self.delay
        return self._see(), self.cue * value if over else 0.0, over, False, {}
