"""Gradient steps and target networks."""

import copy

import pytest
import torch
from torch import nn

from rlpolicy.utils.optim import clone_optimizer, descend, descend_each, frozen, hard_update, optim_step, polyak_update


def linear(value: float) -> nn.Linear:
    layer = nn.Linear(2, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def test_descend_takes_one_plain_gradient_step():
    layer = linear(1.0)
    optim = torch.optim.SGD(layer.parameters(), lr=0.5)
    x = torch.tensor([[3.0, 4.0]])
    for expected in ([-0.5, -1.0], [-2.0, -3.0]):  # the gradient is x, and old gradients are cleared
        assert descend(optim, layer(x).sum()) is None
        torch.testing.assert_close(layer.weight.detach(), torch.tensor([expected]))


def test_descend_clips_the_joint_norm():
    layer = linear(1.0)
    optim = torch.optim.SGD(layer.parameters(), lr=1.0)
    norm = descend(optim, layer(torch.tensor([[3.0, 4.0]])).sum(), max_grad_norm=1.0)
    assert norm.item() == pytest.approx(5.0)
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[0.4, 0.2]]), atol=1e-5, rtol=0)


def test_descend_with_params_leaves_other_gradients_alone():
    actor, critic = linear(1.0), nn.Linear(1, 1)
    optim = torch.optim.SGD(actor.parameters(), lr=1.0)
    loss = critic(actor(torch.ones(1, 2))).sum()
    norm = descend(optim, loss, params=actor.parameters(), max_grad_norm=100.0)
    assert critic.weight.grad is None
    expected = abs(critic.weight.item()) * 2**0.5
    assert norm.item() == pytest.approx(expected, rel=1e-5)


def test_descend_each_steps_every_optimiser_once():
    one, two = linear(3.0), linear(5.0)
    optims = [torch.optim.SGD(net.parameters(), lr=rate) for net, rate in ((one, 0.1), (two, 0.01))]
    for step in (1, 2):  # gradients of the first call do not count in the second
        descend_each(optims, (one(torch.ones(1, 2)) * 2 + two(torch.ones(1, 2)) * 4).sum())
        assert one.weight.tolist() == [[pytest.approx(3 - 0.2 * step)] * 2]
        assert two.weight.tolist() == [[pytest.approx(5 - 0.04 * step)] * 2]


def test_descend_each_clips_each_and_takes_an_optimiser_of_both_once():
    one, two = linear(3.0), linear(5.0)
    optims = [torch.optim.SGD(net.parameters(), lr=1.0) for net in (one, two)]
    descend_each(optims, (one(torch.ones(1, 2)) * 2 + two(torch.ones(1, 2)) * 40).sum(), max_grad_norm=0.5)
    for net in (one, two):
        assert torch.stack([p.grad.norm() for p in net.parameters()]).norm() == pytest.approx(0.5, rel=1e-4)
    both = torch.optim.SGD([*one.parameters(), *two.parameters()], lr=0.1)
    before = one.weight[0, 0].item()
    descend_each([both, both], (one(torch.ones(1, 2)) + two(torch.ones(1, 2))).sum())
    assert one.weight[0, 0].item() == pytest.approx(before - 0.1)


def test_optim_step_clips_the_given_module():
    layer = linear(1.0)
    optim = torch.optim.SGD(layer.parameters(), lr=1.0)
    optim_step(layer(torch.tensor([[3.0, 4.0]])).sum(), optim, module=layer, max_grad_norm=1.0)
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[0.4, 0.2]]), atol=1e-5, rtol=0)
    optim_step(layer(torch.tensor([[3.0, 4.0]])).sum(), optim)
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[-2.6, -3.8]]), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="module"):
        optim_step(layer(torch.ones(1, 2)).sum(), optim, max_grad_norm=1.0)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop", "NAdam", "RAdam", "Adadelta"])
def test_clone_optimizer_keeps_the_options(name):
    layer, other = linear(1.0), linear(2.0)
    optim = getattr(torch.optim, name)(layer.parameters(), lr=0.0125, weight_decay=0.25)
    clone = clone_optimizer(optim, other.parameters())
    assert type(clone) is type(optim)
    assert clone.defaults == optim.defaults
    assert clone.param_groups[0]["params"] == [other.weight]
    assert not clone.state


def test_clone_optimizer_refuses_strangers():
    class Mine(torch.optim.SGD):
        pass

    layer = linear(1.0)
    with pytest.raises(ValueError, match="Mine"):
        clone_optimizer(Mine(layer.parameters(), lr=0.1), layer.parameters())


def test_frozen_saves_gradients_and_restores_even_after_an_error():
    critic, actor = nn.Linear(1, 1), linear(1.0)
    critic.bias.requires_grad = False
    with frozen(critic):
        critic(actor(torch.ones(1, 2))).sum().backward()
    assert critic.weight.grad is None
    torch.testing.assert_close(actor.weight.grad, critic.weight.detach().expand(1, 2))
    assert critic.weight.requires_grad
    assert not critic.bias.requires_grad
    with pytest.raises(ZeroDivisionError), frozen(critic, actor):
        assert not actor.weight.requires_grad
        1 / 0  # noqa: B018
    assert actor.weight.requires_grad
    assert critic.weight.requires_grad


def network() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    net.shared = net[0].weight  # the same parameter twice must move once
    return net


def test_polyak_update_against_a_loop():
    source, target = network(), network()
    source(torch.randn(8, 3))  # moves BatchNorm's statistics
    expected = {
        name: 0.25 * p.detach().double() + 0.75 * q.detach().double()
        for (name, p), q in zip(source.named_parameters(), target.parameters(), strict=True)
    }
    polyak_update(target, source, 0.25)
    for name, p in target.named_parameters():
        torch.testing.assert_close(p.detach().double(), expected[name], atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(target[1].running_mean, source[1].running_mean, atol=0, rtol=0)
    assert target[1].num_batches_tracked == 1


def test_polyak_update_limits():
    source, target = network(), network()
    before = copy.deepcopy(target)
    polyak_update(target, source, 0.0)
    for p, q in zip(target.parameters(), before.parameters(), strict=True):
        assert torch.equal(p, q)
    polyak_update(target, source, 1.0)
    for p, q in zip(target.parameters(), source.parameters(), strict=True):
        assert torch.equal(p, q)
    for tau in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="tau"):
            polyak_update(target, source, tau)


def test_updates_see_replaced_parameters():
    source, target = linear(1.0), linear(2.0)
    polyak_update(target, source, 0.5)
    source.load_state_dict({"weight": torch.full((1, 2), 5.0)}, assign=True)
    hard_update(target, source)
    assert target.weight.tolist() == [[5.0, 5.0]]
    assert target.weight is not source.weight
    assert target.weight.requires_grad


def test_hard_update_copies_buffers_too():
    source, target = network(), network()
    source(torch.randn(8, 3))
    hard_update(target, source)
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name


def test_networks_without_parameters_have_nothing_to_update():
    polyak_update(nn.ReLU(), nn.ReLU(), 0.5)
    hard_update(nn.ReLU(), nn.ReLU())


def test_networks_of_different_structure_are_refused():
    with pytest.raises(RuntimeError):
        polyak_update(linear(1.0), network(), 0.5)
