"""Vector environments whose observations are torch tensors, left on the device where they are."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from rlpolicy.env.utils import Seeds, spread_seeds
from rlpolicy.utils.errors import InvalidArgument

FINAL_OBS = ("final_obs", "final_observation")


def gives_tensors(env: Any) -> bool:
    """Whether an environment is known to give tensors: it has several environments and, maybe in its wrappers, a
    ``device`` (Isaac Lab, ManiSkill), or gymnasium's conversion to torch (``JaxToTorch``) around it.
    """
    if not isinstance(env, VectorEnv) and not (isinstance(env, gym.Env) and hasattr(env.unwrapped, "num_envs")):
        return False
    # of arrays of the host: nothing is gained by leaving them where they are not
    if any(type(layer).__name__ == "NumpyToTorch" or _name(layer, "_env_xp") == "numpy" for layer in _layers(env)):
        return False
    conversions = ("JaxToTorch", "torch")
    return any(
        type(layer).__name__ in conversions or _name(layer, "_target_xp") in conversions or _own_device(layer)
        for layer in _layers(env)
    )


def tensor_device(env: Any) -> torch.device | None:
    """The device of an environment's tensors, as far as it says so."""
    named = (_own_device(layer) for layer in _layers(env))
    device = next((device for device in named if device is not None), None)
    return None if device is None else torch.empty(0, device=device).device


def _name(layer: Any, attribute: str) -> str:
    """The package of an array namespace that a conversion has: "torch", "numpy", "jax"; else nothing."""
    namespace = str(getattr(getattr(layer, attribute, None), "__name__", ""))
    return namespace.removeprefix("array_api_compat.").split(".")[0]


def _layers(env: Any) -> list[Any]:
    """An environment and those inside of it."""
    layers = [env]
    while isinstance(layers[-1], gym.Wrapper | gym.vector.VectorWrapper):
        layers.append(layers[-1].env)
    return layers if layers[-1] is getattr(env, "unwrapped", layers[-1]) else [*layers, env.unwrapped]


def _own_device(layer: Any) -> torch.device | None:
    device = getattr(layer, "_target_device", None) or getattr(layer, "device", None)
    if isinstance(device, torch.device):
        return device
    try:
        return torch.device(device) if isinstance(device, str) else None
    except RuntimeError:
        return None


class TensorStep(NamedTuple):
    """One step of N environments, as tensors on their device. Observations may be dicts of tensors."""

    obs: Any
    """What the next action is for: first observations where episodes have ended, (N, ...)."""
    obs_next: Any
    """What the step has reached: final observations where episodes have ended, (N, ...)."""
    rew: Tensor
    """(N,) or (N, agents)"""
    terminated: Tensor
    """(N,) bool"""
    truncated: Tensor
    """(N,) bool"""
    stored: Tensor | None
    """(N,) bool: which rows are transitions; the others have only begun an episode. None: all are."""


