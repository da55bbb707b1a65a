"""Helpers around the standard library's logging, whose names are available here as well."""

import argparse
import inspect
import logging as lg
import sys
from collections.abc import Callable
from datetime import datetime
from io import StringIO
from logging import *  # noqa: F403
from typing import Any, TypeVar, get_args

import numpy as np

LOG_DEFAULT_FORMAT = "%(levelname)-5s %(asctime)-15s %(name)s:%(funcName)s - %(message)s"

T = TypeVar("T")

_format = LOG_DEFAULT_FORMAT
_memory_stream: StringIO | None = None


def set_numerical_fields_to_precision(data: dict[str, Any], precision: int = 3) -> dict[str, Any]:
    """A copy of the dict with its numbers rounded to ``precision`` digits after the point; nested values stay."""
    return {
        name: round(value, precision) if isinstance(value, float | np.floating) else value
        for name, value in data.items()
    }


def datetime_tag() -> str:
    """The current local time as "YYYYMMDD-HHMMSS", for names of files and runs."""
    return datetime.now().strftime("%Y%m%d-%H%M%S")


def configure(format: str = LOG_DEFAULT_FORMAT, level: int = lg.DEBUG) -> None:
    """Send log messages from ``level`` on to the standard output, in place of the root logger's handlers."""
    global _format
    _format = format
    remove_log_handlers()
    lg.basicConfig(level=level, format=format, stream=sys.stdout)
    for chatty in ("matplotlib", "urllib3"):  # their debug messages drown everything else
        lg.getLogger(chatty).setLevel(lg.INFO)


def run_main(main_fn: Callable[[], T], format: str = LOG_DEFAULT_FORMAT, level: int = lg.DEBUG) -> T | None:
    """Configure logging and call ``main_fn``; an exception is logged and None returned."""
    return _run_logged(main_fn, format, level)


def run_cli(main_fn: Callable[..., T], format: str = LOG_DEFAULT_FORMAT, level: int = lg.DEBUG) -> T | None:
    """Like :func:`run_main`, with ``main_fn``'s arguments read from the command line: ``--name value``.

    Values are converted to the annotated type (int, float, str, bool, or one of these with None), and
    parameters without a default are required.
    """
    arguments = vars(_parser(main_fn).parse_args())
    return _run_logged(lambda: main_fn(**arguments), format, level)


def _run_logged(call: Callable[[], T], format: str, level: int) -> T | None:
    configure(format=format, level=level)
    log = lg.getLogger(__name__)
    log.info("Starting")
    try:
        result = call()
    except Exception as e:
        log.exception("Exception during execution: %s", e)
        return None
    log.info("Done")
    return result


def _parser(fn: Callable[..., Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=inspect.getdoc(fn))
    for name, param in inspect.signature(fn, eval_str=True).parameters.items():
        options: dict[str, Any] = {"required": True}
        if param.default is not inspect.Parameter.empty:
            options = {"default": param.default}
        kinds = [kind for kind in get_args(param.annotation) or (param.annotation,) if kind is not type(None)]
        if bool in kinds:
            options["type"] = _parse_bool
        elif kinds[0] in (int, float):
            options["type"] = kinds[0]
        parser.add_argument(f"--{name}", **options)
    return parser


def _parse_bool(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"expected true or false, got '{text}'")
    return known[text.lower()]


def is_log_handler_active(handler: lg.Handler) -> bool:
    """Whether the handler is attached to the root logger."""
    return handler in lg.getLogger().handlers


def remove_log_handler(handler: lg.Handler) -> None:
    """Detach the handler from the root logger; nothing happens when it is not attached."""
    lg.getLogger().removeHandler(handler)


def remove_log_handlers() -> None:
    """Detach every handler from the root logger."""
    root = lg.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)


def add_file_logger(path: str, register_atexit: bool = True) -> lg.FileHandler:
    """Write all log messages to a file as well.

    :param register_atexit: unused, kept for scripts that pass it; the file is closed by logging's own exit handler.
    """
    handler = lg.FileHandler(path)
    _attach(handler)
    return handler


class FileLoggerContext:
    """Writes the log messages of a ``with`` block to a file as well.

    :param enabled: False: do nothing.
    """

    def __init__(self, path: str, enabled: bool = True) -> None:
        self.path = path
        self.enabled = enabled
        self._handler: lg.FileHandler | None = None

    def __enter__(self) -> None:
        if self.enabled:
            self._handler = add_file_logger(self.path)

    def __exit__(self, *exc_info: object) -> None:
        if self._handler is not None:
            remove_log_handler(self._handler)
            self._handler.close()
            self._handler = None


def add_memory_logger() -> None:
    """Keep all log messages in memory as well, for :func:`get_memory_log`."""
    global _memory_stream
    _memory_stream = StringIO()
    _attach(lg.StreamHandler(_memory_stream))


def get_memory_log() -> str:
    """What the memory logger has kept; empty when there is none."""
    return _memory_stream.getvalue() if _memory_stream is not None else ""


def _attach(handler: lg.Handler) -> None:
    handler.setFormatter(lg.Formatter(_format))
    lg.getLogger().addHandler(handler)
