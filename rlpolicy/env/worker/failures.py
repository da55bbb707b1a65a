"""What goes wrong in a worker process, on its way to the parent."""

import contextlib
import faulthandler
import os
import pickle
import signal
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any


@dataclass
class Failure:
    """An exception of an environment, in a form that can be sent."""

    env_id: int
    pickled_type: bytes | None
    text: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException, env_id: int) -> "Failure":
        """What the worker sends."""
        try:
            pickled_type = pickle.dumps(type(error))
        except (pickle.PicklingError, AttributeError, TypeError):  # a local class
            pickled_type = None
        text = f"{type(error).__name__}: {error}"
        return cls(env_id, pickled_type, text, "".join(traceback.format_exception(error)))

    def exception(self) -> Exception:
        """An exception of the same type if it can be made from a message alone, otherwise a RuntimeError."""
        message = (
            f"environment {self.env_id} failed in its worker process: {self.text}\n"
            f"The worker's traceback:\n{self.traceback}"
        )
        if self.pickled_type is not None:
            with contextlib.suppress(Exception):
                error = pickle.loads(self.pickled_type)(message)
                if isinstance(error, Exception) and error.args == (message,):
                    return error
        return RuntimeError(message)


class Trace:
    """A pipe for what a worker cannot say in a reply: where it is when it crashes (SIGSEGV, ...), or hangs.

    The worker's faulthandler writes to it, from inside of a signal handler, whatever the interpreter is doing.
    """

    def __init__(self, context: Any) -> None:
        self.reader: Connection[Any, Any]
        self.writer: Connection[Any, Any]
        self.reader, self.writer = context.Pipe(duplex=False)

    def read(self, seconds: float = 0.0) -> str:
        """What has been written, as a sentence to append to a message; waits that long for it to begin."""
        written = b""
        with contextlib.suppress(OSError, EOFError):
            while self.reader.poll(seconds):
                chunk = os.read(self.reader.fileno(), 1 << 16)
                if not chunk:  # the worker is gone
                    break
                written += chunk
                seconds = 0.1
        text = _without_callers(written.decode(errors="replace").strip())
        return f"\nThe worker's traceback (latest call first):\n{text}" if text else ""

    def ask(self, pid: int | None) -> str:
        """Where a worker that hangs is, likewise; empty where there are no signals."""
        if pid is None or not _HAS_SIGNALS:
            return ""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
        return self.read(1.0)


def _without_callers(text: str) -> str:
    """A dump of faulthandler without those who called the worker: in a forked process the whole program."""
    lines, wanted = [], True
    for line in text.splitlines():
        wanted = wanted or not line.startswith("  ")
        if wanted:
            lines.append(line)
        wanted = wanted and not line.endswith("in serve_envs")
    return "\n".join(lines)


_HAS_SIGNALS = hasattr(faulthandler, "register")


def leave_traces(writer: "Connection[Any, Any]") -> None:
    """In the worker: write to this end of a :class:`Trace` on a crash, and when asked."""
    if _HAS_SIGNALS:
        os.set_blocking(writer.fileno(), False)  # a reader that is slow must not make a crash a hang
        faulthandler.enable(writer.fileno())
        faulthandler.register(signal.SIGUSR1, writer.fileno())


def exit_words(code: int | None) -> str:
    """How a process has ended: its exit code, with the name of the signal that ended it."""
    words = f"exit code {code}"
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            words += f", {signal.Signals(-code).name}"
    return words
