"""Compiled updates that are recorded and replayed, as on a GPU, with a graph that works on a CPU."""

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "utils" / "fused"))
sys.path.insert(0, str(Path(__file__).parents[2] / "data"))
from guard import Guard
from pairs import ALGORITHMS, assert_equal, buffer, optimisers, policy, run, snapshot
from tape import CpuTape
from test_equal import BUFFER_OPTIONS, CASES

from rlpolicy.policy.fused import sac
from rlpolicy.utils.fused import graph

TIGHT = 1e-10
OPTIONS: dict[str, dict[str, Any]] = {
    "dqn": {"target_update_freq": 3},
    "ddpg": {},
    "td3": {"update_actor_freq": 2},
    "sac": {"alpha": "auto"},
}


class Tapes(list[CpuTape]):
    """Makes tapes, and keeps them."""

    def __call__(self) -> CpuTape:
        self.append(CpuTape())
        return self[-1]


def recorded(algorithm: str, checks: int = 0, **options: Any) -> tuple[Any, Tapes]:
    """A policy whose updates are replayed, and all tapes."""
    made, tapes = policy(algorithm, **options).compile(backend="torch", checks=checks), Tapes()
    getattr(made._compiled, "update", made._compiled).record(tapes)
    return made, tapes


def pair(algorithm: str, **options: Any) -> tuple[Any, Any, Tapes]:
    """The same policy twice: replayed, and eager."""
    options = {**OPTIONS[algorithm], **options}
    made, tapes = recorded(algorithm, **options)
    return made, policy(algorithm, **options), tapes


def both(made: Any, eager: Any, algorithm: str, updates: int = 7, batch_size: int = 16, **options: Any) -> None:
    """Train both, and compare all numbers."""
    ours, right = (run(each, buffer(algorithm, **options), updates, batch_size) for each in (made, eager))
    assert_equal(ours, right, TIGHT)


