"""Mixed precision, over all algorithms."""

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.policy.base import BasePolicy
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.continuous import BatchRenorm
from rlpolicy.utils.net.recurrent import Memory
from rlpolicy.utils.net.team import Team, TeamValue
from rlpolicy.utils.optim import descend, descend_each, optim_step
from rlpolicy.utils.precision import LossScaler, Precision
from rlpolicy.utils.watch import Watch, begin

sys.path.insert(0, str(Path(__file__).parent))
import zoo

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
LOW = tuple(DTYPES.values())
names = pytest.mark.parametrize("name", zoo.few(zoo.ZOO | zoo.TEAMS))


def filled(policy: Any, name: str, n: int = 60) -> PrioritizedReplayBuffer:
    buffer = PrioritizedReplayBuffer(n, alpha=0.6, beta=0.4, seed=0)
    data = zoo.transitions(name, n)
    state = None
    for i in range(n):
        row = data[i : i + 1]
        if hasattr(policy, "burn_in"):
            with torch.no_grad():
                state = policy(Batch(obs=row.obs, info=None), state).state
            row.policy = Batch(hidden_state=state)
        buffer.add(Batch({key: value[0] for key, value in row.items()}))
    return buffer


class Outside(TorchDispatchMode):
    """Looks at the results of all operations that no network and no backward pass makes."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0
        self.inside: set[torch.dtype] = set()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        dtypes = {x.dtype for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)}
        if self.depth:
            self.inside |= dtypes
        elif any(dtype in LOW for dtype in dtypes):
            self.found.append(str(func))
        return result

    @contextmanager
    def within(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def watch_calls(self, policy: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            # the policy's own forward, and what only calls networks, is outside
            if isinstance(module, BasePolicy | Memory | Team | TeamValue):
                return call(module, *args, **kwargs)
            with self.within():
                return call(module, *args, **kwargs)

        def backward(*args: Any, **kwargs: Any) -> Any:
            with self.within():
                return backpropagate(*args, **kwargs)

        call, backpropagate = nn.Module.__call__, Tensor.backward
        monkeypatch.setattr(nn.Module, "__call__", called)
        monkeypatch.setattr(Tensor, "backward", backward)


@names
@pytest.mark.parametrize("mode", ["bf16", "fp16"])
def test_nothing_low_leaves_the_networks(name: str, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = zoo.make(name, mixed_precision=mode)
    buffer = filled(policy, name)
    seen: list[Batch] = []
    targets: list[Any] = []
    process_fn, post_process_fn = policy.process_fn, policy.post_process_fn
    monkeypatch.setattr(policy, "process_fn", lambda *a: targets.append(process_fn(*a)) or targets[-1])
    monkeypatch.setattr(policy, "post_process_fn", lambda batch, *a: (seen.append(batch), post_process_fn(batch, *a)))
    outside = Outside()
    outside.watch_calls(policy, monkeypatch)
    stats = []
    with outside:
        for _ in range(4):
            stats.append(policy.update(16, buffer).get_loss_stats_dict())
    assert not outside.found
    assert DTYPES[mode] in outside.inside  # or nothing was tested
    assert all(np.isfinite(list(losses.values())).all() for losses in stats)
    for batch in seen:  # priorities come from there
        assert batch.weight.dtype == torch.float32
    for batch in targets:
        for value in tree_leaves({**batch.__dict__}):
            assert not isinstance(value, Tensor) or value.dtype not in LOW
    tensors = [*policy.parameters(), *policy.buffers(), *(p.grad for p in policy.parameters() if p.grad is not None)]
    assert all(tensor.dtype not in LOW for tensor in tensors)


@names
def test_linear_layers_are_low_but_for_the_last(name: str) -> None:
    policy = zoo.make(name, mixed_precision="bf16")
    buffer = filled(policy, name)
    last = {id(layer) for part in policy.modules() for layer in getattr(part, "output_layers", ())}
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    kinds = (nn.Linear, nn.GRU, nn.LSTM)
    for module in policy.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(
                lambda module, args, out: seen[id(module) in last].add(tree_leaves(out)[0].dtype)
            )
    with torch.no_grad():
        policy(Batch(obs=zoo.transitions(name, 3).obs, info=None))
    assert seen[False] | seen[True] <= {torch.float32}  # acting is as it was
    seen[False].clear()
    policy.update(16, buffer)
    assert torch.bfloat16 in seen[False]
    assert seen[True] <= {torch.float32}
    seen[False].clear()
    with torch.no_grad():
        policy(Batch(obs=zoo.transitions(name, 3).obs, info=None))
    assert seen[False] <= {torch.float32}


@names
def test_none_is_as_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, given = zoo.make(name), zoo.make(name, mixed_precision=None)
    outside = Outside()
    outside.watch_calls(given, monkeypatch)
    for policy in (plain, given):
        torch.manual_seed(1)
        with outside:
            policy.update(16, filled(policy, name))
    assert not outside.inside & set(LOW)
    assert given.precision is None
    for one, two in zip(plain.parameters(), given.parameters(), strict=True):
        assert torch.equal(one, two)


@names
def test_near_float32(name: str) -> None:
    """One update moves the weights in nearly the same direction as in float32."""
    moved = []
    for mode in (None, "bf16"):
        policy = zoo.make(name, mixed_precision=mode)
        for module in policy.modules():
            for key, value in vars(module).items():
                if isinstance(value, torch.optim.Adam):
                    setattr(module, key, torch.optim.SGD(value.param_groups[0]["params"], lr=1e-2))
        before = torch.cat([p.detach().clone().flatten() for p in policy.parameters()])
        torch.manual_seed(1)
        policy.update(32, filled(policy, name))
        moved.append(torch.cat([p.detach().flatten() for p in policy.parameters()]) - before)
    exact, low = moved
    assert not torch.equal(exact, low)
    assert (exact - low).norm() < 0.1 * exact.norm()


def test_copies_have_their_own_precision() -> None:
    policy = zoo.make("sac", mixed_precision="bf16")
    policy.update(16, filled(policy, "sac"))
    other = copy.deepcopy(policy)
    seen: list[torch.dtype] = []
    other.critic.preprocess.register_forward_hook(lambda module, args, out: seen.append(out[0].dtype))
    with policy.precision.learning([]):
        other.critic(np.zeros((1, zoo.OBS)), np.zeros((1, zoo.A)))
    assert seen == [torch.float32]
    with other.precision.learning([]):
        other.critic(np.zeros((1, zoo.OBS)), np.zeros((1, zoo.A)))
    assert seen == [torch.float32, torch.bfloat16]


def test_an_exception_leaves_autocast_off() -> None:
    policy = zoo.make("sac", mixed_precision="bf16")
    buffer = filled(policy, "sac")
    policy.update(16, buffer)

    class Fault(nn.Module):
        def forward(self, x: Tensor, state: Any = None) -> Tensor:
            assert torch.is_autocast_enabled("cpu")
            raise KeyError("fault")

    policy.actor.preprocess = Fault()
    with pytest.raises(KeyError, match="fault"):
        policy.update(16, buffer)
    assert not torch.is_autocast_enabled("cpu")
    assert not policy.precision.is_learning


def test_refused() -> None:
    with pytest.raises(InvalidArgument, match='None, "bf16" or "fp16", got \'half\''):
        zoo.make("dqn", mixed_precision="half")
    policy = zoo.make("dqn", mixed_precision="bf16").double()
    with pytest.raises(InvalidArgument, match="needs float32 networks, Net has float64"):
        policy.update(16, filled(policy, "dqn"))


def test_compile_steps_aside() -> None:
    policy = zoo.make("dqn", mixed_precision="bf16")
    with pytest.warns(UserWarning, match="stay eager: its networks are computed in bf16"):
        policy.compile()
    assert not policy.is_compiled


def test_export_after_updates(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    policy = zoo.make("sac", mixed_precision="bf16")
    policy.update(16, filled(policy, "sac"))
    policy.eval()
    policy.export(tmp_path / "policy.onnx", obs=zoo.transitions("sac", 3).obs)


def test_batch_renorm_keeps_its_digits() -> None:
    x = torch.randn(512, 3, generator=torch.manual_seed(0)) + 100.0  # in bf16 steps of 0.5
    norm = BatchRenorm(3, warmup=0)
    assert norm(x.bfloat16()).dtype == torch.float32
    exact = BatchRenorm(3, warmup=0)
    exact(x.bfloat16().float())
    torch.testing.assert_close(norm.running_var, exact.running_var)


# -- scaling ----------------------------------------------------------------------------------------------------------


def test_the_scaler_saves_small_gradients() -> None:
    """1e-6 x 1e-3 is below float16's smallest number, 6e-8."""
    weight = torch.ones(4, 1, requires_grad=True)
    optim = torch.optim.SGD([weight], lr=1.0)
    x = torch.full((8, 4), 1e-3)

    def loss() -> Tensor:
        return 1e-6 * (x.half() @ weight.half()).float().mean()

    descend(optim, loss())
    assert torch.equal(weight, torch.ones(4, 1))  # lost
    precision = Precision("fp16")
    with precision.learning([]):
        descend(optim, loss())
    torch.testing.assert_close(weight, torch.full((4, 1), 1.0 - 1e-9, dtype=torch.float64).float(), rtol=0, atol=1e-7)
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, torch.full((4, 1), 1e-9), rtol=1e-2, atol=0)