class TensorVectorEnv:
    """A vector environment of tensors in the form that :class:`~rlpolicy.data.tensor_collector.TensorCollector` needs.

    Same transitions in all three autoreset modes (an environment that is no ``VectorEnv``, such as Isaac Lab's, and
    says nothing counts as SAME_STEP):

    * SAME_STEP: ``infos["final_obs"]`` (or ``final_observation``) has the final observations in the rows that ended.
      Without it the last known observation stands in for them, with a warning.
    * NEXT_STEP: the step after an episode's end only resets; ``TensorStep.stored`` leaves these rows out.
    * DISABLED: after every step ``env.reset(options={"reset_mask": done})`` with a tensor, which may be all False.

    :param env: a ``gymnasium.vector.VectorEnv`` of tensors, or a ``gymnasium.Env`` with ``num_envs``.
    """

    is_async = False
    stack_dicts = True
    reset_rows = None

    def __init__(self, env: Any) -> None:
        self.env = env
        self.env_num = int(_attribute(env, "num_envs"))
        self.single_action_space = _attribute(env, "single_action_space")
        self.action_space = [self.single_action_space] * self.env_num
        """The same space for all: random actions are drawn for all at once."""
        self.observation_space = [_attribute(env, "single_observation_space")] * self.env_num
        from rlpolicy.env.gymnasium_vector import autoreset_mode

        says = "autoreset_mode" in (env.metadata or {})
        self.mode = autoreset_mode(env) if says or isinstance(env, VectorEnv) else AutoresetMode.SAME_STEP
        self.device: torch.device | None = None
        """Where the observations are; None before the first reset."""
        self.over: Tensor | None = None
        """(N,) NEXT_STEP: whose next step is a reset; None: nobody's."""
        self._obs: Any = None
        self._tells_final = self.mode is not AutoresetMode.SAME_STEP
        self._missed: Tensor | None = None
        """() bool: whether an episode has ended whose final observation was not told."""
        # gymnasium's environments in jax reset once more after a reset of finished ones
        self._resets_twice = self.mode is AutoresetMode.NEXT_STEP and hasattr(env.unwrapped, "prev_done")

    def __len__(self) -> int:
        return self.env_num

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Start new episodes in all environments: first observations, (N, ...).

        :raises InvalidArgument: they are no tensors.
        """
        given = {"seed": seed, "options": options}  # not all environments take None
        obs, _ = self.env.reset(**{name: value for name, value in given.items() if value is not None})
        leaf = _first_leaf(obs)
        if not isinstance(leaf, Tensor):
            raise InvalidArgument(
                f"{self.env} gives {type(leaf).__name__} observations, expected torch tensors: wrap it in "
                "gymnasium.wrappers.vector.JaxToTorch or NumpyToTorch"
            )
        self.device = leaf.device
        self.over = self.over if self._resets_twice else None
        self._obs = _map(obs, Tensor.clone)  # environments may write into what they have given
        return self._obs

    def step(self, action: Tensor) -> TensorStep:
        """One step of all environments; nothing waits for the device.

        :param action: (N, ...), as the action space wants them.
        """
        obs, rew, terminated, truncated, infos = self.env.step(action)
        rew, terminated, truncated = rew.clone(), terminated.bool().clone(), truncated.bool().clone()
        obs = _map(obs, Tensor.clone)
        done = terminated | truncated
        obs_next, stored = obs, None
        if self.mode is AutoresetMode.SAME_STEP:
            final = next((infos[key] for key in FINAL_OBS if key in infos), None)
            obs_next = _where(done, self._stand_in(done) if final is None else self._told(final), obs)
        elif self.mode is AutoresetMode.NEXT_STEP:
            if any(key in infos for key in FINAL_OBS):
                raise InvalidArgument(
                    f"{self.env} tells final observations, but not that it resets in the same step: set "
                    "env.metadata = {**env.metadata, 'autoreset_mode': AutoresetMode.SAME_STEP}"
                )
            stored = None if self.over is None else ~self.over
            self.over = done if stored is None else done & stored
        else:
            obs = _map(self.env.reset(options={"reset_mask": done})[0], Tensor.clone)
        self._obs = obs
        return TensorStep(obs, obs_next, rew, terminated, truncated, stored)

    def _told(self, final: Any) -> Any:
        """Final observations, that are tensors."""
        leaf = _first_leaf(final)
        if not isinstance(leaf, Tensor):
            raise InvalidArgument(f"{self.env} tells final observations as {type(leaf).__name__}, expected a tensor")
        self._tells_final, self._missed = True, None
        return final

    def _stand_in(self, done: Tensor) -> Any:
        """The last known observations, where no final ones are told (perhaps as no episode has ended)."""
        if not self._tells_final:
            missed = done.any()
            self._missed = missed if self._missed is None else self._missed | missed
        return self._obs

    def check_final(self) -> None:
        """Warn, once, if an episode has ended whose final observation was not told; waits for the device."""
        if self._missed is not None and bool(self._missed):
            self._tells_final, self._missed = True, None
            warnings.warn(
                f"{self.env} resets in the same step and does not tell the final observation: the one before it "
                "is used instead, so values after truncation are a little off",
                UserWarning,
                stacklevel=4,
            )

    def resume(self, over: Tensor | None, obs: Any) -> None:
        """Go on in the middle of episodes, to which the environment itself has been put back.

        :param over: what :attr:`over` was.
        :param obs: the observations that the next action is for.
        """
        self.over, self._obs, self.device = over, obs, _first_leaf(obs).device

    def seed(self, seed: Seeds | None = None) -> None:
        """Reset with a seed: the first of a list, as a vector environment has one generator for all."""
        first = spread_seeds(seed, range(self.env_num))[0]
        self.reset(seed=first)

    def render(self, **kwargs: Any) -> Any:
        """``env.render()``."""
        return self.env.render()

    def close(self) -> None:
        """``env.close()``."""
        self.env.close()

    def sample_actions(self, count: int) -> np.ndarray:
        """Random actions, (count, ...), drawn on the host from the generator of the action space."""
        space = self.single_action_space
        if isinstance(space, gym.spaces.Discrete):
            return np.asarray(space.start + space.np_random.integers(space.n, size=count), space.dtype)
        if isinstance(space, gym.spaces.Box) and space.is_bounded() and space.dtype is not None:
            return space.np_random.uniform(space.low, space.high, (count, *space.shape)).astype(space.dtype)
        return np.stack([space.sample() for _ in range(count)])


def _attribute(env: Any, name: str) -> Any:
    return getattr(env, name) if hasattr(env, name) else getattr(env.unwrapped, name)


def _map(obs: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    """``fn`` of every tensor of an observation."""
    return {key: _map(value, fn) for key, value in obs.items()} if isinstance(obs, Mapping) else fn(obs)


def _where(mask: Tensor, yes: Any, no: Any) -> Any:
    """Rows of ``yes`` where ``mask``, (N,), else of ``no``."""
    if isinstance(no, Mapping):
        return {key: _where(mask, yes[key], value) for key, value in no.items()}
    return torch.where(mask.view(-1, *[1] * (no.dim() - 1)), yes, no)


def _first_leaf(obs: Any) -> Any:
    while isinstance(obs, Mapping) and obs:
        obs = next(iter(obs.values()))
    return obs
