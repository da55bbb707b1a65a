"""Ctrl-C and the signal with which machines are taken away end a run in order."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

DEFAULTS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""Signals that are handled, where nobody else does: what Python does with them of itself."""


@contextmanager
def stop_on_signals(stop: Callable[[str], None]) -> Iterator[None]:
    """Call ``stop`` with the name of the first SIGINT or SIGTERM while the block runs; a SIGINT after it ends at once.

    Only the main thread gets signals: elsewhere nothing changes, nor for a signal that the program handles itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    has_asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal has_asked
        if has_asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not has_asked:
            has_asked = True
            name = signal.Signals(number).name
            stop(name)
            os.write(2, f"\n{name}: the run ends after this step; Ctrl-C ends it at once\n".encode())

    before = {number: signal.signal(number, handle) for number in DEFAULTS if _is_default(number)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_default(number: signal.Signals) -> bool:
    return signal.getsignal(number) == DEFAULTS[number]
