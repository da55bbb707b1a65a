"""What runs in each worker of a :class:`~rlpolicy.distributed.ray_collector.RayCollector`."""

import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.data.staging import Staging, packed
from rlpolicy.data.stats import CollectStats
from rlpolicy.env.dummy_venv import DummyVectorEnv
from rlpolicy.env.worker.ray import import_ray
from rlpolicy.policy.acting import all_tensors, copy_tensors, policies_in, settable
from rlpolicy.policy.base import BasePolicy
from rlpolicy.seeding import seed_everything


@dataclass(frozen=True)
class Order:
    """What a worker is to do."""

    round: int
    """Number of the collector's ``collect`` that asks for it."""
    weights: int
    """Version of the weights to act with."""
    source: list[Any]
    """Where they lie in the object store; inside a list, so that they are fetched only by workers that lack them."""
    settings: list[dict[str, Any]]
    """Plain attributes of policies and noises that were set since the worker's policy was made."""
    training: bool
    random: bool
    n_step: int | None = None
    n_episode: int | None = None


class Block(NamedTuple):
    """What a worker has collected."""

    incarnation: str
    """Of the worker; Ray replaces one that has died."""
    round: int
    weights: int
    stats: CollectStats
    transitions: Any
    """See :func:`~rlpolicy.data.staging.packed`."""


class Worker:
    """Environments in one process, and a policy that acts in them.

    :param policy: a copy without optimisers.
    :param make_env: makes one environment.
    :param options: of the :class:`~rlpolicy.data.collector.Collector`.
    """

    def __init__(
        self, policy: BasePolicy[Any], make_env: Callable[[], Any], envs: int, options: dict[str, Any]
    ) -> None:
        torch.set_num_threads(1)
        self.incarnation = uuid.uuid4().hex
        self._policy, self._envs = policy, envs
        # torch's generator would begin alike in all processes, and anew after a death
        own = seed_everything(int.from_bytes(os.urandom(4), "big"))
        policy.seed(own.one("policy"))
        self._venv = DummyVectorEnv([make_env] * envs)
        self._collector = Collector(policy, self._venv, VectorReplayBuffer(envs, envs), **options)
        self._staging = Staging(self._collector.buffer)
        vars(self._collector)["_buffer"] = self._staging
        self._version = -1

    def spaces(self) -> tuple[list[Any], Any]:
        """The action spaces of the environments, and what they say of observations."""
        return list(self._venv.action_space), self._venv.get_env_attr("observation_space", 0)[0]

    def seed(self, seeds: Sequence[int | None]) -> None:
        """Seed the environments; all else that is random here follows from the first one."""
        self._collector.env.seed(list(seeds))
        if seeds[0] is None:
            return
        own = seed_everything(int(seeds[0]))
        self._policy.seed(own.one("policy"))
        for space, seed in zip(self._collector.env.action_space, own.many("action_spaces", self._envs), strict=True):
            space.seed(seed)

    def reset(self, kwargs: dict[str, Any] | None) -> None:
        """Begin new episodes."""
        self._collector._ready = None
        self._staging = Staging(VectorReplayBuffer(self._envs, self._envs))
        vars(self._collector)["_buffer"] = self._staging
        self._collector.reset_env(kwargs)

    def collect(self, order: Order) -> Block:
        """Follow an order."""
        self._follow(order)
        stats = self._collector.collect(n_step=order.n_step, n_episode=order.n_episode, random=order.random)
        return Block(self.incarnation, order.round, self._version, stats, packed(self._staging.take()))

    def _follow(self, order: Order) -> None:
        if order.weights != self._version:
            arrays = import_ray().get(order.source[0])
            copy_tensors([torch.tensor(array) for array in arrays], all_tensors(self._policy))
            self._version = order.weights
        for part, values in zip(settable(policies_in(self._policy)), order.settings, strict=False):
            vars(part).update(values)
        if self._policy.training != order.training:
            self._policy.train(order.training)

    def close(self) -> None:
        """End the environments."""
        self._collector.env.close()


def arrays_of(policy: BasePolicy[Any]) -> list[np.ndarray]:
    """The weights as they are sent: arrays in main memory."""
    tensors = [tensor.detach().cpu() for tensor in all_tensors(policy)]
    return [(tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy().copy() for tensor in tensors]


def same_arrays(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    """Whether all are equal, bit for bit."""
    return len(a) == len(b) and all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))
