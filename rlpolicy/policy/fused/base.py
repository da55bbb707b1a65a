"""Updates on flat parameter vectors: what all algorithms share.

Shapes: B batch, O observation, A action, n actions.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.device import to_device
from rlpolicy.data.stats import TrainingStats
from rlpolicy.policy.returns import follow_steps
from rlpolicy.utils.fused.chain import Chain, NotAChain
from rlpolicy.utils.fused.flat import Flat, FlatAdam, why_not
from rlpolicy.utils.fused.graph import CudaTape, Replayed, Tape
from rlpolicy.utils.fused.mlp import Mlp
from rlpolicy.utils.fused.native import Kernels
from rlpolicy.utils.net.inputs import flat
from rlpolicy.utils.ranks import ranks
from rlpolicy.utils.watch import running

TAPES: dict[str, Callable[[torch.device], Tape]] = {"cuda": CudaTape}
"""What records updates, by the kind of device; on others they are computed as they are."""
Losses: TypeAlias = dict[str, Tensor | float]
"""By name; tensors of one number, where the networks are."""


class Minibatch(NamedTuple):
    """A minibatch as tensors of the networks' dtype and device; y = rew + factor V(obs_next)."""

    obs: Tensor
    """(B, O)"""
    act: Tensor
    """(B, A), or (B,) int64"""
    rew: Tensor
    """Sum of up to n discounted rewards, (B,)."""
    factor: Tensor
    """γ to the number of those rewards, 0 after termination, (B,)."""
    obs_next: Tensor
    """After the last of them, (B, O)."""
    weight: Tensor | None
    """Importance weights, (B,)."""


class Trained:
    """A vector of parameters and the Adam that trains it."""

    def __init__(self, name: str, flat: Flat, optim: Optimizer, kernels: Kernels | None) -> None:
        self.name, self.flat = name, flat
        self.adam = FlatAdam(optim, flat, kernels)
        self.old: Mlp | None = None

    @property
    def bound(self) -> bool:
        """Whether policy and optimiser still have the parameters and the state that are computed here."""
        return self.flat.bound and self.adam.bound and (self.old is None or self.old.flat.bound)

    def bind(self) -> None:
        """Take over what the policy and the optimiser have."""
        self.flat.bind()
        self.adam.bind()
        if self.old is not None:
            self.old.flat.bind()

    def state(self) -> dict[str, Tensor]:
        """Everything that an update changes."""
        changed = {"weights": self.flat.data, "exp_avg": self.adam.exp_avg, "exp_avg_sq": self.adam.exp_avg_sq}
        changed["steps"] = self.adam.steps
        if self.old is not None:
            changed["lagged weights"] = self.old.flat.data
        return {f"{self.name}: {what}": vector for what, vector in changed.items()}


class Learner(Trained):
    """A network that is a chain of layers, its Adam, and its lagged copy, if it has one.

    :raises ValueError: the network or the optimiser is of a kind that cannot be fused.
    """

    def __init__(
        self,
        name: str,
        chain: Callable[[Any], Chain],
        net: nn.Module,
        optim: Optimizer,
        old: nn.Module | None,
        kernels: Kernels | None,
    ) -> None:
        layers = chain(net)
        reason = why_not(optim, [owner[key] for owner, key in layers.places])
        if reason is not None:
            raise NotAChain(f"{name}: {reason}")
        self.net = Mlp(layers, kernels)
        super().__init__(name, self.net.flat, optim, kernels)
        if old is None:
            return
        lagged = chain(old)
        if not torch.equal(lagged.spec(), layers.spec()):
            raise NotAChain(f"{name}: its lagged copy has other layers")
        self.old = Mlp(lagged, kernels)

    @property
    def target(self) -> Mlp:
        """The network that values next states: the lagged copy, or the network itself without one."""
        return self.net if self.old is None else self.old

    def descend(self, d: Tensor, max_grad_norm: float | None, tau: float = 0.0) -> None:
        """One step from d, the gradient of the last forward pass's outputs, (B, U); the copy follows by τ."""
        self.net.backward(d, self.adam.grad)
        self.step(max_grad_norm, tau)

    def step(self, max_grad_norm: float | None, tau: float = 0.0) -> None:
        """One step from the gradient in ``adam.grad``; the copy follows by τ."""
        follower = None if self.old is None or tau == 0.0 else self.old.flat
        self.adam.step(follower, tau, max_grad_norm)


