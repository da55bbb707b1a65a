"""Networks for discrete actions against plain formulas."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rlpolicy.utils.net.common import MLP, Net, Recurrent
from rlpolicy.utils.net.discrete import (
    Actor,
    CosineEmbeddingNetwork,
    Critic,
    FractionProposalNetwork,
    FullQuantileFunction,
    ImplicitQuantileNetwork,
    IntrinsicCuriosityModule,
    NoisyLinear,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_actor_gives_probabilities_or_logits():
    obs = np.random.default_rng(0).normal(size=(5, 3))
    actor = Actor(Net(3, hidden_sizes=[8]), 4, [6])
    probs, state = actor(obs, "state")
    torch.testing.assert_close(probs.sum(1), torch.ones(5))
    assert state == "state"
    actor.softmax_output = False
    logits, _ = actor(obs)
    torch.testing.assert_close(probs, torch.softmax(logits, dim=1))
    assert actor.get_preprocess_net() is actor.preprocess
    assert actor.get_output_dim() == 4


def test_actor_and_critic_take_plain_and_recurrent_networks():
    plain = nn.Sequential(nn.Linear(3, 8))
    obs = torch.randn(5, 3)
    assert Actor(plain, 4, preprocess_net_output_dim=8)(obs)[0].shape == (5, 4)
    assert Critic(plain, preprocess_net_output_dim=8)(obs).shape == (5, 1)
    recurrent = Recurrent(1, 3, 8, hidden_layer_size=4)
    actor = Actor(recurrent, 4, preprocess_net_output_dim=8)
    _, state = actor(obs)
    assert state.hidden.shape == (5, 1, 4)
    critic = Critic(recurrent, preprocess_net_output_dim=8)
    assert not torch.equal(critic(obs, state=state), critic(obs))


def test_critic_sizes_and_names():
    critic = Critic(Net(3, hidden_sizes=[8]), [6], last_size=4)
    assert critic(np.zeros((5, 3))).shape == (5, 4)
    assert [name.rsplit(".", 1)[0] for name in critic.state_dict()][::2] == [
        "preprocess.model.model.0",
        "last.model.0",
        "last.model.2",
    ]


def test_each_network_sees_its_own_observations():
    obs = {"seen": np.ones((5, 3)), "hidden": np.zeros((5, 2))}
    actor = Actor(Net(3, hidden_sizes=[8]), 4, obs_key="seen")
    critic = Critic(Net(5, hidden_sizes=[8]), obs_key=("seen", "hidden"))
    assert torch.equal(actor(obs)[0], actor(obs["seen"])[0])
    assert torch.equal(critic(obs), critic(np.concatenate([obs["seen"], obs["hidden"]], axis=1)))


def test_cosine_embedding_against_its_formula():
    embed = CosineEmbeddingNetwork(3, 4)
    taus = torch.rand(5, 2)
    weight, bias = embed.net[0].weight, embed.net[0].bias
    out = embed(taus)
    assert out.shape == (5, 2, 4)
    for b in range(5):
        for n in range(2):
            cosines = torch.cos(torch.pi * torch.tensor([1.0, 2.0, 3.0]) * taus[b, n])
            torch.testing.assert_close(out[b, n], torch.relu(weight @ cosines + bias))


def test_iqn_shapes_and_values():
    net = ImplicitQuantileNetwork(Net(3, hidden_sizes=[8]), 4, [5], num_cosines=6)
    obs = torch.randn(5, 3)
    (quantiles, taus), state = net(obs, 7, state="state")
    assert quantiles.shape == (5, 4, 7)
    assert taus.shape == (5, 7)
    assert ((taus >= 0) & (taus < 1)).all()
    assert state == "state"
    features = net.preprocess(obs)[0]
    for b in range(5):
        embedded = net.embed_model(taus[b : b + 1])[0]  # (7, 8)
        torch.testing.assert_close(quantiles[b].T, net.last(embedded * features[b]))


def test_fraction_proposals():
    propose = FractionProposalNetwork(4, 8)
    taus, tau_hats, entropies = propose(torch.randn(5, 8))
    probs = taus.diff(dim=1)
    assert taus.shape == (5, 5)
    torch.testing.assert_close(taus[:, 0], torch.zeros(5))
    torch.testing.assert_close(taus[:, -1], torch.ones(5))
    torch.testing.assert_close(tau_hats, (taus[:, 1:] + taus[:, :-1]) / 2)
    torch.testing.assert_close(entropies, torch.distributions.Categorical(probs=probs).entropy())
    assert taus.requires_grad
    assert not tau_hats.requires_grad
    assert probs.min() > 0.2  # near equal at the start


def test_fqf():
    net = FullQuantileFunction(Net(3, hidden_sizes=[8]), 2, num_cosines=6)
    propose = FractionProposalNetwork(4, 8)
    obs = torch.randn(5, 3)
    (quantiles, fractions, quantiles_tau), state = net(obs, propose)
    assert quantiles.shape == (5, 2, 4)
    assert quantiles_tau.shape == (5, 2, 3)
    assert not quantiles_tau.requires_grad
    assert fractions.taus is fractions["taus"]
    assert state is None
    features = net.preprocess(obs)[0]
    torch.testing.assert_close(quantiles, net.quantiles(features, fractions.tau_hats))
    torch.testing.assert_close(quantiles_tau, net.quantiles(features, fractions.taus[:, 1:-1]))
    (again, same, _), _ = net(obs, propose, fractions=fractions)
    assert same is fractions
    torch.testing.assert_close(again, quantiles)
    fractions.taus.sum().backward()  # the proposal's gradient does not reach the features
    assert propose.net.weight.grad is not None
    assert net.preprocess.model.model[0].weight.grad is None
    net.eval()
    assert net(obs, propose)[0][2] is None


def test_noisy_linear_is_plain_in_eval_mode_and_noisy_in_training():
    layer = NoisyLinear(4, 3, noisy_std=0.8)
    x = torch.randn(5, 4)
    weight = layer.mu_W + layer.sigma_W * torch.outer(layer.eps_q, layer.eps_p)
    bias = layer.mu_bias + layer.sigma_bias * layer.eps_q
    torch.testing.assert_close(layer(x), F.linear(x, weight, bias))
    noisy = layer(x)
    assert torch.equal(noisy, layer(x))  # the same noise until sample() is called
    layer.sample()
    assert not torch.equal(noisy, layer(x))
    layer.eval()
    torch.testing.assert_close(layer(x), F.linear(x, layer.mu_W, layer.mu_bias))
    assert layer.sigma_W.unique().tolist() == pytest.approx([0.4])
    assert layer.mu_W.abs().max() <= 0.5
    assert set(layer.state_dict()) == {"mu_W", "sigma_W", "mu_bias", "sigma_bias", "eps_p", "eps_q"}


def test_noise_is_a_signed_root_of_a_normal():
    layer = NoisyLinear(50_000, 1)
    eps = layer.eps_p.double()
    assert eps.mean().item() == pytest.approx(0.0, abs=0.02)
    assert eps.square().mean().item() == pytest.approx(np.sqrt(2 / np.pi), rel=0.02)  # E|n|


@pytest.mark.parametrize("feature_net", [MLP(3, 8, [8]), Net(3, 8, [8])])
def test_curiosity(feature_net):
    icm = IntrinsicCuriosityModule(feature_net, 8, 4, [6])
    s1, s2, act = torch.randn(5, 3), torch.randn(5, 3), np.array([0, 3, 1, 1, 2])
    error, logits = icm(s1, act, s2)
    assert error.shape == (5,)
    assert logits.shape == (5, 4)

    def phi(s):
        out = feature_net(s)
        return out[0] if isinstance(out, tuple) else out

    for b in range(5):
        one_hot = torch.eye(4)[act[b]]
        predicted = icm.forward_model(torch.cat([phi(s1)[b], one_hot])[None])[0]
        torch.testing.assert_close(error[b], 0.5 * ((predicted - phi(s2)[b]) ** 2).sum())
    torch.testing.assert_close(logits, icm.inverse_model(torch.cat([phi(s1), phi(s2)], dim=1)))
