"""Critics asked together say, and learn, what they would alone."""

import copy
import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlpolicy.utils.net import batched, discrete
from rlpolicy.utils.net.batched import q_values
from rlpolicy.utils.net.common import MLP, EnsembleLinear, Net
from rlpolicy.utils.net.continuous import Critic

O, A, B = 5, 2, 7  # noqa: E741 - observation, action, batch


def critic(**options: Any) -> Critic:
    return Critic(Net(O, A, hidden_sizes=[8, 6], concat=True, **options), hidden_sizes=[4])


def q_critic() -> discrete.Critic:
    return discrete.Critic(Net(O, hidden_sizes=[8]), hidden_sizes=[4], last_size=3)


def data(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, O, generator=generator, dtype=dtype), torch.rand(B, A, generator=generator, dtype=dtype)


def is_batched(critics: Any) -> bool:
    """Whether the first weights lie side by side in one memory."""
    one, two = (next(critic.parameters()) for critic in critics[:2])
    return one.data_ptr() + one.numel() * one.element_size() == two.data_ptr()


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize(
    "make",
    [
        critic,
        lambda: critic(activation=nn.Tanh),
        lambda: critic(activation=nn.ELU, act_args={"alpha": 0.5}),
        lambda: critic(activation=None),
        lambda: critic(linear_layer=lambda i, o: nn.Linear(i, o, bias=False)),
        lambda: Critic(MLP(O + A, 4, [8])),
    ],
)
def test_values_and_gradients_are_those_of_separate_critics(make: Callable[[], Critic], n: int) -> None:
    together = [make().double() for _ in range(n)]
    alone = copy.deepcopy(together)
    obs, act = data(torch.float64)
    act, act2 = act.requires_grad_(), act.detach().clone().requires_grad_()
    weight = torch.linspace(0.5, 1.5, n * B, dtype=torch.float64).view(n, B, 1)

    q = q_values(together, obs, act)
    expected = torch.stack([one(obs, act2) for one in alone])
    assert is_batched(together)
    torch.testing.assert_close(q, expected, rtol=1e-12, atol=1e-12)
    (weight * q.square()).sum().backward()
    (weight * expected.square()).sum().backward()
    torch.testing.assert_close(act.grad, act2.grad, rtol=1e-12, atol=1e-12)
    for one, two in zip(together, alone, strict=True):
        for p, expected_p in zip(one.parameters(), two.parameters(), strict=True):
            torch.testing.assert_close(p.grad, expected_p.grad, rtol=1e-12, atol=1e-12)
            assert p.grad is not None
            assert p.grad.stride() == p.stride()


