"""Learning-rate schedulers beyond torch's: several as one, by environment steps, by the policy's KL divergence."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.ranks import ranks
from rlpolicy.utils.schedules import Schedule, as_schedule


class MultipleLRSchedulers:
    """Steps, saves and restores several schedulers together, for policies with more than one optimiser."""

    def __init__(self, *schedulers: "LRScheduler | ScheduledLR | KLAdaptiveLR") -> None:
        self.schedulers = schedulers

    @property
    def takes_kl(self) -> bool:
        """Whether one of them wants to know the KL divergence of an update."""
        return any(isinstance(scheduler, KLAdaptiveLR) for scheduler in self.schedulers)

    def step(self, kl: float | None = None) -> None:
        """Step every scheduler.

        :param kl: the update's KL divergence, for those that take it.
        """
        for scheduler in self.schedulers:
            if isinstance(scheduler, KLAdaptiveLR):
                scheduler.step(kl)
            else:
                scheduler.step()

    def step_to(self, env_step: int) -> None:
        """Tell those that follow environment steps how many there were."""
        for scheduler in self.schedulers:
            if isinstance(scheduler, ScheduledLR):
                scheduler.step_to(env_step)

    def state_dict(self) -> list[dict[str, Any]]:
        """The schedulers' states, in the order of construction."""
        return [scheduler.state_dict() for scheduler in self.schedulers]

    def load_state_dict(self, state_dict: list[dict[str, Any]]) -> None:
        """Restore what :meth:`state_dict` gave."""
        if len(state_dict) != len(self.schedulers):
            raise ValueError(f"got {len(state_dict)} states for {len(self.schedulers)} schedulers")
        for scheduler, state in zip(self.schedulers, state_dict, strict=True):
            scheduler.load_state_dict(state)


