"""Records what a function enqueues on a device, and enqueues it again: CUDA graphs.

A replay runs no Python. What is recorded therefore reads and writes the same memory each time, and numbers of the host
stay as they were. So a function that is recorded gets tensors, which are copied to where the recorded ones lie, and
numbers that change between calls are sent to tensors by actions that are put :func:`before_replay`.
"""

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

Function: TypeAlias = Callable[..., Any]
Inputs: TypeAlias = Sequence[Tensor | None]
MANY = 16
"""Kinds of calls that are recorded; a graph keeps its memory as long as it can be replayed."""

_ACTIONS: ContextVar[list[Callable[[], None]] | None] = ContextVar("actions before a replay", default=None)


def before_replay(action: Callable[[], None]) -> None:
    """Do something on the host, now; or, in a function that is being recorded, before each replay of it."""
    actions = _ACTIONS.get()
    if actions is None:
        action()
    else:
        actions.append(action)


@contextmanager
def _collecting() -> Iterator[list[Callable[[], None]]]:
    actions: list[Callable[[], None]] = []
    token = _ACTIONS.set(actions)
    try:
        yield actions
    finally:
        _ACTIONS.reset(token)


def send(numbers: Sequence[float], to: Tensor) -> None:
    """Write numbers of the host to a tensor, (n,), on any device, without waiting for it."""
    given = torch.tensor(numbers, dtype=to.dtype)
    to.copy_(given.pin_memory() if to.is_cuda else given, non_blocking=True)


class Tape(Protocol):
    """What can be recorded once, and replayed."""

    def rehearse(self, function: Callable[[], Any]) -> None:
        """Run it as it will be recorded, so that libraries can set themselves up, and leave generators as they were."""

    def record(self, function: Callable[[], Any]) -> Any:
        """Run its Python, and keep what that enqueues in place of doing it; returns tensors yet to be computed."""

    def replay(self) -> None:
        """Do what was recorded; random numbers are new ones."""


class CudaTape:
    """A CUDA graph.

    :param device: of all tensors.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.graph = torch.cuda.CUDAGraph()
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def rehearse(self, function: Callable[[], Any]) -> None:
        """See :class:`Tape`."""
        present = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(present)
        with torch.random.fork_rng([self.device]), torch.cuda.stream(self.stream):
            function()
        present.wait_stream(self.stream)

    def record(self, function: Callable[[], Any]) -> Any:
        """See :class:`Tape`; other threads may go on using the device meanwhile."""
        with (
            torch.cuda.device(self.device),
            torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"),
        ):
            return function()

    def replay(self) -> None:
        """See :class:`Tape`."""
        self.graph.replay()


class Recorded:
    """A function that has been recorded for inputs of one kind.

    :param inputs: examples; each call must give as many, of the same shapes and dtypes, None in the same places.
    :param state: all tensors that a call changes, and that outlast it. Recording leaves them as they are.
    """

    def __init__(self, function: Function, inputs: Inputs, state: Sequence[Tensor], tape: Tape) -> None:
        self._inputs = [None if given is None else given.clone() for given in inputs]
        self._tape = tape
        before = [tensor.clone() for tensor in state]
        with _collecting():
            try:
                tape.rehearse(lambda: function(*self._inputs))
            finally:
                for tensor, value in zip(state, before, strict=True):
                    tensor.copy_(value)
        with _collecting() as self._actions:
            self._outputs = tape.record(lambda: function(*self._inputs))

    def __call__(self, inputs: Inputs) -> Any:
        """Replay; what it returns lies where the next call will write."""
        for place, given in zip(self._inputs, inputs, strict=True):
            if place is not None and given is not None:
                place.copy_(given)
        for action in self._actions:
            action()
        self._tape.replay()
        return self._outputs


class Replayed:
    """A function of tensors on a device that is recorded at the first call of each kind, and replayed from then on.

    If it cannot be recorded it is called as it is, with a warning.

    :param state: see :class:`Recorded`.
    :param tape: makes a new one.
    """

    def __init__(self, function: Function, state: Sequence[Tensor], tape: Callable[[], Tape]) -> None:
        self._function, self._state, self._tape = function, state, tape
        self._recorded: dict[Hashable, Recorded] = {}
        self._may_record = True

    def __call__(self, kind: Hashable, inputs: Inputs) -> Any:
        """The function's result, which the next call may overwrite.

        :param kind: all numbers of the host that decide what the function does.
        """
        key = kind, tuple(None if given is None else (given.shape, given.dtype) for given in inputs)
        recorded = self._recorded.get(key)
        if recorded is None and self._may_record:
            recorded = self._record(key, inputs)
        return self._function(*inputs) if recorded is None else recorded(inputs)

    def _record(self, key: Hashable, inputs: Inputs) -> Recorded | None:
        try:
            if len(self._recorded) == MANY:
                raise RuntimeError(f"there are {MANY} already: do shapes or options change from one to the next?")
            self._recorded[key] = Recorded(self._function, inputs, self._state, self._tape())
        except RuntimeError as error:  # torch's and CUDA's errors are of this kind
            self._may_record = False
            warnings.warn(f"updates are not recorded as CUDA graphs from here on: {error}", UserWarning, stacklevel=5)
        return self._recorded.get(key)
