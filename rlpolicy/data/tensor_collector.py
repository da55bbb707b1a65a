"""Collecting from vector environments of tensors: nothing leaves the device between environment and buffer."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.device import to_device
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import Collector, Ready
from rlpolicy.data.stats import CollectStats
from rlpolicy.data.types import Policy
from rlpolicy.env.tensor_env import TensorStep, TensorVectorEnv, tensor_device
from rlpolicy.utils.conversion import staying_on_device
from rlpolicy.utils.errors import InvalidArgument, NonFinite

LOOK_EVERY = 32
"""Steps between two looks at whether the episodes that were asked for have ended."""


class TensorCollector(Collector):
    """What :class:`~rlpolicy.data.collector.Collector` becomes for vector environments of tensors on a device.

    Same interface and same transitions. All work of a step is enqueued on the device. The host waits for it once per
    collect of steps, at its end, for the statistics (again, if environments that reset in a step of their own left
    steps to be made); in a collect of episodes every ``LOOK_EVERY`` steps.

    Departs from the Collector:

    - Infos of the environments are neither stored nor shown to the policy.
    - Of ``n_episode`` episodes each environment gets its share in advance, those of lower numbers one more.
    - What ``check_finite`` finds is raised at the end of the collect; that step has been stored by then.
    - No ``preprocess_fn`` and no ``reward_shaper``: wrap the environment.

    :param buffer: on the device of the environments; None: one row per environment there.
    :raises ValueError: the buffer is elsewhere, or an argument is not possible here.
    """

    def __init__(
        self,
        policy: Policy,
        env: Any,
        buffer: ReplayBuffer | None = None,
        preprocess_fn: Callable[..., Any] | None = None,
        exploration_noise: bool = False,
        *,
        check_finite: bool = True,
        reward_shaper: Callable[..., Any] | None = None,
    ) -> None:
        for name, given in {"preprocess_fn": preprocess_fn, "reward_shaper": reward_shaper}.items():
            if given is not None:
                raise InvalidArgument(
                    f"{name} is not possible where observations stay on a device: wrap the environment (a "
                    "gymnasium.vector.VectorWrapper) instead"
                )
        self.tensor_env = TensorVectorEnv(env)
        if buffer is None:
            n = len(self.tensor_env)
            buffer = VectorReplayBuffer(n, n, device=tensor_device(env) or _device_of(policy) or "cpu")
        super().__init__(policy, self.tensor_env, buffer, None, exploration_noise, check_finite=check_finite)

    @property
    def _device(self) -> torch.device:
        assert self.buffer.device is not None
        return self.buffer.device

    # -- resets -------------------------------------------------------------------------------------------------------

    def reset_env(self, gym_reset_kwargs: dict[str, Any] | None = None) -> None:
        """Reset all environments; episodes that were running are cut (stored as truncated)."""
        if self._ready is not None:
            self.buffer.end_episodes(self._all)
        obs = _as_batch(self.tensor_env.reset(**(gym_reset_kwargs or {})))
        self._check_device()
        self._ready = Ready(self._all, obs, Batch.wrap({}), None)

    def _check_device(self) -> None:
        """The buffer, and the policy if it is on one, must be where the environments are."""
        device = self.tensor_env.device
        if self.buffer.device != device:
            raise InvalidArgument(
                f"the environments are on {device}, the buffer is on {self.buffer.device}: make it with "
                f'VectorReplayBuffer(total_size, {self.env_num}, device="{device}")'
            )
        acts_on = _device_of(self.policy)
        if acts_on not in (None, device):
            raise InvalidArgument(f"the environments are on {device}, the policy is on {acts_on}: move one of them")

    def _started(self) -> Ready:
        if self._ready is None:
            self.reset_env()
        assert self._ready is not None
        return self._ready

    # -- collecting ---------------------------------------------------------------------------------------------------

    def collect(
        self,
        n_step: int | None = None,
        n_episode: int | None = None,
        random: bool = False,
        render: float | None = None,
        no_grad: bool = True,
        gym_reset_kwargs: dict[str, Any] | None = None,
        reset_before_collect: bool = False,
    ) -> CollectStats:
        """See :meth:`Collector.collect <rlpolicy.data.collector.Collector.collect>`."""
        self._check_collect(n_step, n_episode)
        if reset_before_collect:
            self.reset(reset_buffer=False, gym_reset_kwargs=gym_reset_kwargs, reset_stats=False)
        begin = time.perf_counter()
        self._started()
        record = _Record(self)
        with torch.set_grad_enabled(not no_grad), staying_on_device():
            if n_episode is not None:
                self._collect_episodes(n_episode, record, random, render)
            else:
                while (missing := (n_step or 0) - record.steps) > 0:
                    for _ in range(-(-missing // self.env_num)):
                        self._step_all(record, None, random, render)
                    record.read()
        self.tensor_env.check_final()
        if n_episode is not None:
            self.reset_env(gym_reset_kwargs)
        return self._stats(record.steps, record.returns, record.lens, time.perf_counter() - begin)

    def _collect_episodes(self, count: int, record: "_Record", random: bool, render: float | None) -> None:
        """Finish ``count`` episodes, shared among the first environments."""
        used = min(count, self.env_num)
        share = np.where(self._all < used, count // used + (self._all < count % used), 0)
        left = to_device(share, self._device)
        while record.episodes < count:
            for _ in range(LOOK_EVERY):
                left = left - self._step_all(record, left > 0, random, render).long()
            record.read()

    def _step_all(self, record: "_Record", wanted: Tensor | None, random: bool, render: float | None) -> Tensor:
        """One step of all environments, stored where it is ``wanted``, (N,); None: everywhere.

        :return: (N,) bool, which episodes have ended.
        """
        ready = self._started()
        frame, action = self._choose(ready, random)
        step = self.tensor_env.step(action)
        obs_next = _as_batch(step.obs_next)
        frame["rew"], frame["terminated"], frame["truncated"] = step.rew, step.terminated, step.truncated
        frame["obs_next"] = obs_next
        kept = step.stored if wanted is None else wanted if step.stored is None else wanted & step.stored
        ids = None if self._buffer._rings.n == self.env_num else self._all
        _, ep_rew, ep_len, _ = self._buffer.add_step(Batch.wrap(frame), kept, ids)
        done = step.terminated | step.truncated
        ended = done if kept is None else done & kept
        finite = self._are_finite(obs_next, step.rew, frame["act"]) if self.check_finite else None
        record.note(kept, ended, ep_rew, ep_len, finite)
        state = frame["policy"].get("hidden_state")
        if state is not None:
            state = _zeroed(state, done if step.stored is None else done | ~step.stored)
        self._tell_noise(step, done)
        self._ready = Ready(ready.ids, _as_batch(step.obs), ready.info, state)
        if render:
            self.env.render()
            time.sleep(render)
        return ended

    def _choose(self, ready: Ready, random: bool) -> tuple[dict[str, Any], Any]:
        """What is known of this step so far (obs, act, policy), and the action for the environments."""
        if random:
            action = self.tensor_env.sample_actions(self.env_num)
            raw = self.policy.map_action_inverse(action)
            frame = {"obs": ready.obs, "act": to_device(raw, self._device), "policy": Batch.wrap({})}
            return frame, to_device(action, self._device)
        batch = Batch.wrap({"obs": ready.obs, "info": ready.info})
        result = self.policy(batch, ready.state)
        act = to_device(result.act, self._device)
        if self.exploration_noise:
            act = self.policy.exploration_noise(act, batch)
        extra = result.get("policy", None)
        extra = Batch.wrap({}) if extra is None else extra
        state = result.get("state", None)
        if state is not None:
            extra.hidden_state = state
        return {"obs": ready.obs, "act": act, "policy": extra}, self._map_action(act)

    def _map_action(self, act: Tensor) -> Tensor:
        own: Callable[[Tensor], Tensor] | None = getattr(self.policy, "map_tensor_action", None)
        return to_device(self.policy.map_action(act), self._device) if own is None else own(act)

    def _tell_noise(self, step: TensorStep, done: Tensor) -> None:
        """Tell noise with a memory which rows of the action batch begin anew."""
        if self.exploration_noise:
            begins = done if step.stored is None else ~step.stored
            self._restart_noise(begins)  # type: ignore[arg-type]  # flags in the place of rows

    @staticmethod
    def _are_finite(obs: Any, *values: Tensor) -> Tensor:
        """(N,) whether all numbers of an environment are finite."""
        columns = [*_tensors(obs), *values]
        flags = [torch.isfinite(c).reshape(len(c), -1).all(1) for c in columns if c.is_floating_point()]
        return torch.stack(flags).all(0)

    def raise_not_finite(self, env: int, step: int) -> None:
        """Say where something is not finite."""
        raise NonFinite(
            f"an observation, reward or action of environment {env} is not finite at step "
            f"{self.collect_step + step * self.env_num}. The step has been stored; Collector(..., check_finite=False) "
            "switches the check off"
        )


class _Record:
    """What the steps of a collect have brought, kept on the device until it is read.

    :param collector: whose steps they are.
    """

    def __init__(self, collector: TensorCollector) -> None:
        self.collector = collector
        self.steps = self.episodes = 0
        self.returns: list[np.ndarray] = []
        self.lens: list[np.ndarray] = []
        self._looked_at = 0
        self._rows: list[Tensor] = []

    def note(self, kept: Tensor | None, ended: Tensor, ep_rew: Tensor, ep_len: Tensor, finite: Tensor | None) -> None:
        """Keep one step, all (N,), ``ep_rew`` also (N, agents)."""
        everywhere = torch.ones_like(ended)
        flags = (everywhere if kept is None else kept, ended, everywhere if finite is None else finite, ep_len)
        columns = [column.to(ep_rew.dtype) for column in flags]
        self._rows.append(torch.stack([*columns, *ep_rew.reshape(len(ep_rew), -1).T]))
        self._is_vector = ep_rew.dim() > 1

    def read(self) -> None:
        """Bring what was noted to the host, which waits for the device here.

        :raises NonFinite: something was not finite.
        """
        table = torch.stack(self._rows).cpu().numpy()  # (steps, columns, N)
        kept, ended, finite = (table[:, i] != 0 for i in range(3))
        bad = np.argwhere(kept & ~finite)
        if len(bad):
            self.collector.raise_not_finite(int(bad[0, 1]), self._looked_at + int(bad[0, 0]))
        self._rows, self._looked_at = [], self._looked_at + len(table)
        self.steps += int(kept.sum())
        if ended.any():
            self.episodes += int(ended.sum())
            self.lens.append(table[:, 3][ended].astype(np.int64))
            returns = np.moveaxis(table[:, 4:], 1, -1)[ended].astype(np.float64)  # (episodes, agents or 1)
            self.returns.append(returns if self._is_vector else returns[:, 0])


def _device_of(policy: Any) -> torch.device | None:
    """Where a policy's parameters are; None without any."""
    parameters = getattr(policy, "parameters", None)
    first = None if parameters is None else next(iter(parameters()), None)
    return None if first is None else first.device


def _as_batch(obs: Any) -> Any:
    return Batch(obs) if isinstance(obs, dict) else obs


def _tensors(tree: Any) -> list[Tensor]:
    """The tensors of an observation."""
    if isinstance(tree, Batch):
        return [tensor for value in tree.__dict__.values() for tensor in _tensors(value)]
    return [tree]


def _zeroed(state: Any, rows: Tensor) -> Any:
    """A recurrent state with zeros in the rows (N,) flagged."""
    if isinstance(state, Tensor):
        return torch.where(rows.view(-1, *[1] * (state.dim() - 1)), torch.zeros_like(state), state)
    if isinstance(state, Batch):
        return Batch.wrap({key: _zeroed(inner, rows) for key, inner in state.__dict__.items()})
    if isinstance(state, dict):
        return type(state)({key: _zeroed(inner, rows) for key, inner in state.items()})
    return type(state)(_zeroed(inner, rows) for inner in state) if isinstance(state, tuple | list) else state
