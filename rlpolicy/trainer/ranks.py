"""What a trainer shares with those of other ranks, so that all of them go through the same steps."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rlpolicy.data.collector import Collector
from rlpolicy.data.stats import CollectStats
from rlpolicy.policy.base import BasePolicy
from rlpolicy.policy.observations import ObsStatistics
from rlpolicy.seeding import seed_everything
from rlpolicy.trainer.utils import seed_collector
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.optim import optimizers_of
from rlpolicy.utils.ranks import Ranks, ranks
from rlpolicy.utils.statistics import RewardScaler, RunningMeanStd

if TYPE_CHECKING:
    from rlpolicy.trainer.base import BaseTrainer

DRIFT = 1e-4
"""How far the weights of two ranks may be apart, relative to their size: rounding is far below."""


def share_policy(policy: BasePolicy[Any]) -> None:
    """Give all ranks the weights of rank 0, and the state of its optimisers; nothing without ranks.

    Noise, generators and what belongs to a rank's own buffer stay.

    :raises ValueError: the ranks have built different policies.
    """
    group = ranks()
    if group is None:
        return
    from rlpolicy.policy.bundle import EXTRA

    networks = {name: x.detach().clone() for name, x in policy.state_dict().items() if not name.endswith(EXTRA)}
    optims = [optim.state_dict() if optim.state else None for optim in optimizers_of(policy)]
    form = {name: (str(value.dtype), tuple(value.shape)) for name, value in networks.items()}
    main, *others = group.gather(form)
    for rank, other in enumerate(others, 1):
        if other != main:
            name = next(name for name in {**main, **other} if main.get(name) != other.get(name))
            raise InvalidArgument(
                f"rank {rank} has built another policy than rank 0: {name} is {other.get(name)} there and "
                f"{main.get(name)} on rank 0. All ranks run the same script"
            )
    group.broadcast_tensors(list(networks.values()))
    policy.load_state_dict(networks, strict=False)
    for optim, state in zip(optimizers_of(policy), group.broadcast(optims), strict=True):
        if group.rank and state is not None:
            optim.load_state_dict(state)


def seed_newcomer(trainer: "BaseTrainer") -> None:
    """A rank that joins a run which was saved by fewer: its generators and environments begin anew."""
    for part in trainer.policy.modules():
        if isinstance(part, ObsStatistics):
            part.forget()
    if trainer.seed is None:
        return
    seeds = seed_everything(trainer.seed)
    trainer.policy.seed(seeds.one("policy"))
    for name, collector in trainer._collectors().items():
        seed_collector(collector, seeds, name)


def check_drift(policy: BasePolicy[Any]) -> None:
    """The weights of all ranks are the same: each step averages the gradients.

    :raises RuntimeError: they are not, because something was trained past :func:`~rlpolicy.utils.optim.descend`.
    """
    group = ranks()
    if group is None:
        return
    params = [p.detach() for p in policy.parameters()]
    sizes = group.table([float(p.double().norm()) for p in params])
    if not np.allclose(sizes, sizes[0], rtol=DRIFT, atol=1e-8, equal_nan=True):
        bad = int(np.argmax(np.abs(sizes - sizes[0]).max(axis=0)))
        name = [name for name, _ in policy.named_parameters()][bad]
        raise RuntimeError(
            f"the ranks have drifted apart: {name} has the norms {sizes[:, bad].tolist()}. Steps of optimisers must "
            "be made by rlpolicy.utils.optim.descend, which averages gradients, and equally often on all ranks"
        )


class Joined:
    """Makes of the collects of all ranks one, and of their running statistics.

    :param group: the ranks.
    :param policy: whose batch normalisations have running means.
    :param collector: whose environments or reward shaper may have statistics.
    """

    def __init__(self, group: Ranks, policy: BasePolicy[Any], collector: Collector | None) -> None:
        self.group, self.collector = group, collector
        self._norms: list[Any] = [part for part in policy.modules() if part._buffers.get("running_mean") is not None]
        self._moments = [] if collector is None else _running_statistics(collector)
        for moments in self._moments:
            write_moments(moments, group.broadcast(read_moments(moments)))
        self._known = [read_moments(moments) for moments in self._moments]
        """What all ranks had in common after the last collect."""

    def agree_to_stop(self, wish: str) -> str:
        """Why training is to end, if one of the ranks wants that.

        :param wish: this one's reason; empty for none.
        """
        is_wanted = self.group.table([bool(wish)]).any()
        return self._first(wish) if is_wanted else ""

    def _first(self, wish: str) -> str:
        return next(reason for reason in self.group.gather(wish) if reason)

    def collect(self, stats: CollectStats, wish: str) -> tuple[CollectStats, str]:
        """The collects of all ranks as if it were one, and a reason to stop: the same on all ranks.

        The collector's counters take in what others have collected.

        :param wish: as for :meth:`agree_to_stop`.
        """
        own = [stats.n_collected_steps, stats.n_collected_episodes, stats.n_env_restarts, bool(wish)]
        table = self.group.table(own)
        steps, episodes, restarts = (int(total) for total in table[:, :3].sum(axis=0))
        joined = CollectStats(n_collected_steps=steps, n_collected_episodes=episodes, n_env_restarts=restarts)
        if episodes:
            parts = self.group.gather((stats.returns, stats.lens, stats.agent_returns))
            with_any = [part for part in parts if len(part[1])]
            joined.returns, joined.lens = (np.concatenate([part[i] for part in with_any]) for i in (0, 1))
            if all(part[2] is not None for part in with_any):
                joined.agent_returns = np.concatenate([part[2] for part in with_any])
            joined.refresh_all_sequence_stats()
        joined.set_collect_time(stats.collect_time)
        if self.collector is not None:
            self.collector.collect_step += steps - stats.n_collected_steps
            self.collector.collect_episode += episodes - stats.n_collected_episodes
        self._join_statistics()
        return joined, self._first(wish) if table[:, 3].any() else ""

    def _join_statistics(self) -> None:
        for i, moments in enumerate(self._moments):
            known = self._known[i]
            for new in self.group.gather(without(read_moments(moments), known)):
                known = merged(known, new)
            write_moments(moments, known)
            self._known[i] = known
        if self._norms:
            self._join_norms()

    def _join_norms(self) -> None:
        """Running means and variances of batch normalisations, of which each rank has seen as much."""
        # float64: a variance is the difference of what may be large squares
        means: list[Tensor] = [norm.running_mean.double() for norm in self._norms]
        variances: list[Tensor] = [norm.running_var.double() for norm in self._norms]
        with torch.no_grad():
            squares = [var + mean.square() for mean, var in zip(means, variances, strict=True)]
            self.group.average([*means, *squares])
            for norm, mean, square in zip(self._norms, means, squares, strict=True):
                norm.running_mean.copy_(mean)
                norm.running_var.copy_((square - mean.square()).clamp(min=0.0))


# -- statistics as (count, mean, M2) ----------------------------------------------------------------------------------

Moments = tuple[int, Any, Any]


def merged(a: Moments, b: Moments) -> Moments:
    """The statistics of two sets of data together (Chan, Golub, LeVeque, 1983)."""
    if not a[0] or not b[0]:
        return a if a[0] else b
    n = a[0] + b[0]
    delta = b[1] - a[1]
    return n, a[1] + delta * (b[0] / n), a[2] + b[2] + delta**2 * (a[0] * b[0] / n)


def without(total: Moments, a: Moments) -> Moments:
    """What ``a`` was merged with to give ``total``. Exact to rounding, in float64."""
    n = total[0] - a[0]
    if not a[0] or not n:
        return total if n else (0, a[1], a[2])
    mean = (total[1] * total[0] - a[1] * a[0]) / n
    m2 = np.maximum(total[2] - a[2] - (mean - a[1]) ** 2 * (a[0] * n / total[0]), 0.0)
    return n, mean, m2


def read_moments(statistics: RunningMeanStd | RewardScaler) -> Moments:
    """(count, mean, M2); of a reward scaler, which has only a mean of squares, M2 is 0."""
    if isinstance(statistics, RewardScaler):
        return statistics.count, statistics.mean_square, 0.0
    return statistics.count, np.array(statistics.mean), np.array(statistics.var) * statistics.count


def write_moments(statistics: RunningMeanStd | RewardScaler, moments: Moments) -> None:
    """Let them have these."""
    count, mean, m2 = moments
    if not count:  # what they answer before they have seen anything stays
        return
    statistics.count = count
    if isinstance(statistics, RewardScaler):
        statistics.mean_square = float(mean)
    else:
        statistics.mean, statistics.var = np.array(mean), np.array(m2) / count


def _running_statistics(collector: Collector) -> list[Any]:
    """Those of the environments' wrappers and of the reward shaper that are still moving."""
    found: list[Any] = []
    env: Any = collector.env
    while env is not None:
        if isinstance(vars(env).get("obs_rms"), RunningMeanStd) and env.update_obs_rms:
            found.append(env.obs_rms)
        env = vars(env).get("venv")
    shaper = getattr(collector._shaped, "shaper", None)
    if isinstance(shaper, RewardScaler) and not shaper.frozen:
        found.append(shaper)
    return found
