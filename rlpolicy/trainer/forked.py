"""The collecting side of ``async_collection`` in a process of its own."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import torch

from rlpolicy.data.collector import Collector
from rlpolicy.data.staging import Aborted, Kept, packed, unpacked
from rlpolicy.data.stats import CollectStats
from rlpolicy.env.dummy_venv import DummyVectorEnv
from rlpolicy.env.worker.failures import exit_words
from rlpolicy.env.worker.server import PARENT_ENDS, dumps
from rlpolicy.policy.base import BasePolicy
from rlpolicy.seeding import global_state, seed_everything, set_global_state

if TYPE_CHECKING:
    from rlpolicy.trainer.ahead import Orders, Station

_GRACE = 5.0
"""Seconds that the process gets to end by itself."""


class CollectError(RuntimeError):
    """The cause of an error that was raised in the collecting process: its traceback there."""


def why_not_forked(policy: BasePolicy[Any], collector: Collector) -> str:
    """Why a fork of this process cannot collect in the place of this one; empty if it can."""
    if sys.platform != "linux":
        return f"{sys.platform} cannot fork a process that uses threads"
    if type(collector.env) is not DummyVectorEnv or collector._is_async:
        return f"the environments of a {type(collector.env).__name__} are not in this process, or share something"
    if collector.preprocess_fn is not None:
        return "preprocess_fn would change nothing in this process"
    if any(not tensor.is_cpu for tensor in (*policy.parameters(), *policy.buffers())):
        return "the policy is not on the CPU"
    return ""


class Forked:
    """A :class:`~rlpolicy.trainer.ahead.Station` that was moved into a fork of this process.

    :param generators: where its global generators shall stand; None: they get a seed from torch's.
    """

    def __init__(self, station: "Station", generators: dict[str, Any] | None) -> None:
        context: Any = multiprocessing.get_context("fork")
        self._conn, child = context.Pipe()
        PARENT_ENDS.add(self._conn)
        seed = int(torch.randint(2**31, ())) if generators is None else 0
        self.process = context.Process(
            target=_serve, args=(child, station, seed, generators), name="rlpolicy-collects", daemon=True
        )
        self._owner = os.getpid()
        self.process.start()
        child.close()

    def start(self, orders: "Orders", thread: ThreadPoolExecutor) -> Future[tuple[CollectStats, Kept]]:
        """See :meth:`~rlpolicy.trainer.ahead.Station.start`.

        The process goes from one collect to the next without waiting for this one; the thread takes what it sends.
        """
        self._send("collect", orders)
        return thread.submit(self._collected)

    def _collected(self) -> tuple[CollectStats, Kept]:
        stats, sent = self._receive()
        return stats, unpacked(sent)

    def report(self) -> Any:
        """See :meth:`~rlpolicy.trainer.ahead.Station.report`."""
        return self._call("report")

    def global_state(self) -> Any:
        """Where its global generators stand."""
        return self._call("global_state")

    def interrupt(self) -> None:
        """End the collect that is running."""
        if self.process.is_alive():
            os.kill(self.process.pid, signal.SIGUSR1)

    def rest(self) -> Kept:
        """What a collect that has failed leaves; nothing, if the process has ended."""
        with contextlib.suppress(RuntimeError):
            if self.process.is_alive():
                return self._call("rest")  # type: ignore[no-any-return]
        return []

    def _call(self, name: str, *args: Any) -> Any:
        self._send(name, *args)
        return self._receive()

    def _send(self, name: str, *args: Any) -> None:
        with contextlib.suppress(OSError):  # the process is gone: _receive() will tell
            self._conn.send_bytes(pickle.dumps((name, args), pickle.HIGHEST_PROTOCOL))

    def _receive(self) -> Any:
        try:
            is_well, value = pickle.loads(self._conn.recv_bytes())
        except (EOFError, OSError):
            raise self._death() from None
        if is_well:
            return value
        pickled, text, trace = value
        error = _unpickled(pickled) or RuntimeError(text)
        raise error from CollectError(f"in the collecting process:\n{trace}")

    def _death(self) -> RuntimeError:
        self.process.join(_GRACE)
        return RuntimeError(f"the collecting process has died ({exit_words(self.process.exitcode)})")

    def end(self) -> None:
        """End the process; may be called again."""
        if os.getpid() != self._owner:  # a forked child has inherited the object, not the process
            return
        self._conn.close()  # which it sees when it looks for the next request
        self.process.join(_GRACE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(_GRACE)


def _serve(conn: "Connection[Any, Any]", station: "Station", seed: int, generators: dict[str, Any] | None) -> None:
    """Main function of the process: answer until the parent has closed its end, or is gone."""
    for end in list(PARENT_ENDS):
        end.close()
    # Ctrl-C is for the parent; its own handlers, which were inherited, are not for here
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, lambda *_: station.interrupt())
    torch.set_num_threads(1)  # those of the parent do not exist here
    if generators is None:
        seed_everything(seed)
    else:
        set_global_state(generators)
    with contextlib.suppress(EOFError, OSError):
        while True:
            name, args = pickle.loads(conn.recv_bytes())
            try:
                reply = dumps((True, _answer(station, name, *args)))
            except BaseException as error:
                reply = dumps((False, _sent(error)))
            conn.send_bytes(reply)


def _answer(station: "Station", name: str, *args: Any) -> Any:
    if name == "global_state":
        return global_state()
    if name == "collect":
        stats, kept = station.collect(*args)
        return stats, packed(kept)
    return getattr(station, name)(*args)


def _sent(error: BaseException) -> tuple[bytes | None, str, str]:
    """An exception as it can be sent: pickled, if it can be; as text; its traceback."""
    pickled = None
    with contextlib.suppress(Exception):
        pickled = pickle.dumps(error)
    return pickled, f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))


def _unpickled(pickled: bytes | None) -> BaseException | None:
    with contextlib.suppress(Exception):
        if pickled is not None:
            error = pickle.loads(pickled)
            return error if isinstance(error, Exception | Aborted) else None
    return None