def test_discrete_critics() -> None:
    together = [q_critic().double(), q_critic().double()]
    alone = copy.deepcopy(together)
    obs, _ = data(torch.float64)
    q = q_values(together, obs)
    assert q.shape == (2, B, 3)
    assert is_batched(together)
    torch.testing.assert_close(q, torch.stack([one(obs) for one in alone]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [torch.optim.Adam, partial(torch.optim.Adam, fused=True), torch.optim.RMSprop])
def test_many_steps_of_two_optimisers(make: Any) -> None:
    together = [critic(), critic()]
    alone = copy.deepcopy(together)
    obs, act = data()
    optims = [[make(one.parameters(), lr=1e-2) for one in pair] for pair in (together, alone)]
    for _ in range(20):
        for pair, ask, steps in ((together, q_values, optims[0]), (alone, batched._one_by_one, optims[1])):
            for optim in steps:
                optim.zero_grad()
            (ask(pair, obs, act) - 1.0).square().sum().backward()
            for optim in steps:
                optim.step()
            assert len(pair) == 2
    assert is_batched(together)
    for one, two in zip(together, alone, strict=True):
        for p, expected in zip(one.parameters(), two.parameters(), strict=True):
            torch.testing.assert_close(p, expected, rtol=1e-4, atol=1e-5)


def test_gradients_accumulate() -> None:
    pair = [critic(), critic()]
    obs, act = data()
    q_values(pair, obs, act).sum().backward()
    first = [p.grad.clone() for p in pair[0].parameters() if p.grad is not None]
    q_values(pair, obs, act).sum().backward()
    for p, grad in zip(pair[0].parameters(), first, strict=True):
        torch.testing.assert_close(p.grad, 2 * grad)


def test_frozen_parameters_get_no_gradient() -> None:
    pair = [critic(), critic()]
    obs, act = data()
    act.requires_grad_()
    pair[0].preprocess.requires_grad_(False)
    q_values(pair, obs, act).sum().backward()
    assert all(p.grad is None for p in pair[0].preprocess.parameters())
    assert all(p.grad is not None for p in pair[0].last.parameters())
    assert all(p.grad is not None for p in pair[1].parameters())
    for one in pair:
        one.requires_grad_(False)
    act.grad = None
    q_values(pair, obs, act).sum().backward()
    assert act.grad is not None


def check(pair: list[Any]) -> None:
    obs, act = data()
    with torch.no_grad():
        torch.testing.assert_close(q_values(pair, obs, act), torch.stack([one(obs, act) for one in pair]))
    assert is_batched(pair)


def test_parameters_that_get_new_values_or_new_memory() -> None:
    pair = [critic(), critic()]
    obs, act = data()
    check(pair)
    pair[1].load_state_dict(critic().state_dict())
    check(pair)
    pair[0].load_state_dict(critic().state_dict(), assign=True)
    check(pair)
    pair[0].to(torch.float64).to(torch.float32)
    check(pair)
    with torch.no_grad():
        next(pair[1].parameters()).data = torch.ones(8, O + A)
    check(pair)
    pair[0].last.model[0] = nn.Linear(6, 4)
    check(pair)
    pair[0].preprocess = Net(O, A, hidden_sizes=[8, 6], concat=True)
    check(pair)
    with torch.inference_mode():
        next(pair[1].parameters()).data = torch.ones(8, O + A)
        q_values(pair, obs, act)
    q_values(pair, obs, act).sum().backward()


def test_a_copy_is_independent() -> None:
    pair = [critic(), critic()]
    check(pair)
    copies = copy.deepcopy(pair)
    before = copy.deepcopy(pair[0].state_dict())
    with torch.no_grad():
        for one in copies:
            for p in one.parameters():
                p.add_(1.0)
    check(copies)
    for name, value in pair[0].state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_state_dict_is_complete(tmp_path: Any) -> None:
    pair = [critic(), critic()]
    check(pair)
    torch.save(pair[1].state_dict(), tmp_path / "critic.pth")
    other = critic()
    other.load_state_dict(torch.load(tmp_path / "critic.pth", weights_only=True))
    obs, act = data()
    torch.testing.assert_close(other(obs, act), pair[1](obs, act))


def test_nothing_is_kept_of_critics_that_are_gone() -> None:
    gc.collect()
    before = len(batched._stacks)
    pair = [critic(), critic()]
    check(pair)
    assert len(batched._stacks) == before + 1
    del pair
    gc.collect()
    assert len(batched._stacks) == before


class OwnCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(O + A, 1)

    def forward(self, obs: Tensor, act: Tensor) -> tuple[Tensor, None]:
        return self.layer(torch.cat([obs, act], 1)).flatten(), None


class ChangedCritic(Critic):
    def forward(self, obs: Any, act: Any = None, info: Any = None) -> Tensor:
        return 2.0 * super().forward(obs, act, info)


def changed() -> ChangedCritic:
    return ChangedCritic(Net(O, A, hidden_sizes=[8], concat=True))


def shared_layers() -> list[Critic]:
    net = Net(O, A, hidden_sizes=[8], concat=True)
    return [Critic(net), Critic(net)]


def with_hook() -> list[Critic]:
    pair = [critic(), critic()]
    pair[1].last.register_forward_hook(lambda module, inputs, output: output + 1.0)
    return pair


def with_own_forward() -> list[Critic]:
    pair = [critic(), critic()]
    layer = pair[1].last.model[2]
    layer.forward = lambda x: nn.functional.linear(x, layer.weight) - 3.0  # type: ignore[method-assign]
    return pair


def with_weight_norm() -> list[Critic]:
    pair = [critic(), critic()]
    for one in pair:
        nn.utils.parametrizations.weight_norm(one.last.model[0])
    return pair


@pytest.mark.parametrize(
    "make",
    [
        lambda: [OwnCritic(), OwnCritic()],
        lambda: [changed(), changed()],
        shared_layers,
        with_hook,
        with_own_forward,
        with_weight_norm,
        lambda: [critic(), Critic(Net(O, A, hidden_sizes=[9, 6], concat=True), hidden_sizes=[4])],
        lambda: [critic(), Critic(Net(O, A, hidden_sizes=[8, 6], concat=True))],
        lambda: [critic(), critic(activation=nn.Tanh)],
        lambda: [critic(activation=nn.LeakyReLU), critic(activation=nn.LeakyReLU, act_args=(0.3,))],
        lambda: [critic(norm_layer=nn.LayerNorm), critic(norm_layer=nn.LayerNorm)],
        lambda: [Critic(nn.Sequential(nn.Linear(O + A, 8)), preprocess_net_output_dim=8) for _ in range(2)],
        lambda: [
            Critic(nn.Linear(O, 8), preprocess_net_output_dim=8 + A, apply_preprocess_net_to_obs_only=True)
            for _ in range(2)
        ],
        lambda: [critic(dueling_param=({"hidden_sizes": [3]}, {"hidden_sizes": [3]})) for _ in range(2)],
        lambda: [
            Critic(
                Net(O, A, hidden_sizes=[8], concat=True, linear_layer=lambda i, o: EnsembleLinear(3, i, o)),
                linear_layer=lambda i, o: EnsembleLinear(3, i, o),
                flatten_input=False,
            )
            for _ in range(2)
        ],
        lambda: [critic()],
    ],
)
def test_unusual_critics_are_asked_one_by_one(make: Callable[[], list[Any]]) -> None:
    torch.manual_seed(0)
    critics = make()
    obs, act = data()
    values = [one(obs, act) for one in critics]
    expected = torch.stack([value[0] if isinstance(value, tuple) else value for value in values])
    for _ in range(2):  # what was found out in the first call is known in the second
        torch.testing.assert_close(q_values(critics, obs, act), expected, rtol=0, atol=0)
    assert len(critics) < 2 or not is_batched(critics)


def test_a_hook_that_comes_later_is_called() -> None:
    pair = [critic(), critic()]
    check(pair)
    seen = []
    pair[1].preprocess.model.register_forward_hook(lambda module, inputs, output: seen.append(output))
    q_values(pair, *data())
    assert len(seen) == 1


def test_functional_calls() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = critic(), critic()

        def forward(self, obs: Tensor, act: Tensor) -> Tensor:
            return q_values([self.one, self.two], obs, act)

    both, other = Both(), Both()
    obs, act = data()
    both(obs, act)
    values = {name: p.detach() for name, p in other.named_parameters()}
    torch.testing.assert_close(torch.func.functional_call(both, values, (obs, act)), other(obs, act))
    check([both.one, both.two])


def test_keys_of_observations() -> None:
    pair = [Critic(Net(O, A, hidden_sizes=[4], concat=True), obs_key=("a", "b")) for _ in range(2)]
    obs, act = data()
    parts: dict[str, Any] = {"a": obs[:, :2].numpy(), "b": obs[:, 2:], "c": obs}
    q = q_values(pair, parts, act.numpy())
    torch.testing.assert_close(q, torch.stack([one(parts, act) for one in pair]))
    assert is_batched(pair)
    others = [Critic(Net(2, A, hidden_sizes=[4], concat=True), obs_key=key) for key in ("a", "d")]
    parts["d"] = obs[:, :2] + 1.0
    torch.testing.assert_close(q_values(others, parts, act), torch.stack([one(parts, act) for one in others]))
    named = [discrete.Critic(Net(O, hidden_sizes=[4], obs_key="c")) for _ in range(2)]
    torch.testing.assert_close(q_values(named, parts), torch.stack([one(parts) for one in named]))
