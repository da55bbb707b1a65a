"""What a trainer does when a number is not finite: ``nan_policy``."""

import logging
from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from rlpolicy.data.stats import TrainingStats
from rlpolicy.policy.undo import Undo
from rlpolicy.trainer.post_mortem import Minibatch, bad_weights, findings, listed, write_post_mortem
from rlpolicy.utils import watch
from rlpolicy.utils.errors import InvalidArgument, NonFinite
from rlpolicy.utils.ranks import anywhere, size

if TYPE_CHECKING:
    from rlpolicy.trainer.base import BaseTrainer

NanPolicy: TypeAlias = Literal["raise", "skip", "stop"]
POLICIES = ("raise", "skip", "stop")
PATIENCE = 100
"""So many updates in a row may be skipped: more, and nothing is learned any more."""

logger = logging.getLogger(__name__)


class FiniteGuard(watch.Watch):
    """Looks at the numbers of a training run, and acts when one is NaN or infinite.

    With "raise" and "stop" it looks at the losses, which are numbers of python after every update, and, when an epoch
    ends or a checkpoint is due, at the weights: a gradient that is not finite shows in the next update. What has gone
    wrong, and where, is looked for when something is found. With "skip" it looks at loss and gradients before every
    step of an optimiser, and undoes the update.
    """

    def __init__(self, trainer: "BaseTrainer", nan_policy: NanPolicy) -> None:
        if nan_policy not in POLICIES:
            raise InvalidArgument(f"nan_policy must be one of {', '.join(POLICIES)}, got {nan_policy!r}")
        self.trainer, self.nan_policy = trainer, nan_policy
        self.sees_steps = nan_policy == "skip"
        self._undo = Undo(trainer.policy) if self.sees_steps else None
        self.reset()

    def reset(self) -> None:
        """A run begins."""
        self._minibatch: Minibatch | None = None
        self._in_a_row = 0
        self._has_written = self._is_half_done = False

    # -- updates ------------------------------------------------------------------------------------------------------

    def update(self, sample_size: int | None, buffer: Any, **kwargs: Any) -> TrainingStats | None:
        """``policy.update``; None when it came to nothing: it was skipped, or training is to stop.

        :raises NonFinite: as ``nan_policy`` says.
        """
        before = watch.begin(self)
        try:
            if self._undo is not None:
                self._undo.remember()
            stats: TrainingStats = self.trainer.policy.update(sample_size, buffer, **kwargs)
        except Exception as error:
            found = findings(self.trainer.policy, self._minibatch, buffer)
            is_skipped = self.sees_steps and isinstance(error, NonFinite)
            if (not found and not isinstance(error, NonFinite)) or (size() > 1 and not is_skipped):
                raise  # of several ranks, the others are waiting in the middle of this update
            self._act(str(error), found, error)
            return None
        finally:
            watch.begin(before)
        bad = [f"{name} is {value}" for name, value in stats.get_loss_stats_dict().items() if not _is_finite(value)]
        if anywhere(bool(bad)) if self.sees_steps else bad:
            self._act(" and ".join(bad), findings(self.trainer.policy, self._minibatch, buffer))
            return None
        self._minibatch, self._in_a_row = None, 0
        return stats

    def on_minibatch(self, batch: Any, indices: Any) -> None:
        """Keep it until the update is over."""
        self._minibatch = batch, indices

    def before_step(self, optims: Sequence[Optimizer], loss: Tensor) -> None:
        """With "skip": loss and gradients must be finite."""
        if not self.sees_steps:
            return
        params = (p for optim in optims for group in optim.param_groups for p in group["params"])
        grads = [p.grad for p in params if p.grad is not None]
        norms = torch._foreach_norm(grads) if grads else ()
        total = sum((norm.float() for norm in norms), loss.detach().float().sum())
        if not isfinite(total.item()):  # waits for the device, once
            value = loss.sum().item()
            raise NonFinite("a gradient is not finite" if isfinite(value) else f"a loss is {value}")

    def _act(self, what: str, found: dict[str, list[str]], cause: Exception | None = None) -> None:
        """What ``nan_policy`` says about an update."""
        trainer, minibatch = self.trainer, self._minibatch
        self._minibatch = None
        what = f"{what} in gradient step {trainer.gradient_step + 1} ({self._where()})"
        if self._undo is not None:
            self._undo.restore()
            trainer.skipped_updates += 1
            self._in_a_row += 1
            lost = bad_weights(trainer.policy)
            if not lost and self._in_a_row <= PATIENCE:
                if not self._has_written:  # once: thousands may follow
                    logger.warning("an update was skipped: %s", self._report(what, found, minibatch))
                return
            what += ", and the weights were not finite before" if lost else f", the {self._in_a_row}th in a row"
        report = self._report(what, found, minibatch)
        if self.nan_policy == "stop":
            logger.warning("training stops: %s", report)
            trainer.request_stop(what)
            return
        raise NonFinite(report) from cause

    def _report(self, what: str, found: dict[str, list[str]], minibatch: Minibatch | None) -> str:
        written = None if self._has_written else write_post_mortem(self.trainer, what, found, minibatch)
        self._has_written = True
        place = "" if written is None else f"  minibatch, weights and this text are in {written} (read_post_mortem)"
        return "\n".join(line for line in (what, listed(found), place) if line)

    def _where(self) -> str:
        return f"epoch {self.trainer.epoch}, environment step {self.trainer.env_step}"

    # -- collects and weights -----------------------------------------------------------------------------------------

    def collected(self, error: NonFinite) -> None:
        """The collector found an observation, reward or action that is not finite; nothing of that step was stored.

        :raises NonFinite: unless training is to stop.
        """
        what = f"{error} ({self._where()})"
        if size() > 1:
            raise NonFinite(what) from error  # the others wait for what was to be collected
        self._is_half_done = True  # environments have stepped, and nobody knows where to
        self._end(what, bad_weights(self.trainer.policy), error)

    def weights_are_fine(self) -> bool:
        """Whether all weights are finite; looked at now and then.

        :raises NonFinite: they are not, unless training is to stop.
        """
        bad = bad_weights(self.trainer.policy)
        if bad:
            self._end(f"weights are not finite after gradient step {self.trainer.gradient_step} ({self._where()})", bad)
        return not bad

    def may_save(self) -> bool:
        """Whether the run is fit to be saved; if not, the checkpoints that there are stay as they are.

        :raises NonFinite: weights are not finite, unless training is to stop.
        """
        fit = not self._is_half_done and self.weights_are_fine()
        if not fit:
            logger.warning("no checkpoint is made of numbers that are not finite; the last good one stays")
        return fit

    def _end(self, what: str, weights: list[str], cause: Exception | None = None) -> None:
        report = "\n".join(line for line in (what, listed({"weights": weights} if weights else {})) if line)
        if self.nan_policy != "stop":
            raise NonFinite(report) from cause
        logger.warning("training stops: %s", report)
        self.trainer.request_stop(what)


def _is_finite(value: Any) -> bool:
    try:
        return isfinite(value)
    except (TypeError, OverflowError):  # no number: arrays and the like are the policy's own affair
        return True
