"""What every policy can do: act, map its actions, and update itself from a buffer."""

import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Generic, Literal, Protocol, Self, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.stats import TrainingStats, TrainingStatsWrapper, TTrainingStats
from rlpolicy.data.utils.converter import to_numpy
from rlpolicy.policy.action import ActionMap, ActionType, BoundMethod, action_type_of
from rlpolicy.policy.observations import ObsStatistics, count_together
from rlpolicy.policy.returns import follow_steps, gae_return
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.lr_scheduler import AnyLRScheduler, step_after_update
from rlpolicy.utils.net.inputs import see_through
from rlpolicy.utils.optim import TModule, polyak_update
from rlpolicy.utils.precision import MixedPrecision, Precision
from rlpolicy.utils.ranks import ranks
from rlpolicy.utils.watch import running

__all__ = [
    "BasePolicy",
    "TLearningRateScheduler",
    "TTrainingStats",
    "TrainingStats",
    "TrainingStatsWrapper",
    "policy_within_training_step",
]

TLearningRateScheduler: TypeAlias = AnyLRScheduler

logger = logging.getLogger(__name__)

_AS_IT_IS = nullcontext()


class CompiledUpdate(Protocol):
    """What :meth:`BasePolicy.compile` puts in the place of ``process_fn`` and ``learn``."""

    def takes(self, batch: Batch, kwargs: dict[str, Any]) -> bool:
        """Whether it can compute an update with this minibatch and arguments; others are for the eager update."""

    def release(self) -> None:
        """Leave the policy as it would be without."""

    def __call__(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Any:
        """Change the networks, leave TD errors in ``batch.weight``, and return the stats."""


class BasePolicy(nn.Module, ABC, Generic[TTrainingStats]):
    """A policy: ``forward`` chooses actions, ``learn`` improves it with a minibatch.

    Raw actions are what ``forward`` returns and what buffers store; :meth:`map_action` turns them into what the
    environment takes. Shapes: B batch, A action dimensions.

    :param action_space: of one environment: Box ("continuous") or Discrete, MultiDiscrete, MultiBinary ("discrete").
    :param observation_space: of one environment; kept as an attribute.
    :param action_scaling: stretch raw actions from [-1, 1] over the bounds of the (Box) action space.
    :param action_bound_method: how raw actions are brought into [-1, 1]: "clip", "tanh" or None. For a Box only.
    :param lr_scheduler: stepped after every update.
    :param obs_preprocessor: see :class:`~rlpolicy.policy.options.PolicyOptions`. A subclass passes each network that
        gets observations through :meth:`preprocessed`.
    :param mixed_precision: see :class:`~rlpolicy.policy.options.PolicyOptions`.
    :raises ValueError: another space, an unknown method, or scaling without a bounded Box.
    """

    _compiled: CompiledUpdate | None = None

    def __class_getitem__(cls, stats: Any) -> Any:
        """``DDPGPolicy[DDPGTrainingStats]`` is ``DDPGPolicy``: algorithms here name their stats themselves."""
        return super().__class_getitem__(stats) if cls.__parameters__ else cls  # type: ignore[misc,attr-defined]

    def __init__(
        self,
        *,
        action_space: spaces.Space[Any],
        observation_space: spaces.Space[Any] | None = None,
        action_scaling: bool = False,
        action_bound_method: BoundMethod = "clip",
        lr_scheduler: TLearningRateScheduler | None = None,
        obs_preprocessor: nn.Module | None = None,
        mixed_precision: MixedPrecision = None,
    ) -> None:
        super().__init__()
        self.action_type: ActionType = action_type_of(action_space)
        self._action_map = ActionMap(action_space, action_scaling, action_bound_method)
        self.observation_space = observation_space
        self.lr_scheduler = lr_scheduler
        self.obs_preprocessor = obs_preprocessor  # before all networks: copies of these then find the copied one
        if hasattr(obs_preprocessor, "update"):
            self._obs_statistics = ObsStatistics()
        self.precision = None if mixed_precision is None else Precision(mixed_precision)  # before them, likewise
        self.agent_id = 0
        self.updating = False
        """True while :meth:`update` runs."""
        self.is_within_training_step = False
        """True inside :func:`policy_within_training_step`, as during all training collects and updates of a trainer."""

    def preprocessed(self, net: TModule) -> TModule:
        """Let a network see observations through ``obs_preprocessor``; without one nothing happens.

        :param net: called with observations as its first argument.
        :return: the network itself.
        """
        see_through(net, self.obs_preprocessor)
        return net

    def network_obs(self, obs: Any) -> Any:
        """The part of observations that networks are called with; here all of it."""
        return obs

    @property
    def action_space(self) -> spaces.Space[Any]:
        """The action space of one environment; fixed, as are scaling and bound method."""
        return self._action_map.space

    @property
    def action_scaling(self) -> bool:
        """Whether raw actions are stretched over the bounds of the action space."""
        return self._action_map.scaling

    @property
    def action_bound_method(self) -> BoundMethod:
        """How raw actions are brought into [-1, 1]."""
        return self._action_map.bound_method

    def set_agent_id(self, agent_id: int) -> None:
        """Set which agent this policy is in a multi-agent policy."""
        self.agent_id = agent_id

    # -- acting -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def forward(self, batch: Batch, state: Any = None, **kwargs: Any) -> Batch:
        """Choose actions.

        :param batch: ``obs`` with leaves of shape (B, ...), and ``info``.
        :param state: the policy's hidden state, as returned by the last call, for recurrent networks.
        :return: ``act``, (B, ...) tensor or array of raw actions; usually ``state``; perhaps ``policy``, a batch that
            is stored in the buffer with the transition.
        """

    def act(self, obs: Any, info: Any = None, *, explore: bool = False) -> np.ndarray:
        """Raw actions for a batch of observations, for a loop of one's own.

        :param obs: (B, ...) array, or a dict of such.
        :param info: passed on to :meth:`forward`.
        :param explore: add the policy's exploration noise.
        :return: (B, ...); what the buffer stores. The environment takes ``map_action`` of it.
        """
        batch = Batch(obs=obs, info=info)
        with torch.no_grad():
            act: np.ndarray = to_numpy(self(batch).act)
        return self.exploration_noise(act, batch) if explore else act

    def compute_action(self, obs: Any, info: dict[str, Any] | None = None, state: Any = None) -> np.ndarray | int:
        """The environment's action for one observation.

        :param obs: one observation without a batch axis: array, number, list or dict of these.
        :return: an int for a Discrete space, else an array of the space's shape.
        """
        with torch.no_grad():
            result = self(Batch(obs=_with_batch_axis(obs), info=info), state=state)
        act = self.map_action(to_numpy(result.act))[0]
        return int(act) if isinstance(self.action_space, spaces.Discrete) else act

    def map_action(self, act: Any) -> Any:
        """Raw actions, (B, ...) array or tensor, to the array of actions that the environment takes.

        See :class:`~rlpolicy.policy.action.ActionMap`; only actions of a Box are changed.
        """
        if type(act) is not np.ndarray:
            act = to_numpy(act)
        return self._action_map(act) if isinstance(act, np.ndarray) else act

    def map_tensor_action(self, act: Tensor) -> Tensor:
        """:meth:`map_action` for environments of tensors: raw actions (B, ...) to theirs, on the same device.

        A subclass with a ``map_action`` of its own is asked for that, at the price of a copy to the host and back.
        """
        if type(self).map_action is not BasePolicy.map_action:
            return torch.as_tensor(self.map_action(act), device=act.device)
        return self._action_map.of_tensor(act)

    def map_action_inverse(self, act: Any) -> Any:
        """Actions of the environment, (B, ...) array, tensor or list, to the raw actions that are mapped to them."""
        act = np.asarray(act) if isinstance(act, list | tuple) else to_numpy(act)
        return self._action_map.inverse(act) if isinstance(act, np.ndarray) else act

    def exploration_noise(self, act: Any, batch: Batch) -> Any:
        """Change raw actions for exploration; here they are returned as they are.

        :param act: (B, ...) raw actions as returned by :meth:`forward`, in numpy.
        :param batch: what :meth:`forward` was given.
        """
        return act

    def reset_noise(self, rows: NDArray[np.int64] | None = None) -> None:
        """Make exploration noise with a memory begin anew.

        :param rows: rows of the action batch whose episode has ended; None: all.
        """

    def step_to(self, env_step: int) -> None:
        """Let whatever follows a schedule, such as learning rate and noise, take its value for ``env_step``.

        The trainer calls this before every collect.
        """
        step_to = getattr(self.lr_scheduler, "step_to", None)
        if step_to is not None:
            step_to(env_step)

    def seed(self, seed: int | None = None) -> None:
        """Restart the generators that the policy owns, such as the exploration noise's."""

    # -- resuming ---------------------------------------------------------------------------------------------------

    training_counters: tuple[str, ...] = ()
    """Names of attributes that change during training and are in no network: numbers, strings, arrays, or dicts of
    these. A policy (or one of its modules) that has such attributes lists them, so that a checkpoint holds them."""

    def training_state(self) -> dict[str, Any]:
        """All that training changes: networks, optimisers, schedulers, noise, generators, counters."""
        from rlpolicy.policy.resume import training_state

        return training_state(self)

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`training_state` was called, in a policy that was built alike.

        :raises ValueError: it was not.
        """
        from rlpolicy.policy.resume import load_training_state

        load_training_state(self, state)

    # -- files ------------------------------------------------------------------------------------------------------

    acting_options: tuple[str, ...] = ("deterministic_eval",)
    """Names of attributes, as far as they exist, that decide how the policy acts beside its weights: numbers, bools,
    strings or None. They are part of what :meth:`save` writes."""

    def save(self, path: str | os.PathLike[str], obs: Any = None) -> None:
        """Write the policy as a folder: weights (the ``state_dict``), spaces, action mapping, options, versions.

        The folder appears whole or not at all, and replaces an older one of a policy. What the policy says about some
        observations is written as well, so that :meth:`load` can see whether another one acts alike. For training to go
        on, save the trainer.

        :param obs: these observations, (B, ...) or a dict of such; None: random ones of ``observation_space``, or none
            if that is unknown.
        :raises FileExistsError: something else lies at ``path``.
        :raises TypeError: a space that cannot be written.
        """
        from rlpolicy.policy.bundle import save_policy

        save_policy(self, path, obs)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Act as the policy that was saved; this one must be built alike.

        Everything is read and checked first; after an error this policy is as it was.

        :raises FileNotFoundError: there is nothing at ``path``.
        :raises rlpolicy.utils.errors.DamagedFile: it is damaged, of another format, or no policy (a ValueError).
        :raises ValueError: another algorithm, spaces, action mapping, options or networks; the message says which.
        """
        from rlpolicy.policy.bundle import load_policy

        load_policy(self, path)

    def export(
        self, path: str | os.PathLike[str], format: Literal["onnx", "safetensors"] | None = None, obs: Any = None
    ) -> None:
        """Write the policy for other programs, checked against this one. Needs the extra ``export``.

        "onnx": the deterministic action, mapped to the environment's. Inputs ``obs`` (or ``obs.name``, ... of dict
        observations) and, of a recurrent policy, ``state.name``, ..., zeros at the beginning of an episode; outputs
        ``action``, ``logits`` for discrete actions, ``next_state.name``, ...; all of any batch size. IQN, whose
        fractions are random, is asked at even ones.

        "safetensors": the weights (the ``state_dict``). Spaces and action mapping are in the metadata of both.

        :param path: of the file, which appears whole or not at all and replaces an older one.
        :param format: None: what ``path`` ends in.
        :param obs: observations for the check, (B, ...) or a dict of such, of the dtype that others will give; None:
            random ones of ``observation_space``.
        :raises rlpolicy.utils.errors.MissingExtra: a package is missing.
        :raises ValueError: another format, or no observations for ONNX.
        :raises RuntimeError: what was exported does not do what the policy does.
        """
        from rlpolicy.policy.export import export_policy

        export_policy(self, path, format, obs)

    # -- learning ---------------------------------------------------------------------------------------------------

    def update(self, sample_size: int | None, buffer: ReplayBuffer | None, **kwargs: Any) -> TTrainingStats:
        """One update in four steps: sample, :meth:`process_fn`, :meth:`learn`, :meth:`post_process_fn`.

        :param sample_size: size of the minibatch; 0: everything in order; None: see ``buffer.sample_indices``.
        :param buffer: None: nothing happens and empty stats are returned.
        :param kwargs: passed on to :meth:`learn`.
        :raises ValueError: the buffer is empty.
        """
        if buffer is None:
            return TrainingStats()  # type: ignore[return-value]
        start = time.perf_counter()
        if self.obs_preprocessor is not None:
            self.count_observations(buffer)
        batch, indices = self._minibatch(sample_size, buffer)
        if (watch := running()) is not None:
            watch.on_minibatch(batch, indices)
        flags = self.__dict__  # nn.Module's own way to set an attribute takes 3 us
        flags["updating"] = True
        try:
            if self._compiled is not None and self._compiled.takes(batch, kwargs):
                stats: TTrainingStats = self._compiled(batch, buffer, indices)
            else:
                with self.in_precision():
                    batch = self.process_fn(batch, buffer, indices)
                    stats = self.learn(batch, **kwargs)
            self.post_process_fn(batch, buffer, indices)
            if self.lr_scheduler is not None:
                step_after_update(self.lr_scheduler, stats)
        finally:
            flags["updating"] = False
        stats.train_time = time.perf_counter() - start
        return stats

    def in_precision(self) -> AbstractContextManager[None]:
        """Around ``process_fn`` and ``learn`` where :meth:`update` does not call them: ``mixed_precision``."""
        if self.precision is None:
            return _AS_IT_IS
        others = (self.obs_preprocessor, self.precision)
        return self.precision.learning(
            net for net in self.children() if net not in others and not isinstance(net, BasePolicy)
        )

    def count_observations(self, buffer: ReplayBuffer) -> None:
        """Give ``obs_preprocessor`` the observations that are new in the buffer; :meth:`update` begins with this.

        Nothing happens without a preprocessor that keeps statistics, nor in evaluation mode.
        """
        update: Callable[[Any], None] | None = getattr(self.obs_preprocessor, "update", None)
        if update is None or not self.training or self.obs_preprocessor is None:
            return
        new = (self.network_obs(obs) for obs in self._obs_statistics.new_in(buffer))
        if (group := ranks()) is not None:
            count_together(group, self.obs_preprocessor, new)
            return
        for obs in new:
            update(obs)

    def compile(self, *, checks: int = 3, backend: Literal["native", "torch"] | None = None) -> Self:  # type: ignore[override]  # of nn.Module
        """From now on update without autograd, on flat vectors of parameters: faster, and the same numbers.

        Nothing else changes: parameters, optimisers, schedulers and ``state_dict`` go on as before, and the script
        stays as it is. For DQN, DDPG, TD3 and SAC with networks of this library that are plain chains of linear
        layers with ReLU or tanh, and Adam or AdamW; anything else stays eager, with a warning that says why. The first
        updates are computed in both ways, and compared: if they differ the policy stays eager, with a warning. Matrix
        products are torch's; the rest is C++ on a CPU, that is built on the first use (one second, kept in
        ``~/.cache/rlpolicy``), and torch on other devices or where there is no compiler. On a CUDA device the update
        is recorded as a CUDA graph and replayed. Copies of the policy are eager until their own ``compile()``; call it
        again after changes inside a network.

        :param checks: how many updates are compared; 0: none.
        :param backend: "native" or "torch": do not choose.
        :return: the policy itself.
        """
        from rlpolicy.policy.fused.compiled import compile_policy

        self._compiled = compile_policy(self, checks, backend)
        return self

    @property
    def is_compiled(self) -> bool:
        """Whether updates are computed without autograd, as :meth:`compile` asked for; False: they are eager."""
        return self._compiled is not None

    @property
    def is_being_checked(self) -> bool:
        """Whether the next update will be computed in two ways, which are compared, see :meth:`compile`."""
        return getattr(self._compiled, "left", 0) > 0

    def _minibatch(self, sample_size: int | None, buffer: ReplayBuffer) -> tuple[Batch, NDArray[np.int64]]:
        """What an update learns from, and its rows; policies that learn from sequences ask for these instead."""
        return buffer.sample(sample_size)

    def process_buffer(self, buffer: ReplayBuffer) -> ReplayBuffer:
        """Change a given buffer once before offline training; here it is returned as it is."""
        return buffer

    def process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Batch:
        """Add to a minibatch what :meth:`learn` needs, e.g. returns; here it is returned as it is.

        :param indices: (B,) the rows of the buffer that ``batch`` was made of.
        """
        return batch

    @abstractmethod
    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> TTrainingStats:
        """Change the networks with what :meth:`process_fn` returned, and say what the losses were."""

    def post_process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> None:
        """Give the buffer new priorities, when it keeps any: ``batch.weight``, which :meth:`learn` set to TD errors."""
        # a buffer searches its columns for a name that it lacks, which takes long; what stands for one does not
        if not hasattr(type(buffer) if isinstance(buffer, ReplayBuffer) else buffer, "update_weight"):
            return
        if "weight" in batch:
            buffer.update_weight(indices, batch.weight)
        else:
            logger.warning("%s.learn left no batch.weight: priorities are not updated", type(self).__name__)

    def soft_update(self, tgt: nn.Module, src: nn.Module, tau: float) -> None:
        """tgt <- tau * src + (1 - tau) * tgt for all parameters; buffers (BatchNorm's statistics) are copied."""
        polyak_update(tgt, src, tau)

    # -- targets ----------------------------------------------------------------------------------------------------

    @staticmethod
    def value_mask(buffer: ReplayBuffer, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(B,) whether a value may follow each row: not after termination, but after truncation."""
        return ~np.asarray(to_numpy(buffer.terminated[indices]), np.bool_)

    @staticmethod
    def compute_episodic_return(
        batch: Batch,
        buffer: ReplayBuffer,
        indices: NDArray[np.int64],
        v_s_: NDArray[Any] | Tensor | None = None,
        v_s: NDArray[Any] | Tensor | None = None,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns and advantages of whole stretches of experience, see :func:`~rlpolicy.policy.returns.gae_return`.

        :param batch: ``rew, terminated, truncated`` of shape (B,), in the order of time (``buffer.sample(0)``).
        :param indices: (B,) the rows of the buffer.
        :param v_s_: V(s_{t+1}), (B,) or (B, 1); None stands for zeros and needs ``gae_lambda=1``.
        :param v_s: V(s_t), likewise; None: ``v_s_`` shifted by one row.
        :return: (returns, advantages), each (B,), with returns = advantages + v_s.
        """
        rew = np.asarray(batch.rew, np.float64)
        if v_s_ is None:
            if not np.isclose(gae_lambda, 1.0):
                raise InvalidArgument(f"without v_s_ the advantage needs gae_lambda=1, got {gae_lambda}")
            value_next = np.zeros_like(rew)
        else:
            value_next = _flat_float64(v_s_) * BasePolicy.value_mask(buffer, indices)
        value = np.roll(value_next, 1) if v_s is None else _flat_float64(v_s)
        end = np.logical_or(batch.terminated, batch.truncated) | np.isin(indices, buffer.unfinished_index())
        advantage = gae_return(value, value_next, rew, end, gamma, gae_lambda)
        return advantage + value, advantage

    @staticmethod
    def compute_nstep_return(
        batch: Batch,
        buffer: ReplayBuffer,
        indices: NDArray[np.int64],
        target_q_fn: Callable[[ReplayBuffer, NDArray[np.int64]], Tensor],
        gamma: float = 0.99,
        n_step: int = 1,
        rew_norm: bool = False,
    ) -> Batch:
        """Set ``batch.returns``, the n-step targets, see :func:`~rlpolicy.policy.returns.follow_steps`.

        :param indices: (B,) the rows of the buffer that ``batch`` was made of.
        :param target_q_fn: called once, without gradients, with the buffer and the (B,) rows of the last steps; returns
            the value of what follows them, (B,) or (B, K). It is masked where that step terminated.
        :return: the batch, with ``returns`` (B, K) in the dtype and on the device of the value, and ``weight``, if
            there is one, as such a tensor (B,).
        """
        if rew_norm:
            raise InvalidArgument("rew_norm: rewards of Q-learning cannot be normalised here; scale them in the env")
        if n_step < 1:
            raise InvalidArgument(f"n_step must be at least 1, got {n_step}")
        if len(indices) != len(batch):
            raise InvalidArgument(f"{len(indices)} indices for a batch of {len(batch)} rows")
        rew_sum, factor, last = follow_steps(buffer, indices, gamma, n_step)
        with torch.no_grad():
            target_q = target_q_fn(buffer, last).reshape(len(indices), -1)
            batch.returns = torch.addcmul(_column(rew_sum, target_q), _column(factor, target_q), target_q)
        if "weight" in batch:
            batch.weight = torch.as_tensor(batch.weight, dtype=target_q.dtype, device=target_q.device)
        return batch


@contextmanager
def policy_within_training_step(policy: BasePolicy[Any], enabled: bool = True) -> Iterator[None]:
    """Set ``policy.is_within_training_step`` for a block; the trainer does so around training collects and updates.

    Policies whose randomness differs between training and evaluation may look at it. Updates outside are allowed.
    """
    before = policy.is_within_training_step
    policy.is_within_training_step = enabled
    try:
        yield
    finally:
        policy.is_within_training_step = before


def _column(values: NDArray[np.float64] | Tensor, like: Tensor) -> Tensor:
    """(B,) numbers as a (B, 1) tensor, in the dtype and on the device of another one."""
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
    return tensor.to(device=like.device, dtype=like.dtype).unsqueeze(1)


def _flat_float64(values: NDArray[Any] | Tensor) -> NDArray[np.float64]:
    return np.asarray(to_numpy(values), np.float64).reshape(-1)


def _with_batch_axis(obs: Any) -> Any:
    """One observation as a batch of one."""
    if isinstance(obs, Tensor):
        return obs.unsqueeze(0)
    if isinstance(obs, Batch | Mapping):
        return Batch({key: _with_batch_axis(value) for key, value in obs.items()})
    return np.asarray(obs)[None]
