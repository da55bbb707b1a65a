"""When a process dies the others say which one, and why."""

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

PATIENCE = 5.0
"""Seconds in which a process that has died has said why, if it ever will."""
POLL = 0.05


class RankDied(RuntimeError):
    """Another process of this run has ended; the message says which one, and its error."""


class Deaths:
    """Notes of the ranks about their ends, in the store that torchrun keeps for them.

    A process that ends by an exception writes down the exception first, and then breaks its connections, by which the
    others notice. One that is killed writes nothing: it is the one that does not answer.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.places = ["?"] * self.size
        """Machine and process of each rank."""
        self._store: Any = dist.PrefixStore("rlpolicy/deaths", _get_default_store())  # type: ignore[attr-defined]  # not in its __all__
        self._before: Callable[..., Any] = sys.excepthook
        sys.excepthook = self._on_exception

    @contextmanager
    def named(self) -> Iterator[None]:
        """Around waiting for others: an error of the connection becomes one that names who has died.

        :raises RankDied: one of the others is gone.
        """
        try:
            yield
        except (RuntimeError, dist.DistBackendError) as error:
            if isinstance(error, RankDied):
                raise
            raise RankDied(self._who(error)) from error

    def _who(self, error: Exception) -> str:
        """What is known of those that have ended."""
        with contextlib.suppress(Exception):
            self._store.set(f"alive/{self.rank}", "waiting in vain")
        others = [rank for rank in range(self.size) if rank != self.rank]
        found: dict[int, str] = {}
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not found:
            try:
                found = {rank: self._store.get(f"cause/{rank}").decode() for rank in others if self._has("cause", rank)}
            except Exception:
                return f"rank 0 ({self.places[0]}), which kept the notes of all, is gone: {_first_line(error)}"
            time.sleep(POLL)
        if not found:
            silent = [rank for rank in others if not self._has("alive", rank)]
            if silent and "timed out" in str(error).lower():  # they may as well be busy
                places = ", ".join(f"rank {rank} ({self.places[rank]})" for rank in silent)
                return f"{places}: no answer within the timeout of rlpolicy.distributed.init(): {_first_line(error)}"
            found = dict.fromkeys(silent, "ended without a word, as a process that is killed does (out of memory?)")
        if not found:
            return f"the connection to the other ranks has failed: {_first_line(error)}"
        return "; ".join(f"rank {rank} ({self.places[rank]}) has died: {cause}" for rank, cause in found.items())

    def _has(self, kind: str, rank: int) -> bool:
        return bool(self._store.check([f"{kind}/{rank}"]))

    # -- the process that dies ----------------------------------------------------------------------------------------

    def _on_exception(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """An exception ends this process: note it, print it, and let the others go."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends all as soon as one has ended
        with contextlib.suppress(Exception):
            if not issubclass(kind, RankDied):
                self._note(kind, error, trace)
        self._before(kind, error, trace)
        sys.stderr.flush()
        with contextlib.suppress(Exception):
            self._tell_torchrun(error)
        with contextlib.suppress(Exception):
            dist.destroy_process_group()
        if not issubclass(kind, RankDied):
            self._linger()

    def _note(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        frames = traceback.extract_tb(trace)
        where = f" (in {os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
        self._store.set(f"cause/{self.rank}", f"{kind.__name__}: {error}{where}")

    def _linger(self) -> None:
        """Keep the notes readable, where this process keeps them, until the others have seen that it is gone."""
        if self.rank != 0 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            return
        end = time.monotonic() + PATIENCE
        with contextlib.suppress(Exception):
            while time.monotonic() < end and not all(self._has("alive", rank) for rank in range(1, self.size)):
                time.sleep(POLL)
            time.sleep(2 * POLL)

    @staticmethod
    def _tell_torchrun(error: BaseException) -> None:
        """Let torchrun's own summary name the error, too."""
        if "TORCHELASTIC_ERROR_FILE" in os.environ:
            from torch.distributed.elastic.multiprocessing.errors import get_error_handler

            try:
                raise error  # it writes down the traceback of what is being handled
            except BaseException:
                get_error_handler().record_exception(error)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