@pytest.mark.parametrize("case", CASES)
def test_replayed_updates_equal_eager_ones(case: str) -> None:
    """Learning rates that fall, step counts, importance weights, α, noise: all that changes from one to the next."""
    algorithm, options = CASES[case]
    options = dict(options)
    for_buffer = {name: options.pop(name) for name in BUFFER_OPTIONS if name in options}
    if "stack_num" in for_buffer:
        options["obs"] = (2, *options["obs"])
    memory = {"obs": CASES[case][1].get("obs", 5), **for_buffer}
    made, tapes = recorded(algorithm, **options)
    ours = run(made, buffer(algorithm, **memory), 25)
    assert_equal(ours, run(policy(algorithm, **options), buffer(algorithm, **memory), 25), TIGHT)
    assert sum(tape.replays for tape in tapes) == 25
    two_kinds = algorithm == "td3" or options.get("target_update_freq")
    assert len(tapes) == (2 if two_kinds else 1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_buffer_on_the_device(algorithm: str) -> None:
    """From there to the losses nothing is copied to the host but these, and n-step returns are followed there."""
    for n in (1, 3):
        name = "n_step" if algorithm == "dqn" else "estimation_step"
        made, eager, tapes = pair(algorithm, estimation_step=n)
        assert getattr(made, name) == n
        memory = buffer(algorithm, device="cpu")
        right = run(eager, buffer(algorithm), 6)
        torch.manual_seed(0)
        for _ in range(6):
            with Guard(lambda tensor: tensor.numel() > 1):
                made.update(16, memory)
        ours = dict(made.state_dict())
        assert_equal(ours, {name: right[name] for name in ours}, TIGHT)
        assert sum(tape.replays for tape in tapes) == 6


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_first_updates_are_checked_with_their_replays(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, tapes = recorded(algorithm, checks=4, **OPTIONS[algorithm])
    eager = policy(algorithm, **OPTIONS[algorithm])
    both(made, eager, algorithm)
    assert made.is_compiled
    assert not made.is_being_checked
    assert sum(tape.replays for tape in tapes) == 7

    made, _ = recorded(algorithm, checks=4, **OPTIONS[algorithm])
    replay = CpuTape.replay

    def incomplete(self: CpuTape) -> None:
        """An operation is lost: the gradient of the last layer's bias."""
        lost = next(i for i, each in enumerate(self.operations) if "sum" in str(each[0]))
        del self.operations[lost]
        replay(self)

    monkeypatch.setattr(CpuTape, "replay", incomplete)
    with pytest.warns(UserWarning, match="switched off"):
        ours = run(made, buffer(algorithm), 3)
    assert not made.is_compiled
    assert_equal(ours, run(policy(algorithm, **OPTIONS[algorithm]), buffer(algorithm), 3), TIGHT)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_recording_changes_nothing(algorithm: str) -> None:
    """Neither weights nor moments, counts, schedules and random numbers: the first update is the first."""
    made, eager, tapes = pair(algorithm, scheduled=True)
    for each in (made, eager):
        torch.manual_seed(0)
        each.update(16, buffer(algorithm))
        each.random_numbers = torch.rand(3)
    assert len(tapes) == 1
    assert torch.equal(made.random_numbers, eager.random_numbers)
    assert_equal(snapshot(made), snapshot(eager), TIGHT)
    for name in ("_iter", "_cnt"):
        assert getattr(made, name, None) == getattr(eager, name, None)
    for ours, right in zip(optimisers(made).values(), optimisers(eager).values(), strict=True):
        assert ours.param_groups[0]["lr"] == right.param_groups[0]["lr"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_options_changed_between_updates(algorithm: str) -> None:
    """Each is another recording; learning rates, state dicts and discount factors are not."""
    made, eager, tapes = pair(algorithm, max_grad_norm=0.3)
    both(made, eager, algorithm)
    kinds = len(tapes)
    saved = [each.state_dict() for each in (policy(algorithm, seed=4, **OPTIONS[algorithm]) for _ in range(2))]
    for each, state in zip((made, eager), saved, strict=True):
        each.load_state_dict(state)
        each.gamma = 0.5
        for optim in optimisers(each).values():
            optim.param_groups[0]["lr"] = 0.02
    both(made, eager, algorithm)
    assert len(tapes) == kinds
    for change in CHANGES[algorithm]:
        for each in (made, eager):
            change(each)
        both(made, eager, algorithm)
        kinds += 2 if algorithm in ("dqn", "td3") else 1
        assert len(tapes) == kinds
    both(made, eager, algorithm, batch_size=9)
    both(made, eager, algorithm, prioritized=True)
    assert len(tapes) == kinds + (4 if algorithm in ("dqn", "td3") else 2)


def set_betas(made: Any) -> None:
    for optim in optimisers(made).values():
        optim.param_groups[0]["betas"] = (0.5, 0.9)


def set_decay(made: Any) -> None:
    for optim in optimisers(made).values():
        optim.param_groups[0]["weight_decay"] = 0.1


def setter(name: str, value: Any) -> Any:
    return lambda made: setattr(made, name, value)


CHANGES: dict[str, list[Any]] = {
    "dqn": [setter("is_double", False), setter("clip_loss_grad", True), set_betas],
    "ddpg": [setter("tau", 0.3), setter("max_grad_norm", None), set_decay],
    "td3": [setter("noise_clip", 0.05), setter("policy_noise", 0.5)],
    "sac": [setter("max_grad_norm", 0.01), lambda made: setattr(made.temperature, "target_entropy", -1.0)],
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_number_that_decides_is_forgotten(algorithm: str) -> None:
    """All plain attributes of the policy that ``step`` reads are in ``numbers``."""
    made, _, _ = pair(algorithm)
    update, read = made._compiled, set()

    class Reader:
        def __getattr__(self, name: str) -> Any:
            value = getattr(made, name)
            if isinstance(value, bool | int | float | None):
                read.add(name)
            return value

        __dict__ = made.__dict__

    run(made, buffer(algorithm), 2)
    batch, indices = buffer(algorithm).sample(16)
    update.policy = Reader()
    for _ in range(2):
        with torch.no_grad():
            losses, _ = update.step(update._minibatch(batch, buffer(algorithm), indices))
        update.finish(losses)
    counts = {"_cnt", "_iter", "freq", "update_actor_freq", "gamma", "n_step", "estimation_step"}
    assert {"tau", "max_grad_norm"} <= read
    assert read - counts <= {*update.constants, "alpha", "target_entropy"}


def test_a_fixed_temperature_set_by_hand() -> None:
    options = {"alpha": 0.2}
    made, tapes = recorded("sac", **options)
    eager = policy("sac", **options)
    for alpha in (0.2, 0.7, 0.2):
        made.alpha = eager.alpha = alpha
        both(made, eager, "sac")
    assert len(tapes) == 2


def test_what_cannot_be_recorded_is_computed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the reason comes in the middle: no number has changed then."""
    made, eager, tapes = pair("sac")
    right = sac.squash_gradient

    def reading(kernels: Any, out: Any, *args: Any) -> Any:
        assert torch.equal(out, out)  # a number on the host
        return right(kernels, out, *args)

    monkeypatch.setattr(sac, "squash_gradient", reading)
    with pytest.warns(UserWarning, match="not recorded as CUDA graphs from here on: operation not permitted") as said:
        ours = run(made, buffer("sac"), 5)
    assert len(said) == len(tapes) == 1
    assert said[0].filename == str(Path(__file__).parent / "pairs.py"), "the warning points at the caller of update()"
    assert made.is_compiled
    assert tapes[0].replays == 0
    assert_equal(ours, run(eager, buffer("sac"), 5), TIGHT)


def test_too_many_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "MANY", 3)
    made, eager, tapes = pair("ddpg")
    for batch_size in (3, 4, 5):
        both(made, eager, "ddpg", batch_size=batch_size)
    with pytest.warns(UserWarning, match="there are 3 already"):
        both(made, eager, "ddpg", batch_size=6)
    both(made, eager, "ddpg", batch_size=3)
    both(made, eager, "ddpg", batch_size=7)
    assert [tape.replays for tape in tapes] == [14, 7, 7]


def test_td_errors_are_not_overwritten_by_the_next_update(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _, _ = pair("ddpg")
    memory, errors = buffer("ddpg"), []
    monkeypatch.setattr(
        made, "post_process_fn", lambda batch, *args: errors.append((batch.weight, batch.weight.clone()))
    )
    for _ in range(3):
        made.update(16, memory)
    for kept, copied in errors:
        assert torch.equal(kept, copied)


def test_noise_differs_from_one_replay_to_the_next() -> None:
    """With the same minibatch and nothing learned."""
    made, tapes = recorded("sac", alpha=0.2, tau=0.0)
    for optim in optimisers(made).values():
        optim.param_groups[0]["lr"] = 0.0
    memory = buffer("sac")
    losses = [made.update(0, memory).actor_loss for _ in range(4)]
    assert len(set(losses)) == 4
    assert [tape.replays for tape in tapes] == [4]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_on_a_gpu(algorithm: str, on_device: bool) -> None:
    options = {"dtype": torch.float64, **OPTIONS[algorithm]}
    made, eager = policy(algorithm, **options).cuda().compile(), policy(algorithm, **options).cuda()
    memory = [buffer(algorithm, device="cuda" if on_device else None) for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, right = (run(each, m, 30) for each, m in zip((made, eager), memory, strict=True))
    assert made.is_compiled
    assert made._compiled._replayed._recorded
    ours, right = ({name: as_array(value) for name, value in each.items()} for each in (ours, right))
    assert_equal(ours, right, 1e-8)


def as_array(value: Any) -> np.ndarray:
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