class ScheduledLR:
    """Sets a learning rate to what a schedule says for the number of environment steps.

    As a policy's ``lr_scheduler`` it is told that number by the trainer, before every collect (in a loop of one's own:
    ``policy.step_to(env_step)``).

    :param optim: all of its parameter groups get the same rate.
    :param schedule: learning rate as a function of env_step, such as those of :mod:`rlpolicy.utils.schedules`.
    """

    def __init__(self, optim: Optimizer, schedule: Schedule | float) -> None:
        self.optim, self.schedule = optim, as_schedule(schedule)
        self.env_step = 0
        self.step_to(0)

    def step_to(self, env_step: int) -> None:
        """Set the learning rate.

        :raises ValueError: the schedule gives a negative number, or none.
        """
        lr = float(self.schedule(env_step))
        if not 0.0 <= lr < math.inf:
            raise InvalidArgument(f"a learning rate must not be negative, the schedule gives {lr} at step {env_step}")
        self.env_step = env_step
        _set_lr(self.optim, lr)

    def step(self) -> None:
        """Nothing: the rate does not depend on the number of updates."""

    def state_dict(self) -> dict[str, Any]:
        """The number of environment steps."""
        return {"env_step": self.env_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.step_to(int(state_dict["env_step"]))


class KLAdaptiveLR:
    """Keeps the KL divergence between the policies before and after an update near a wanted size.

    Lowers the learning rate when an update changed the policy too much, raises it when too little, as in the adaptive
    KL penalty of Schulman et al., arXiv:1707.06347, section 4, but on the learning rate::

        kl > factor * target:  lr <- max(lr / lr_factor, min_lr)
        kl < target / factor:  lr <- min(lr * lr_factor, max_lr)

    As ``lr_scheduler`` of a policy whose training stats have a field ``kl`` (on-policy algorithms) it is stepped with
    that field after every update.

    :param optim: all of its parameter groups are changed by the same factor.
    :param kl_target: the wanted KL divergence per update, in nats.
    :param min_lr: smallest learning rate.
    :param max_lr: largest learning rate.
    :param kl_factor: how far the divergence may be from the target, above 1.
    :param lr_factor: by how much the learning rate changes, above 1.
    """

    takes_kl = True

    def __init__(
        self,
        optim: Optimizer,
        kl_target: float = 0.008,
        *,
        min_lr: float = 1e-6,
        max_lr: float = 1e-2,
        kl_factor: float = 2.0,
        lr_factor: float = 1.5,
    ) -> None:
        if not kl_target > 0:
            raise InvalidArgument(f"kl_target must be positive, got {kl_target}")
        if not 0 < min_lr <= max_lr:
            raise InvalidArgument(f"needs 0 < min_lr <= max_lr, got {min_lr} and {max_lr}")
        if not (kl_factor > 1 and lr_factor > 1):
            raise InvalidArgument(f"kl_factor and lr_factor must be above 1, got {kl_factor} and {lr_factor}")
        self.optim, self.kl_target, self.min_lr, self.max_lr = optim, kl_target, min_lr, max_lr
        self.kl_factor, self.lr_factor = kl_factor, lr_factor

    def step(self, kl: float | None = None) -> None:
        """React to one update.

        :param kl: its KL divergence; None: nothing happens. One that is not finite lowers the rate.
        """
        if kl is None:
            return
        for group in self.optim.param_groups:
            lr = float(group["lr"])
            if not kl <= self.kl_factor * self.kl_target:
                _set_group_lr(group, max(lr / self.lr_factor, self.min_lr))
            elif kl < self.kl_target / self.kl_factor:
                _set_group_lr(group, min(lr * self.lr_factor, self.max_lr))

    def state_dict(self) -> dict[str, Any]:
        """The learning rates, which an optimiser's own state holds as well."""
        return {"lr": [float(group["lr"]) for group in self.optim.param_groups]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        for group, lr in zip(self.optim.param_groups, state_dict["lr"], strict=True):
            _set_group_lr(group, lr)


AnyLRScheduler = LRScheduler | MultipleLRSchedulers | ScheduledLR | KLAdaptiveLR


def make_lr_schedulers(
    optims: Sequence[Optimizer],
    scheduler: type[Any] | Sequence[type[Any] | None],
    kwargs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
) -> MultipleLRSchedulers:
    """One scheduler per optimiser, e.g. of actor and critic, as a policy's ``lr_scheduler``.

    :param scheduler: a class, torch's or one of these, for all; or one per optimiser, None for none.
    :param kwargs: keyword arguments of the class, without the optimiser: for all, or one mapping per optimiser.
    """
    n = len(optims)
    kinds = list(scheduler) if isinstance(scheduler, Sequence) else [scheduler] * n
    options = [kwargs or {}] * n if kwargs is None or isinstance(kwargs, Mapping) else list(kwargs)
    if len(kinds) != n or len(options) != n:
        raise InvalidArgument(f"got {len(kinds)} schedulers and {len(options)} kwargs for {n} optimisers")
    return MultipleLRSchedulers(
        *(kind(optim, **given) for optim, kind, given in zip(optims, kinds, options, strict=True) if kind is not None)
    )


def step_after_update(scheduler: AnyLRScheduler, stats: Any) -> None:
    """Step a scheduler, with the KL divergence of the update if it takes that.

    :param stats: what the update returned.
    :raises ValueError: the scheduler takes a KL divergence and the stats have none.
    """
    if not isinstance(scheduler, KLAdaptiveLR | MultipleLRSchedulers) or not scheduler.takes_kl:
        scheduler.step()
    elif not hasattr(stats, "kl"):
        raise InvalidArgument(
            f"KLAdaptiveLR needs a policy whose training stats have a field kl, {type(stats).__name__} has none: take "
            "another scheduler"
        )
    else:
        group = ranks()
        scheduler.step(stats.kl if group is None else float(group.table([stats.kl]).mean()))


def _set_lr(optim: Optimizer, lr: float) -> None:
    for group in optim.param_groups:
        _set_group_lr(group, lr)


def _set_group_lr(group: dict[str, Any], lr: float) -> None:
    if isinstance(group["lr"], torch.Tensor):  # of optimisers inside a compiled or captured graph
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr
