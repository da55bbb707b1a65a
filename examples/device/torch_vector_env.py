"""Thousands of environments that step together as tensor code, on one device; nothing in here waits for it."""

from abc import abstractmethod
from typing import Any

import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor


class TorchVectorEnv(VectorEnv[Tensor, Tensor, Tensor]):
    """What such environments share: time limit, autoreset, random beginnings.

    :param num_envs: N.
    :param device: of all tensors.
    :param max_episode_steps: an episode is truncated after so many steps.
    :param autoreset_mode: all three are possible.
    """

    single_observation_space: spaces.Box
    single_action_space: spaces.Space[Any]

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        max_episode_steps: int = 200,
        autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP,
    ) -> None:
        self.num_envs, self.device = num_envs, torch.empty(0, device=device).device
        self.max_episode_steps, self.mode = max_episode_steps, autoreset_mode
        self.metadata = {"autoreset_mode": autoreset_mode}
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.generator = torch.Generator(self.device).manual_seed(0)
        self.steps = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self.over = torch.zeros(num_envs, dtype=torch.bool, device=self.device)
        self.state = self.beginnings()

    @abstractmethod
    def beginnings(self) -> Tensor:
        """States at the beginning of an episode, (N, S)."""

    @abstractmethod
    def advance(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Next states (N, S), rewards (N,), and which are terminal (N,)."""

    @abstractmethod
    def observe(self, state: Tensor) -> Tensor:
        """Observations of states, (N, O) float32."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Begin episodes, everywhere or where ``options["reset_mask"]``, (N,) bool, says so."""
        if seed is not None:
            self.generator.manual_seed(seed)
        mask = (options or {}).get("reset_mask", torch.ones_like(self.over))
        self._begin(mask)
        self.over = self.over & ~mask
        return self.observe(self.state), {}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """One step of all environments."""
        over, infos = self.over, {}
        self.state, rew, terminated = self.advance(self.state, actions)
        self.steps = self.steps + 1
        if self.mode is AutoresetMode.NEXT_STEP:
            self._begin(over)
            rew, terminated = torch.where(over, 0.0, rew), terminated & ~over
        truncated = (self.steps >= self.max_episode_steps) & ~terminated
        self.over = terminated | truncated
        if self.mode is AutoresetMode.SAME_STEP:
            infos = {"final_obs": self.observe(self.state), "_final_obs": self.over}
            self._begin(self.over)
        return self.observe(self.state), rew, terminated, truncated, infos

    def _begin(self, mask: Tensor) -> None:
        self.state = torch.where(mask.unsqueeze(1), self.beginnings(), self.state)
        self.steps = torch.where(mask, 0, self.steps)

    def uniform(self, limits: Tensor) -> Tensor:
        """Random numbers between -limits and limits, (N, S)."""
        drawn = torch.rand((self.num_envs, len(limits)), generator=self.generator, device=self.device)
        return (2.0 * drawn - 1.0) * limits

    def state_dict(self) -> dict[str, Any]:
        """Where the episodes stand, for checkpoints."""
        rng = self.generator.get_state()
        return {"state": self.state, "steps": self.steps, "over": self.over, "rng": rng}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        self.state, self.steps, self.over = state["state"], state["steps"], state["over"]
        self.generator.set_state(state["rng"].cpu())