@pytest.mark.parametrize("way", ["descend", "descend_each", "optim_step"])
def test_an_overflow_leaves_the_step_out_and_halves_the_factor(way: str) -> None:
    weight = torch.ones(1, requires_grad=True)
    optim = torch.optim.SGD([weight], lr=1.0)

    def step(slope: float) -> None:
        loss = (slope * weight.half().float()).sum()
        if way == "descend":
            descend(optim, loss, max_grad_norm=1e6)
        elif way == "descend_each":
            descend_each([optim, optim], loss)
        else:
            optim_step(loss, optim)

    precision = Precision("fp16")
    assert precision.scaler is not None
    with precision.learning([]):
        step(2.0)  # times 65536 is beyond 65504
        assert precision.scaler.factor == 32768.0
        assert weight.item() == 1.0
        step(2.0)
        assert precision.scaler.factor == 16384.0
        step(2.0)
        assert weight.item() == -1.0
        assert precision.scaler.steps == 1
    step(2.0)
    assert weight.item() == -3.0  # outside there is no scaler


def test_the_factor_grows_and_has_an_end() -> None:
    weight = torch.ones(1, requires_grad=True)
    scaler = LossScaler(factor=4.0, patience=3)

    def unscaled(gradient: float) -> bool:
        weight.grad = torch.full((1,), gradient * scaler.factor)
        is_fit = scaler.unscale(weight.sum(), [weight])
        assert torch.equal(weight.grad, torch.full((1,), gradient)) or gradient != gradient
        return is_fit

    for _ in range(3):
        assert unscaled(1.0)
    assert (scaler.factor, scaler.steps) == (8.0, 0)
    for factor in (4.0, 2.0, 1.0):
        assert not unscaled(torch.nan)
        assert scaler.factor == factor
    assert unscaled(torch.nan)  # somebody else must look into that
    assert scaler.factor == 1.0


