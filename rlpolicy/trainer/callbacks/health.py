"""Tells in plain words when a run that goes on is not well."""

import logging
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.stats import TrainingStats
from rlpolicy.policy.base import BasePolicy
from rlpolicy.policy.estimates import actions_at
from rlpolicy.policy.probe import evaluating
from rlpolicy.trainer.callbacks import health_probes as probes
from rlpolicy.trainer.callbacks.base import Callback
from rlpolicy.trainer.callbacks.health_ranges import ELSE, PATIENCE, RANGES, TOO_HIGH, TOO_LOW
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.optim import optimizers_of

if TYPE_CHECKING:
    from rlpolicy.trainer.base import BaseTrainer

MOVES = 100
"""A network, or its lagging copy, must have moved after so many updates."""
WINDOW = 2_000
"""Values and actions are looked at in the newest so many transitions."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HealthWarning:
    """Something left its healthy range."""

    figure: str
    """Its name, such as "saturation" or "dormant/critic"."""
    value: float
    """How much it was."""
    text: str
    """What that means, and what to do."""
    env_step: int
    """When: environment steps."""
    gradient_step: int
    """When: gradient steps."""


class HealthMonitor(Callback):
    """Looks at a sample of the updates of a run, and says in plain words, once, what is not well.

    It looks after updates 1, 2, 4, 8, ... and then every ``every_updates``. The run is not disturbed: weights and
    random numbers are the same as without it. Warnings go to the log of ``rlpolicy`` (``logging``) and to
    :attr:`warnings`; all figures to the trainer's logger, as "health/<figure>" with step type "health/gradient_step",
    and to :attr:`figures`.

    ========================  ==========================================================  ======================
    figure                    what                                                        healthy
    ========================  ==========================================================  ======================
    grad_norm/<net>           L2 norm of the gradient that the optimiser got              no range: scales differ
    grad_jump/<net>           the same over its median in earlier samples                 up to 1000
    update_ratio/<net>        L2 norm of one update over that of the weights [1]          6e-8 to 0.3
    q, observed               what critics say of recent steps; what then happened
    overestimation            their difference, over the largest return [2]               up to 1.2
    return_size               root mean square of observed discounted returns [3]         1e-4 to 1e4
    saturation                share of actions at a bound of a Box [4]                    up to 0.98
    dormant/<net>             share of hidden units that are silent [5]                   up to 0.6
    target_lag/<net>          distance of the lagging copy, over the network's norm       up to 1
    target_age/<net>          time since the copy moved, over the time in which it must   up to 2
    replay_ratio              gradient steps per environment step [6]                     0.001 to 32
    draws                     times that each transition is drawn for a minibatch         from 1
    replay_kept               replay ratio over the one that the trainer was asked for    0.75 to 1.33
    ========================  ==========================================================  ======================

    1. Customary is 1e-3 (Karpathy, CS231n notes, "ratio of weights:updates"). Adam's first steps are as large as the
       learning rate for each weight: 0.01 to 0.1. Below 6e-8 float32 rounds most of them away, and 0 is a network that
       does not learn. Delayed actors are followed until they move.
    2. Fujimoto et al., arXiv:1802.09477, fig. 1: critics of DDPG come to lie at up to twice the return. A critic
       that begins at 0 where all rewards are negative is at 1 until it has learned. Returns are observed over 100
       steps, see :func:`~rlpolicy.trainer.callbacks.health_probes.value_figures`. Underestimation is no fault: the
       smaller of two critics is meant to do so, and policies get better than their data.
    3. Networks begin near 0 and move by about the learning rate per step: they reach returns of 1e4 late, with
       gradients that are as large; below 1e-4 their noise at the beginning hides the reward (Henderson et al.,
       arXiv:1709.06560, "reward scale"; van Hasselt et al., arXiv:1602.07714).
    4. Where tanh is at its limit no gradient gets through, and the actor stays there. A good policy may be at the
       limits most of the time (bang-bang control), not always. Actions are those without exploration.
    5. Sokar et al., arXiv:2302.12902, with their τ = 0.025. Their DQN reaches 0.2 to 0.5 in long runs on Atari and
       loses the ability to learn; small ReLU networks start with up to 0.3.
    6. Fedus et al., arXiv:2007.06700 (0.25 by default); REDQ and DroQ go to 20 with networks made for it; from there on
       networks fit their first data too well (Nikishin et al., arXiv:2205.07802).

    Where figures may stray for a moment, ranges must be left in several samples in a row. Off-policy policies of
    rlpolicy give all figures. A policy of one's own has those of `critic` and `critic2` (obs, act), or of its method
    `action_values(buffer, rows)` -> (B,). Lagging copies are found by their name, "<net>_old"; hidden units by the
    activation modules of torch. If a policy cannot be asked for actions or values, that is logged once, and the other
    figures go on. The gradients of a compiled policy are those that its own Adam got.

    :param every_updates: updates between two samples.
    :param rows: transitions that values, actions and units are looked at with.
    :param ranges: other healthy ranges, by figure (without the network): ``{"dormant": (0.0, 0.8)}``.
    :raises ValueError: a number below 1; an unknown figure, or an empty range.
    """

    def __init__(
        self, every_updates: int = 200, rows: int = 128, ranges: Mapping[str, tuple[float, float]] | None = None
    ) -> None:
        if every_updates < 1 or rows < 1:
            raise InvalidArgument(f"every_updates and rows must be at least 1, got {every_updates} and {rows}")
        for figure, (low, high) in (ranges or {}).items():
            if figure not in RANGES or not low <= high:
                raise InvalidArgument(f"ranges are (low, high) of {', '.join(RANGES)}, got {figure}: {(low, high)}")
        self.every_updates, self.rows = every_updates, rows
        self.ranges = RANGES | dict(ranges or {})
        self._forget()

    def _forget(self) -> None:
        self.figures: dict[str, float] = {}
        """The newest of each figure."""
        self.warnings: list[HealthWarning] = []
        """All that was said so far."""
        self._outside: dict[str, int] = {}
        self._next = 1
        self._before: dict[str, tuple[list[Tensor], int]] = {}
        """Weights of networks as they were, and at which gradient step, until the network has moved."""
        self._moved: set[str] = set()
        self._grads: dict[str, deque[float]] = {}
        self._targets: dict[str, tuple[float, int]] = {}
        """Of lagging copies: a sum of their weights, and the gradient step since which it has been that."""
        self._counts: deque[tuple[int, int]] = deque()
        self._marks: deque[Any] = deque()
        self._rng = np.random.default_rng(0)
        self._cannot_ask = False

    # -- hooks --------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: "BaseTrainer") -> None:
        """Forget an earlier run, and keep the weights that the first update will change."""
        if not trainer.is_resumed:
            self._forget()
        self._keep_weights(trainer.policy, trainer.gradient_step)

    def on_update(self, trainer: "BaseTrainer", stats: TrainingStats) -> None:
        """Look, when it is time."""
        step = trainer.gradient_step
        if self._before:
            self._measure_steps(trainer.policy, step)
        if step < self._next:
            return
        self._next = step + self.every_updates if step >= self.every_updates else 2 * step
        self._sample(trainer, step)

    def _sample(self, trainer: "BaseTrainer", step: int) -> None:
        policy = trainer.policy
        nets = probes.trained_networks(policy)
        for name, net in nets.items():
            self._measure_gradient(name, net)
        self._measure_targets(policy, step)
        self._measure_replay(trainer, step)
        buffer = trainer.buffer if trainer.train_collector is None else trainer.train_collector.buffer
        if buffer is not None:
            rows = self._recent(buffer)
            if len(rows) and not self._cannot_ask:
                try:
                    self._measure_values(policy, buffer, rows, nets)
                except Exception as error:  # a policy of somebody's own; a monitor must not end the run
                    self._cannot_ask = True
                    logger.warning(
                        "health: actions and values of %s cannot be asked for: %r", type(policy).__name__, error
                    )
        self._keep_weights(policy, step)
        self._judge(trainer, step)
        trainer.logger.write("health/gradient_step", step, {f"health/{k}": v for k, v in self.figures.items()})

    # -- measuring ----------------------------------------------------------------------------------------------------

    def _keep_weights(self, policy: nn.Module, step: int) -> None:
        for name, net in probes.trained_networks(policy).items():
            if name not in self._before:
                self._before[name] = [p.clone() for p in probes.weights_of(net)], step

    def _measure_steps(self, policy: BasePolicy[Any], step: int) -> None:
        """How far the networks have moved, as soon as they have; 0 when they should have long ago."""
        nets = probes.trained_networks(policy)
        for name, (before, since) in list(self._before.items()):
            now = probes.weights_of(nets[name]) if name in nets else []
            if [p.shape for p in now] != [p.shape for p in before]:
                del self._before[name]
                continue
            moved = probes.distance(now, before)
            if moved != 0.0:
                self.figures[f"update_ratio/{name}"] = moved / probes.size(before)
                self._moved.add(name)
            elif step - since < MOVES:
                continue
            elif name not in self._moved or probes.learning_rate(optimizers_of(policy), nets[name]) > 0.0:
                self.figures[f"update_ratio/{name}"] = 0.0  # not where a schedule has ended at 0
            del self._before[name]

    def _measure_gradient(self, name: str, net: nn.Module) -> None:
        size = probes.gradient_norm(net)
        if size is None:
            return
        self.figures[f"grad_norm/{name}"] = size
        earlier = self._grads.setdefault(name, deque(maxlen=50))
        median = float(np.median(earlier)) if len(earlier) >= 5 else 0.0
        if median > 0.0:
            self.figures[f"grad_jump/{name}"] = size / median
        earlier.append(size)

    def _measure_targets(self, policy: BasePolicy[Any], step: int) -> None:
        for name, (owner, copy, net) in probes.lagged_networks(policy).items():
            ours, theirs = probes.weights_of(net), probes.weights_of(copy)
            lag = self.figures[f"target_lag/{name}"] = probes.distance(ours, theirs) / probes.size(ours)
            mark = float(sum(p.double().sum() for p in theirs))
            known, since = self._targets.get(name, (math.nan, step))
            if known != mark or lag == 0.0:
                since = step
            self._targets[name] = mark, since
            freq = getattr(owner, "freq", 0)
            wanted = freq if isinstance(freq, int) and 0 < freq <= 100 * MOVES else MOVES
            self.figures[f"target_age/{name}"] = (step - since) / max(wanted, self.every_updates)

    def _measure_replay(self, trainer: "BaseTrainer", step: int) -> None:
        if trainer.train_collector is None:
            return
        decisions = trainer.env_step // trainer.frame_skip
        self._counts.append((step, decisions))
        while len(self._counts) > 2 and decisions - self._counts[1][1] >= 1_000:
            self._counts.popleft()
        updates, steps = step - self._counts[0][0], decisions - self._counts[0][1]
        if steps < 1_000:
            return
        ratio = self.figures["replay_ratio"] = updates / steps
        if trainer.batch_size:
            length = getattr(trainer.policy, "sequence_length", 1)
            self.figures["draws"] = ratio * trainer.batch_size * length
        if trainer.gradient_steps_per_collect is None:
            self.figures["replay_kept"] = ratio / trainer.update_per_step
        elif trainer.step_per_collect is not None:
            self.figures["replay_kept"] = ratio * trainer.step_per_collect / trainer.gradient_steps_per_collect

    def _recent(self, buffer: ReplayBuffer) -> np.ndarray:
        """Some of the newest rows."""
        rows, mark = buffer.new_rows(self._marks[0] if self._marks else None)
        if not self._marks:
            self._marks.append(np.zeros_like(mark))
        self._marks.append(mark)
        while len(self._marks) > 2 and int((mark - self._marks[1]).sum()) >= WINDOW:
            self._marks.popleft()
        return self._rng.choice(rows, self.rows) if len(rows) else rows

    def _measure_values(
        self, policy: BasePolicy[Any], buffer: ReplayBuffer, rows: np.ndarray, nets: dict[str, nn.Module]
    ) -> None:
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
        with torch.random.fork_rng(devices=devices), evaluating(policy), probes.watching_activity(nets) as activity:
            with torch.enable_grad():  # else a compiled policy acts without its modules, and no unit is seen
                act = actions_at(policy, buffer, rows).act
            figures = probes.value_figures(policy, buffer, rows)
        saturation = probes.saturation(policy, act.detach() if isinstance(act, Tensor) else act)
        if saturation is not None:
            figures["saturation"] = saturation
        for name, layers in activity.items():
            share = probes.dormant_share(layers)
            if share is not None:
                figures[f"dormant/{name}"] = share
        if figures.get("return_size") == 0.0:
            del figures["return_size"]  # no reward was seen yet
        self.figures |= figures

    # -- judging ------------------------------------------------------------------------------------------------------

    def _judge(self, trainer: "BaseTrainer", step: int) -> None:
        said = {warning.figure for warning in self.warnings}
        for figure, value in self.figures.items():
            kind, _, net = figure.partition("/")
            if kind not in self.ranges or figure in said:
                continue
            patience = PATIENCE.get(kind, 3)
            if patience > 1 and step < self.every_updates:
                continue  # the first samples follow each other within moments
            low, high = self.ranges[kind]
            if low <= value <= high:
                self._outside[figure] = 0
                continue
            self._outside[figure] = self._outside.get(figure, 0) + 1
            if self._outside[figure] >= patience:
                text = (
                    (TOO_LOW if value < low else TOO_HIGH).get(kind, ELSE).format(net=net, value=value, **self.figures)
                )
                self.warnings.append(HealthWarning(figure, value, text, trainer.env_step, step))
                logger.warning("health, environment step %d, %s: %s", trainer.env_step, figure, text)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {
            "figures": dict(self.figures),
            "warnings": [asdict(warning) for warning in self.warnings],
            "outside": dict(self._outside),
            "next": self._next,
            "moved": sorted(self._moved),
            "grads": {name: list(values) for name, values in self._grads.items()},
            "targets": {name: list(pair) for name, pair in self._targets.items()},
            "counts": [list(pair) for pair in self._counts],
            "marks": list(self._marks),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._forget()
        self.figures = dict(state["figures"])
        self.warnings = [HealthWarning(**warning) for warning in state["warnings"]]
        self._outside, self._next, self._moved = dict(state["outside"]), int(state["next"]), set(state["moved"])
        self._grads = {name: deque(values, maxlen=50) for name, values in state["grads"].items()}
        self._targets = {name: (float(mark), int(since)) for name, (mark, since) in state["targets"].items()}
        self._counts = deque((int(updates), int(steps)) for updates, steps in state["counts"])
        self._marks = deque(state["marks"])