class FusedUpdate(ABC):
    """One algorithm's update without autograd, for one policy.

    Not part of copies or files of the policy: these are eager until their own ``compile()``.

    :raises ValueError: in the constructor, with the reason why the policy's networks or optimisers cannot be fused.
    """

    n_step = "estimation_step"
    """The policy's name for the n of its targets."""
    is_discrete = False
    """Whether actions are numbers of choices, whatever their dtype."""
    constants: tuple[str, ...] = ("tau", "max_grad_norm")
    """Names of the policy's numbers that :meth:`step` reads."""

    def __init__(self, policy: Any, trained: list[Trained]) -> None:
        self.policy, self.trained = policy, trained
        self.again: Callable[[], Any] = policy.compile
        """How the policy was compiled, for when it has become another one."""
        self._calls: list[tuple[nn.Module, Callable[..., Any]]] = []
        self._said: set[str] = set()
        self._parts = [
            (owner, name, part)
            for owner in (policy._modules, policy.__dict__)
            for name, part in owner.items()
            if isinstance(part, nn.Module | Optimizer)
        ]
        vectors = [part.flat.data for part in trained]
        vectors += [part.old.flat.data for part in trained if part.old is not None]
        self.dtype, self.device = vectors[0].dtype, vectors[0].device
        self._on_host = self.device.type == "cpu"
        self._numpy_dtype = np.float32 if self.dtype is torch.float32 else np.float64
        params = [id(p) for part in trained for p in part.flat.params]
        if len(set(params)) < len(params):
            raise NotAChain("two networks share parameters")
        if any((vector.device, vector.dtype) != (self.device, self.dtype) for vector in vectors):
            raise NotAChain("the networks are not all on one device and of one dtype")
        self._replayed: Replayed | None = None
        if (tape := TAPES.get(self.device.type)) is not None:
            self.record(partial(tape, self.device))

    def __deepcopy__(self, memo: Any) -> None:
        return None

    def __reduce__(self) -> Any:
        return type(None), ()

    @abstractmethod
    def step(self, data: Minibatch) -> tuple[Losses, Tensor]:
        """Update everything as the policy's ``process_fn`` and ``learn`` would: losses, and the TD errors (B,).

        Nothing here waits for the device, nor counts on the host: it may be recorded, see :meth:`record`.
        """

    @abstractmethod
    def finish(self, losses: Losses) -> TrainingStats:
        """What is left to do on the host after each update: counters and stats."""

    def turn(self) -> bool:
        """Of algorithms with two kinds of updates: which is next."""
        return False

    def numbers(self) -> tuple[Any, ...]:
        """All of the host that decides what :meth:`step` does: other numbers need another recording."""
        return self.turn(), *(getattr(self.policy, name) for name in self.constants)

    def record(self, tape: Callable[[], Tape]) -> None:
        """From now on, record :meth:`step` once for each kind of update and minibatch, and replay it."""

        def step(*data: Tensor) -> tuple[Losses, Tensor]:
            return self.step(Minibatch(*data))

        self._replayed = Replayed(step, list(self.state().values()), tape)

    def takes(self, batch: Batch, kwargs: dict[str, Any]) -> bool:
        """Whether an update can be computed here; others are for the eager one, which is said once.

        A policy whose networks or optimisers are other ones by now is compiled again.
        """
        try:
            self.bind()
        except ValueError:
            self.again()
            return self.policy._compiled is not None and bool(self.policy._compiled.takes(batch, kwargs))
        if (watch := running()) is not None and watch.sees_steps:
            return self._leave("every step of an optimiser is watched, as nan_policy='skip' does")
        if kwargs:
            return self._leave(f"learn() is given {', '.join(kwargs)}")
        if not isinstance(batch.obs, np.ndarray | Tensor):
            return self._leave("observations are not plain arrays, but have keys or masks")
        return True

    def _leave(self, reason: str) -> bool:
        if reason not in self._said:
            self._said.add(reason)
            warnings.warn(f"an update of a compiled policy is eager: {reason}", UserWarning, stacklevel=4)
        return False

    def bind(self) -> None:
        """Take over parameters and optimiser states that were replaced since the last update.

        :raises ValueError: they cannot be, or whole networks or optimisers of the policy were replaced.
        """
        for owner, name, part in self._parts:
            if owner.get(name) is not part:
                raise ValueError("the policy has other networks or optimisers than before")
        for trained in self.trained:
            if not trained.bound:
                trained.bind()

    def __call__(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> TrainingStats:
        """In the place of ``process_fn`` and ``learn``; leaves the TD errors as ``batch.weight``."""
        with torch.no_grad():
            data = self._minibatch(batch, buffer, indices)
            if self._replayed is None or ranks() is not None:
                losses, batch.weight = self.step(data)
            else:
                kind = self.numbers(), *(part.adam.constants for part in self.trained)
                losses, td = self._replayed(kind, data)
                batch.weight = td.clone()
            return self.finish(losses)

    def _minibatch(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Minibatch:
        data = batch.__dict__
        obs_next = data["obs_next"]
        n_step = getattr(self.policy, self.n_step)
        if n_step == 1:
            rew, terminated = data["rew"], data["terminated"]
            if isinstance(terminated, Tensor):
                factor = self._tensor(~terminated) * self.policy.gamma
            else:
                factor = np.multiply(~np.asarray(terminated), self.policy.gamma, dtype=self._numpy_dtype)
        else:
            rew, factor, last = follow_steps(buffer, indices, self.policy.gamma, n_step)
            obs_next = buffer.get(last, "obs_next")
        weight = data.get("weight")
        return Minibatch(
            flat(self._tensor(data["obs"])),
            self._choices(data["act"]) if self.is_discrete else flat(self._tensor(data["act"])),
            self._tensor(rew),
            self._tensor(factor),
            flat(self._tensor(obs_next)),
            None if weight is None else self._tensor(weight),
        )

    def _choices(self, values: Any) -> Tensor:
        if type(values) is np.ndarray:
            values = torch.from_numpy(np.ascontiguousarray(values, np.int64))  # a tenth of torch's time
            return values if self._on_host else to_device(values, self.device)
        return torch.as_tensor(values, dtype=torch.int64, device=self.device)

    def _tensor(self, values: Any) -> Tensor:
        if type(values) is np.ndarray:  # numpy converts numbers in a third of torch's time
            values = torch.from_numpy(values if values.dtype == self._numpy_dtype else values.astype(self._numpy_dtype))
            return values if self._on_host else to_device(values, self.device)
        return torch.as_tensor(values, dtype=self.dtype, device=self.device)

    def speed_up(self, module: nn.Module, net: Mlp, finish: Callable[[Tensor], Any]) -> None:
        """Let calls of a module that record no gradients, as those of a collector, be computed by its flat twin.

        They are so from :meth:`begin_acting` until :meth:`stop_acting`. Copies and files of the module know nothing of
        it: this is torch's own place for a module's compiled call.

        :param finish: what the module returns besides the state, of the chain's output, (B, U), to be copied.
        """

        def call(obs: Any, state: Any = None, info: Any = None) -> Any:
            if torch.is_grad_enabled() or not isinstance(obs, np.ndarray | Tensor) or not net.flat.bound:
                return module._call_impl(obs, state=state, info=info)  # type: ignore[no-untyped-call]
            return finish(net(flat(self._tensor(obs)))), state

        self.take_calls(module, call)

    def take_calls(self, module: nn.Module, call: Callable[..., Any]) -> None:
        """Let ``call`` answer for a module, likewise."""
        self._calls.append((module, call))

    def begin_acting(self) -> None:
        """Put what :meth:`speed_up` has prepared to use."""
        for module, call in self._calls:
            module._compiled_call_impl = call

    def stop_acting(self) -> None:
        """Undo it, as for a wholly eager update: these, too, call networks without recording gradients."""
        for module, _ in self._calls:
            module._compiled_call_impl = None

    def release(self) -> None:
        """Leave the policy as it would be without; its parameters stay views."""
        self.stop_acting()
        for trained in self.trained:
            trained.adam.release()

    def exchange(self, state: dict[str, Tensor]) -> None:
        """Set everything that an update changes to copies of what :meth:`state` had given; these get what was here."""
        for name, vector in self.state().items():
            present = vector.clone()
            vector.copy_(state[name])
            state[name].copy_(present)

    def state(self) -> dict[str, Tensor]:
        """Everything that an update changes, by name."""
        return {name: vector for part in self.trained for name, vector in part.state().items()}
