"""Pendulum and cart-pole as tensor code, with the dynamics of Gymnasium's ``Pendulum-v1`` and ``CartPole-v1``."""

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch_vector_env import TorchVectorEnv


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
