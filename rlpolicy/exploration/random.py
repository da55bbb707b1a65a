"""Noise that is added to actions, and epsilon-greedy choices."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.rng import generator_from, generator_state, make_generator
from rlpolicy.utils.schedules import Schedule

Size = int | Sequence[int]


class Scheduled:
    """Something random with a generator of its own and a scale that may follow a schedule."""

    _schedule: Schedule | None = None
    _rng: np.random.Generator | None = None
    _device_rng: torch.Generator | None = None

    def seed(self, seed: int | None = None) -> None:
        """Start a new sequence of random numbers; None takes the seed from numpy's global state."""
        self._rng = make_generator(seed)
        self._device_rng = None

    def step_to(self, env_step: int) -> None:
        """Set the scale to what the schedule says for this number of environment steps."""
        if self._schedule is not None:
            self._set_scale(float(self._schedule(env_step)))

    def set_scale(self, scale: float) -> None:
        """Set the scale by hand; a schedule, if there is one, no longer applies."""
        self._set_scale(float(scale))
        self._schedule = None

    @property
    def rng(self) -> np.random.Generator:
        """The generator all random numbers come from."""
        if self._rng is None:  # a subclass did not call __init__
            self._rng = make_generator()
        return self._rng

    def rng_on(self, device: torch.device) -> torch.Generator:
        """The generator of random numbers for tensors; its seed is drawn from :attr:`rng`."""
        if self._device_rng is None or self._device_rng.device != device:
            self._device_rng = torch.Generator(device).manual_seed(int(self.rng.integers(2**63)))
        return self._device_rng

    def _init_scale(self, value: float | Schedule, schedule: float | Schedule | None) -> None:
        """Take ``schedule`` if given, else ``value``; either may be a number or a function of env_step."""
        scale = value if schedule is None else schedule
        if callable(scale):
            self._schedule = scale
            scale = scale(0)
        self._set_scale(float(scale))

    def state_dict(self) -> dict[str, Any]:
        """All that changes: every attribute that is a number, an array or None, and where the generator stands."""
        values = {
            name: value.copy() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
            if value is None or isinstance(value, bool | int | float | str | np.ndarray | np.generic)
        }
        for name in ("_schedule", "_device_rng"):
            values.pop(name, None)
        rng = None if self._rng is None else generator_state(self._rng)
        state: dict[str, Any] = {"values": values, "rng": rng, "is_scheduled": self._schedule is not None}
        if self._device_rng is not None:
            state["device_rng"] = [str(self._device_rng.device), self._device_rng.get_state().numpy()]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called. The schedule, which is a function, stays this object's own.

        Where there is no such device any more, random numbers for tensors begin a new sequence.

        :raises ValueError: the state is that of another kind of noise.
        """
        values = state["values"]
        if not values.keys() <= vars(self).keys():
            raise ValueError(f"{type(self).__name__} has no {', '.join(sorted(values.keys() - vars(self).keys()))}")
        if state["is_scheduled"] and self._schedule is None:
            raise ValueError(f"the {type(self).__name__} that was saved followed a schedule, this one has none")
        rng = state["rng"]
        rng = None if rng is None else generator_from(rng)
        device_rng = _generator_on(*state["device_rng"]) if "device_rng" in state else None
        self._rng, self._device_rng = rng, device_rng  # type: ignore[assignment]  # a numpy one was saved
        vars(self).update(values)
        if not state["is_scheduled"]:  # a scale that was set by hand
            self._schedule = None

    def _set_scale(self, scale: float) -> None:
        raise NotImplementedError(f"{type(self).__name__} has no scale to follow a schedule")


def _generator_on(device: str, bits: NDArray[np.uint8]) -> torch.Generator | None:
    """A generator that goes on; None: there is no such device here."""
    try:
        generator = torch.Generator(device)
    except RuntimeError:
        return None
    generator.set_state(torch.from_numpy(np.array(bits)))
    return generator


class BaseNoise(Scheduled, ABC):
    """Noise for continuous actions: ``noise(shape)`` gives an array of that shape."""

    has_memory = True
    """Whether the next noise depends on what came before, so that it must hear of episodes that end."""

    def __init__(self, *, seed: int | np.random.Generator | None = None) -> None:
        """
        :param seed: an int, a generator, or None, which takes the seed from numpy's global state.
        """
        self._rng = make_generator(seed)

    @abstractmethod
    def reset(self, rows: NDArray[Any] | None = None) -> None:
        """Forget what came before.

        :param rows: indices along the first axis whose episode has ended; None: all.
        """

    @abstractmethod
    def __call__(self, size: Size) -> NDArray[np.float64]:
        """The next noise, of shape ``size``: usually (environments, A)."""

    def like(self, act: Tensor) -> Tensor:
        """The next noise for a tensor of actions, on its device; here drawn on the host, and sent there."""
        return torch.as_tensor(self(act.shape), dtype=act.dtype, device=act.device)


class _SigmaNoise(BaseNoise):
    """Noise around ``mu`` with standard deviation ``sigma``."""

    def __init__(
        self,
        mu: float,
        sigma: float | Schedule,
        schedule: float | Schedule | None,
        seed: int | np.random.Generator | None,
    ) -> None:
        super().__init__(seed=seed)
        self.mu = mu
        self._init_scale(sigma, schedule)

    def _set_scale(self, scale: float) -> None:
        if not scale >= 0:
            raise InvalidArgument(f"sigma must not be negative, got {scale}")
        self.sigma = scale

    def reset(self, rows: NDArray[Any] | None = None) -> None:
        """Nothing to do: without memory."""


class GaussianNoise(_SigmaNoise):
    """Independent normal noise.

    :param mu: mean.
    :param sigma: standard deviation, not negative; a number or a function of env_step.
    :param schedule: takes ``sigma``'s place; see ``step_to``.
    :param seed: an int, a generator, or None, which takes the seed from numpy's global state.
    """

    has_memory = False

    def __init__(
        self,
        mu: float = 0.0,
        sigma: float | Schedule = 1.0,
        *,
        schedule: float | Schedule | None = None,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(mu, sigma, schedule, seed)

    def __call__(self, size: Size) -> NDArray[np.float64]:
        """The next noise, of shape ``size``."""
        return self.rng.normal(self.mu, self.sigma, size)

    def like(self, act: Tensor) -> Tensor:
        """The next noise for a tensor of actions, drawn on its device."""
        noise = torch.randn(act.shape, dtype=act.dtype, device=act.device, generator=self.rng_on(act.device))
        return self.mu + self.sigma * noise


class OUNoise(_SigmaNoise):
    """Ornstein-Uhlenbeck noise, correlated in time (Uhlenbeck and Ornstein, 1930; used by arXiv:1509.02971).

    x <- x + theta (mu - x) dt + sigma sqrt(dt) n with n standard normal. Every row along the first axis goes
    its own way.

    :param mu: where the process returns to.
    :param sigma: strength of the random part; a number or a function of env_step.
    :param theta: speed of return.
    :param dt: step of time.
    :param x0: where the process starts, a number or shape (A,); None: at 0.
    :param schedule: takes ``sigma``'s place; see ``step_to``.
    :param seed: an int, a generator, or None, which takes the seed from numpy's global state.
    """

    def __init__(
        self,
        mu: float = 0.0,
        sigma: float | Schedule = 0.3,
        theta: float = 0.15,
        dt: float = 1e-2,
        x0: float | NDArray[Any] | None = None,
        *,
        schedule: float | Schedule | None = None,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        if not dt > 0:
            raise ValueError(f"dt must be positive, got {dt}")
        super().__init__(mu, sigma, schedule, seed)
        self.theta = theta
        self.dt = dt
        self.x0 = 0.0 if x0 is None else x0
        self._x: NDArray[np.float64] | None = None

    def reset(self, rows: NDArray[Any] | None = None) -> None:
        """Go back to ``x0``, all rows or the given ones."""
        if rows is None:
            self._x = None
        elif self._x is not None:
            self._x[rows] = self.x0

    def __call__(self, size: Size, mu: float | None = None) -> NDArray[np.float64]:
        """The next noise, of shape ``size``; another shape than last time starts anew.

        :param mu: takes the place of the constructor's for this call.
        """
        shape = (size,) if isinstance(size, int) else tuple(size)
        x = self._x
        if x is None or x.shape != shape:
            x = np.empty(shape)
            x[...] = self.x0
        target = self.mu if mu is None else mu
        normal = self.rng.standard_normal(shape)
        self._x = x + (self.theta * self.dt) * (target - x) + (self.sigma * np.sqrt(self.dt)) * normal
        return self._x.copy()


class PinkNoise(_SigmaNoise):
    """Coloured noise, correlated over all time scales, with a power spectrum proportional to f ** -beta.

    Recommended as default for continuous control by Eberhard et al., "Pink noise is all you need: Colored
    noise exploration in deep reinforcement learning", ICLR 2023. Sequences are made by an inverse Fourier
    transform of random coefficients (Timmer and König, 1995), one per row and component; each value has mean
    ``mu`` and standard deviation ``sigma``.

    :param mu: mean.
    :param sigma: standard deviation, not negative; a number or a function of env_step.
    :param seq_len: length of a sequence in steps, best that of an episode; the next one is independent.
    :param beta: colour: 0 white, 1 pink, 2 red.
    :param schedule: takes ``sigma``'s place; see ``step_to``.
    :param seed: an int, a generator, or None, which takes the seed from numpy's global state.
    """

    def __init__(
        self,
        mu: float = 0.0,
        sigma: float | Schedule = 0.3,
        seq_len: int = 1000,
        *,
        beta: float = 1.0,
        schedule: float | Schedule | None = None,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        if seq_len < 2:
            raise ValueError(f"seq_len must be at least 2, got {seq_len}")
        if beta < 0:
            raise ValueError(f"beta must not be negative, got {beta}")
        super().__init__(mu, sigma, schedule, seed)
        self.seq_len = seq_len
        self.beta = beta
        self._amplitudes = _unit_spectrum(seq_len, beta)
        self._sequences = np.empty((0, 0, seq_len))  # (rows, components, time)
        self._position = np.empty(0, dtype=np.int64)  # (rows,), the next time step of each
        self._rows = np.empty(0, dtype=np.int64)

    def reset(self, rows: NDArray[Any] | None = None) -> None:
        """Start new sequences, in all rows or the given ones."""
        if rows is None:
            self._position[:] = self.seq_len  # used up: the next call draws
        elif len(self._position):  # else nothing was drawn yet
            self._position[rows] = self.seq_len

    def __call__(self, size: Size) -> NDArray[np.float64]:
        """The next noise, of shape ``size``; another shape than last time starts anew."""
        shape = (1, size) if isinstance(size, int) else tuple(size)
        rows = shape[0] if len(shape) > 1 else 1
        components = int(np.prod(shape)) // rows
        if self._sequences.shape[:2] != (rows, components):
            self._sequences = np.empty((rows, components, self.seq_len))
            self._position = np.full(rows, self.seq_len)
            self._rows = np.arange(rows)
        used_up = self._position >= self.seq_len
        if used_up.any():
            self._sequences[used_up] = self._draw(int(used_up.sum()), components)
            self._position[used_up] = 0
        unit = self._sequences[self._rows, :, self._position]
        self._position += 1
        return (self.mu + self.sigma * unit).reshape(size)

    def _draw(self, rows: int, components: int) -> NDArray[np.float64]:
        shape = (rows, components, len(self._amplitudes))
        coefficients = (self.rng.standard_normal(shape) + 1j * self.rng.standard_normal(shape)) * np.sqrt(0.5)
        # the constant and, for even lengths, the highest frequency are real
        coefficients[..., 0] = coefficients[..., 0].real * np.sqrt(2.0)
        if self.seq_len % 2 == 0:
            coefficients[..., -1] = coefficients[..., -1].real * np.sqrt(2.0)
        return np.fft.irfft(coefficients * self._amplitudes, n=self.seq_len)


def _unit_spectrum(length: int, beta: float) -> NDArray[np.float64]:
    """Amplitudes f ** (-beta / 2), scaled so that coefficients of unit power give values of unit variance."""
    frequencies = np.fft.rfftfreq(length)
    frequencies[0] = frequencies[1]  # an offset per sequence, as strong as the slowest wave
    amplitudes = frequencies ** (-beta / 2.0)
    weights = np.full(len(amplitudes), 2.0)  # a complex coefficient stands for two, itself and its mirror image
    weights[0] = 1.0
    if length % 2 == 0:
        weights[-1] = 1.0
    return np.asarray(amplitudes * length / np.sqrt((weights * amplitudes**2).sum()))


class EpsilonGreedy(Scheduled):
    """Replaces each action by a random one with probability epsilon.

    :param epsilon: in [0, 1]; a number or a function of env_step.
    :param schedule: takes ``epsilon``'s place; see ``step_to``.
    :param seed: an int, a generator, or None, which takes the seed from numpy's global state.
    """

    def __init__(
        self,
        epsilon: float | Schedule = 0.1,
        *,
        schedule: float | Schedule | None = None,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        self._rng = make_generator(seed)
        self._init_scale(epsilon, schedule)

    def _set_scale(self, scale: float) -> None:
        if not 0.0 <= scale <= 1.0:
            raise ValueError(f"epsilon must be in [0, 1], got {scale}")
        self.epsilon = scale

    def __call__(
        self, act: NDArray[Any], n_actions: int | NDArray[Any], mask: NDArray[np.bool_] | None = None
    ) -> NDArray[Any]:
        """The actions with some rows replaced; the argument is not changed.

        :param act: integer actions, (B,) or (B, branches).
        :param n_actions: number of actions, or one number per branch.
        :param mask: which actions are allowed, act's shape and one more axis of length ``n_actions``.
        """
        if self.epsilon == 0.0:
            return act
        explore = self.rng.random(len(act)) < self.epsilon
        n_explore = explore.tolist().count(True)
        if n_explore == 0:
            return act
        replaced = act.copy()
        if mask is None:
            replaced[explore] = self.rng.integers(n_actions, size=(n_explore, *act.shape[1:]))
        else:
            allowed = np.asarray(mask, dtype=bool)[explore]
            # the largest of independent uniform numbers is a uniform choice; forbidden ones get none
            replaced[explore] = np.where(allowed, self.rng.random(allowed.shape), -1.0).argmax(axis=-1)
        return replaced

    def of_tensor(
        self, act: Tensor, n_actions: int | NDArray[Any], mask: Tensor | NDArray[Any] | None = None
    ) -> Tensor:
        """The same for a tensor of actions, on its device; the draws are others."""
        rng, device = self.rng_on(act.device), act.device
        explore = torch.rand(len(act), device=device, generator=rng) < self.epsilon
        if mask is None:
            count = torch.as_tensor(n_actions, device=device)
            drawn = torch.rand(act.shape, device=device, dtype=torch.float64, generator=rng)
            others = (drawn * count).to(act.dtype)
        else:
            drawn = torch.rand(mask.shape, device=device, generator=rng)
            allowed = torch.as_tensor(mask, device=device).bool()
            others = torch.where(allowed, drawn, -1.0).argmax(dim=-1).to(act.dtype)
        return torch.where(explore.view(-1, *[1] * (act.dim() - 1)), others, act)
