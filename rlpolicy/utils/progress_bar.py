"""The progress bar of the trainers."""

import sys
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from tqdm.auto import tqdm

tqdm_config: dict[str, Any] = {"dynamic_ncols": True, "ascii": True}
"""Options that every bar is made with."""


class DummyTqdm:
    """Takes the place of a tqdm bar and shows nothing."""

    def __init__(self, total: int | None = None, **kwargs: Any) -> None:
        self.total = total
        self.n = kwargs.get("initial", 0)

    def set_postfix(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def set_description(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def update(self, n: int = 1) -> None:
        """Count ``n`` further steps."""
        self.n += n

    def refresh(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def progress_bar(total: int, desc: str = "", show: bool | None = None, **kwargs: Any) -> "tqdm[Any] | DummyTqdm":
    """A bar over ``total`` steps, usable as a context manager.

    :param desc: text in front of the bar.
    :param show: True: always; False: never; None: when there is a terminal or a notebook to show it in.
    :param kwargs: further options of tqdm.
    """
    if show is None:
        show = sys.stderr.isatty() or _in_notebook()
    if not show:
        return DummyTqdm(total=total, **kwargs)
    from tqdm.auto import tqdm  # only here: a bar that is not shown should cost neither time nor memory

    return tqdm(total=total, desc=desc, **{**tqdm_config, **kwargs})


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from tqdm.auto import tqdm

    return any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