def test_a_skipped_step_is_no_fault_but_a_bad_loss_is() -> None:
    told: list[Tensor] = []

    class Listener(Watch):
        sees_steps = True

        def before_step(self, optims: Any, loss: Tensor) -> None:
            told.append(loss)

    weight = torch.ones(1, requires_grad=True)
    optim = torch.optim.SGD([weight], lr=1.0)
    before = begin(Listener())
    try:
        with Precision("fp16").learning([]):
            descend(optim, (2.0 * weight.half().float()).sum())
            assert not told
            descend(optim, (torch.nan * weight).sum())
            assert len(told) == 1
            assert weight.item() == 1.0
            descend(optim, (0.5 * weight.half().float()).sum())
            assert len(told) == 2
    finally:
        begin(before)


def test_the_factor_is_in_the_training_state() -> None:
    policy = zoo.make("sac", mixed_precision="fp16")
    policy.precision.scaler.factor, policy.precision.scaler.steps = 512.0, 7
    other = zoo.make("sac", seed=1, mixed_precision="fp16")
    other.load_training_state(policy.training_state())
    assert (other.precision.scaler.factor, other.precision.scaler.steps) == (512.0, 7)
    with pytest.raises(ValueError, match=r"precision\.scaler"):
        zoo.make("sac", mixed_precision="bf16").load_training_state(policy.training_state())
