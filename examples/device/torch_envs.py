"""Pendulum and cart-pole as tensor code: thousands of environments that step together, on the device of their tensors.

The dynamics are those of Gymnasium's ``Pendulum-v1`` and ``CartPole-v1``; nothing in here waits for the device.
"""

import math
from abc import abstractmethod
from typing import Any

import numpy as np
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


class TorchPendulum(TorchVectorEnv):
    """Gymnasium's ``Pendulum-v1``: swing a pendulum up and hold it; state (θ, dθ/dt)."""

    single_observation_space = spaces.Box(
        np.array([-1, -1, -8], np.float32), np.array([1, 1, 8], np.float32), dtype=np.float32
    )
    single_action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def beginnings(self) -> Tensor:
        """θ in [-π, π], dθ/dt in [-1, 1]."""
        return self.uniform(torch.tensor([math.pi, 1.0]).to(self.device, non_blocking=True))

    def advance(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step of 0.05 s; never terminal."""
        theta, speed = state.unbind(1)
        torque = action[:, 0].clamp(-2.0, 2.0)
        angle = torch.remainder(theta + math.pi, 2 * math.pi) - math.pi
        cost = angle.square() + 0.1 * speed.square() + 0.001 * torque.square()
        speed = (speed + (15.0 * theta.sin() + 3.0 * torque) * 0.05).clamp(-8.0, 8.0)
        return torch.stack([theta + 0.05 * speed, speed], dim=1), -cost, torch.zeros_like(self.over)

    def observe(self, state: Tensor) -> Tensor:
        """(cos θ, sin θ, dθ/dt)."""
        theta, speed = state.unbind(1)
        return torch.stack([theta.cos(), theta.sin(), speed], dim=1).float()


class TorchCartPole(TorchVectorEnv):
    """Gymnasium's ``CartPole-v1``: keep a pole upright on a cart; state (x, dx/dt, θ, dθ/dt)."""

    _high = np.array([4.8, np.inf, 24 * 2 * math.pi / 360, np.inf], np.float32)
    single_observation_space = spaces.Box(-_high, _high, dtype=np.float32)
    single_action_space = spaces.Discrete(2)

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", max_episode_steps: int = 500, **kwargs: Any):
        super().__init__(num_envs, device, max_episode_steps, **kwargs)

    def beginnings(self) -> Tensor:
        """All four in [-0.05, 0.05]."""
        return self.uniform(torch.full((4,), 0.05, device=self.device))

    def advance(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step of 0.02 s; terminal where the cart leaves the track or the pole falls."""
        x, x_dot, theta, theta_dot = state.unbind(1)
        cos, sin = theta.cos(), theta.sin()
        push = (torch.where(action == 1, 10.0, -10.0) + 0.05 * theta_dot.square() * sin) / 1.1
        theta_acc = (9.8 * sin - cos * push) / (0.5 * (4.0 / 3.0 - 0.1 * cos.square() / 1.1))
        x_acc = push - 0.05 * theta_acc * cos / 1.1
        x, theta = x + 0.02 * x_dot, theta + 0.02 * theta_dot
        after = torch.stack([x, x_dot + 0.02 * x_acc, theta, theta_dot + 0.02 * theta_acc], dim=1)
        terminated = (x.abs() > 2.4) | (theta.abs() > 12 * 2 * math.pi / 360)
        return after, torch.ones_like(x), terminated

    def observe(self, state: Tensor) -> Tensor:
        """The state."""
        return state.float()
