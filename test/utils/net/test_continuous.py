"""Networks for continuous actions against plain formulas."""

import numpy as np
import pytest
import torch
from torch import nn

from rlpolicy.utils.net.common import MLP, EnsembleLinear, Net, Recurrent
from rlpolicy.utils.net.continuous import (
    SIGMA_MAX,
    SIGMA_MIN,
    VAE,
    Actor,
    ActorProb,
    BatchRenorm,
    Critic,
    Perturbation,
    RecurrentActorProb,
    RecurrentCritic,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def names(module: nn.Module) -> list[str]:
    return list(module.state_dict())


def plain(n_in: int, n_out: int) -> nn.Module:
    """A network that returns a tensor, takes no state and knows no output_dim."""
    return nn.Sequential(nn.Linear(n_in, n_out), nn.ReLU())


def test_actor_scales_a_tanh_and_hands_the_state_through():
    actor = Actor(Net(3, hidden_sizes=[8]), (2,), [6], max_action=2.0)
    obs = np.random.default_rng(0).normal(size=(5, 3))
    act, state = actor(obs, "state")
    torch.testing.assert_close(act, 2.0 * torch.tanh(actor.last(actor.preprocess(obs)[0])))
    assert state == "state"
    assert actor.get_preprocess_net() is actor.preprocess
    assert actor.get_output_dim() == actor.output_dim == 2
    assert names(actor)[0] == "preprocess.model.model.0.weight"
    assert names(actor)[-1] == "last.model.2.bias"


@pytest.mark.parametrize("kind", [Actor, ActorProb])
def test_actors_keep_the_preprocess_networks_hidden_state(kind):
    actor = kind(Recurrent(1, 3, 4, hidden_layer_size=8), 2, preprocess_net_output_dim=4)
    obs = torch.randn(5, 3)
    _, first = actor(obs)
    assert first.hidden.shape == (5, 1, 8)
    out, second = actor(obs, first)
    assert not torch.equal(second.hidden, first.hidden)
    fresh, _ = actor(obs)
    pair = (out, fresh) if kind is Actor else (out[0], fresh[0])
    assert not torch.equal(*pair)


@pytest.mark.parametrize("kind", [Actor, ActorProb])
def test_actors_take_plain_networks(kind):
    actor = kind(plain(3, 8), 2, preprocess_net_output_dim=8)
    result, state = actor(torch.randn(5, 3))
    assert state is None
    assert (result if kind is Actor else result[0]).shape == (5, 2)


def test_critic_joins_state_and_action():
    critic = Critic(Net((3, 2), 2, [8], concat=True), [6])
    obs, act = torch.randn(5, 3, 2), np.ones((5, 2))
    joined = torch.cat([obs.reshape(5, 6), torch.ones(5, 2)], dim=1)
    value = critic(obs, act)
    assert value.shape == (5, 1)
    torch.testing.assert_close(value, critic.last(critic.preprocess(joined)[0]))
    assert Critic(Net(3, hidden_sizes=[8]))(np.zeros((5, 3))).shape == (5, 1)
    assert Critic(plain(5, 8), preprocess_net_output_dim=8)(np.zeros((5, 3)), act).shape == (5, 1)


def test_critic_can_preprocess_the_observation_alone():
    conv = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten())  # (B, 1, 3, 3) -> (B, 8)
    critic = Critic(conv, preprocess_net_output_dim=10, apply_preprocess_net_to_obs_only=True)
    obs, act = torch.randn(5, 1, 3, 3), torch.randn(5, 2)
    torch.testing.assert_close(critic(obs, act), critic.last(torch.cat([conv(obs), act], dim=1)))
    values = Critic(conv, preprocess_net_output_dim=8, apply_preprocess_net_to_obs_only=True)
    assert values(obs).shape == (5, 1)


def test_critic_of_an_ensemble():
    def layer(n_in: int, n_out: int) -> nn.Module:
        return EnsembleLinear(4, n_in, n_out)

    net = Net(3, 2, [8, 8], concat=True, linear_layer=layer)
    critic = Critic(net, linear_layer=layer, flatten_input=False)
    values = critic(torch.randn(5, 3), torch.randn(5, 2))
    assert values.shape == (4, 5, 1)
    assert not torch.equal(values[0], values[1])


def test_each_network_sees_its_own_observations():
    actor = Actor(Net(3, hidden_sizes=[8]), 2, obs_key="seen")
    prob = ActorProb(Net(3, hidden_sizes=[8]), 2, obs_key="seen")
    critic = Critic(Net(7, 2, [8], concat=True), obs_key=["seen", "hidden"])
    obs = {"seen": np.ones((5, 3)), "hidden": np.zeros((5, 2, 2))}
    act = actor(obs)[0]
    assert torch.equal(act, actor(obs["seen"])[0])
    assert torch.equal(prob(obs)[0][0], prob(obs["seen"])[0][0])
    joined = np.concatenate([obs["seen"], np.zeros((5, 4))], axis=1)
    assert torch.equal(critic(obs, act), critic(joined, act))


def test_actor_prob_with_a_free_sigma():
    actor = ActorProb(Net(3, hidden_sizes=[8]), 2, max_action=3.0)
    with torch.no_grad():
        actor.sigma_param[:] = torch.tensor([[0.0], [1.0]])
    (mu, sigma), _ = actor(np.ones((5, 3)))
    torch.testing.assert_close(mu, 3.0 * torch.tanh(actor.mu(actor.preprocess(np.ones((5, 3)))[0])))
    torch.testing.assert_close(sigma, torch.tensor([1.0, np.e], dtype=torch.float32).expand(5, 2))
    sigma.sum().backward()
    torch.testing.assert_close(actor.sigma_param.grad, 5 * torch.tensor([[1.0], [np.e]], dtype=torch.float32))
    assert actor.sigma_param.shape == (2, 1)
    assert actor.get_output_dim() == 2
    assert actor.get_preprocess_net() is actor.preprocess


def test_actor_prob_with_a_computed_sigma():
    actor = ActorProb(Net(3, hidden_sizes=[8]), 2, [4], conditioned_sigma=True, unbounded=True)
    obs = np.ones((5, 3))
    (mu, sigma), _ = actor(obs)
    features = actor.preprocess(obs)[0]
    torch.testing.assert_close(mu, actor.mu(features))
    torch.testing.assert_close(sigma, actor.sigma(features).exp())
    with torch.no_grad():
        actor.sigma.model[-1].bias[:] = torch.tensor([100.0, -100.0])
    (_, sigma), _ = actor(obs)
    assert sigma[0].tolist() == pytest.approx([np.exp(SIGMA_MAX), np.exp(SIGMA_MIN)])
    assert "sigma.model.0.weight" in names(actor)


def test_unbounded_actors_have_no_max_action():
    with pytest.warns(UserWarning, match="unbounded"):
        actor = ActorProb(Net(3), 2, max_action=2.0, unbounded=True)
    assert actor.max_action == 1.0
    with pytest.warns(UserWarning, match="unbounded"):
        assert RecurrentActorProb(1, (3,), (2,), max_action=2.0, unbounded=True).max_action == 1.0


@pytest.mark.parametrize("conditioned", [True, False])
@pytest.mark.parametrize("unbounded", [True, False])
def test_recurrent_actor_prob(conditioned, unbounded):
    actor = RecurrentActorProb(2, (3, 1), (2,), 8, conditioned_sigma=conditioned, unbounded=unbounded)
    x = torch.randn(5, 4, 3)
    (mu, sigma), final = actor(x)
    assert mu.shape == sigma.shape == (5, 2)
    assert (sigma > 0).all()
    features = actor.nn(x)[0][:, -1]
    raw = actor.mu(features)
    torch.testing.assert_close(mu, raw if unbounded else torch.tanh(raw))
    if conditioned:
        torch.testing.assert_close(sigma, actor.sigma(features).exp())
    state = None
    for t in range(4):
        (step_mu, _), state = actor(x[:, t], state)
    torch.testing.assert_close(step_mu, mu)
    assert state.hidden.shape == final["hidden"].shape == (5, 2, 8)


def test_recurrent_critic():
    critic = RecurrentCritic(1, (3,), (2,), hidden_layer_size=8)
    x, act = torch.randn(5, 4, 3), torch.randn(5, 2)
    value = critic(x, act)
    torch.testing.assert_close(value, critic.fc2(torch.cat([critic.nn(x)[0][:, -1], act], dim=1)))
    assert RecurrentCritic(1, (3,))(x).shape == (5, 1)
    for error in (ValueError, AssertionError):
        with pytest.raises(error, match=r"\(5, 3\)"):
            critic(x[:, 0], act)


@pytest.mark.parametrize("net", [MLP(5, 2, [8]), Net(3, 2, [2], concat=True)])
def test_perturbation_stays_near_and_in_range(net):
    perturb = Perturbation(net, max_action=2.0, phi=0.1)
    state, action = torch.randn(100, 3), torch.rand(100, 2) * 4 - 2
    out = perturb(state, action)
    assert (out - action).abs().max() <= 0.2 + 1e-6
    assert out.abs().max() <= 2.0
    raw = net(torch.cat([state, action], dim=1))
    raw = raw[0] if isinstance(raw, tuple) else raw
    torch.testing.assert_close(out, (action + 0.2 * torch.tanh(raw)).clamp(-2, 2))


def test_vae_reconstructs_from_mean_and_noise():
    vae = VAE(MLP(5, 8, [8]), MLP(7, 2, [8]), hidden_dim=8, latent_dim=4, max_action=1.5)
    state, action = torch.randn(6, 3), torch.randn(6, 2)
    torch.manual_seed(3)
    recon, mean, std = vae(state, action)
    torch.manual_seed(3)
    z = mean + std * torch.randn(6, 4)
    torch.testing.assert_close(recon, 1.5 * torch.tanh(vae.decoder(torch.cat([state, z], dim=1))))
    torch.testing.assert_close(recon, vae.decode(state, z))
    hidden = vae.encoder(torch.cat([state, action], dim=1))
    torch.testing.assert_close(std, vae.log_std(hidden).exp())
    torch.manual_seed(3)
    drawn = vae.decode(state)
    torch.manual_seed(3)
    torch.testing.assert_close(drawn, vae.decode(state, torch.randn(6, 4).clamp(-0.5, 0.5)))


def test_networks_compile_into_one_graph():
    actor = Actor(Net(3, hidden_sizes=[8], obs_key="seen"), 2)
    critic = Critic(Net(3, 2, [8], concat=True), obs_key="seen")

    def q_value(obs):
        return critic(obs, actor(obs)[0])

    obs = {"seen": torch.randn(5, 3)}
    compiled = torch.compile(q_value, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(obs), q_value(obs))


def test_critic_of_quantiles() -> None:
    critic = Critic(Net(3, 2, hidden_sizes=[4], concat=True), num_quantiles=7)
    assert critic.output_dim == 7
    assert critic(np.zeros((5, 3)), np.zeros((5, 2))).shape == (5, 7)


def test_batch_renorm_equals_the_equations() -> None:
    torch.manual_seed(0)
    layer = BatchRenorm(3, eps=0.01, momentum=0.2, warmup=2, r_max=1.5, d_max=0.4).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
        layer.bias.copy_(torch.tensor([0.1, 0.0, 3.0]))
    running_mean, running_var = np.zeros(3), np.ones(3)
    limited = 0
    for passes in range(6):
        x = (3.0 + passes) * torch.randn(8, 3, dtype=torch.float64) + torch.tensor([0.0, 1.0, -5.0])
        x = x.requires_grad_()
        y = layer(x)
        y.square().sum().backward()

        z = x.detach().clone().requires_grad_()
        mean, var = z.mean(0), ((z - z.mean(0)) ** 2).mean(0)
        std, running_std = np.sqrt(var.detach().numpy() + 0.01), np.sqrt(running_var + 0.01)
        r, d = std / running_std, (mean.detach().numpy() - running_mean) / running_std
        limited += int(np.any(r > 1.5) or np.any(np.abs(d) > 0.4))
        r, d = (np.clip(r, 1 / 1.5, 1.5), np.clip(d, -0.4, 0.4)) if passes >= 2 else (np.ones(3), np.zeros(3))
        expected = (z - mean) / (var + 0.01).sqrt() * torch.tensor(r) + torch.tensor(d)
        expected = expected * layer.weight.detach() + layer.bias.detach()
        expected.square().sum().backward()
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(x.grad, z.grad)
        running_mean = 0.8 * running_mean + 0.2 * mean.detach().numpy()
        running_var = 0.8 * running_var + 0.2 * var.detach().numpy() * 8 / 7  # as torch's own: the unbiased variance
        np.testing.assert_allclose(layer.running_mean, running_mean)
        np.testing.assert_allclose(layer.running_var, running_var)
        assert int(layer.num_batches_tracked) == passes + 1
    assert limited
    x = torch.randn(1, 3, dtype=torch.float64)
    expected = (x - torch.tensor(running_mean)) / torch.sqrt(torch.tensor(running_var) + 0.01)
    torch.testing.assert_close(layer.eval()(x), expected * layer.weight + layer.bias)
    assert int(layer.num_batches_tracked) == 6


def test_batch_renorm_options() -> None:
    for wrong in ({"warmup": -1}, {"r_max": 0.5}, {"d_max": -1.0}):
        with pytest.raises(ValueError, match="needs warmup >= 0, r_max >= 1, d_max >= 0"):
            BatchRenorm(3, **wrong)


def test_features_and_action_are_joined_behind_the_preprocess_net() -> None:
    critic = Critic(Net(3, hidden_sizes=[4]), [5], apply_preprocess_net_to_obs_only=True, action_shape=2)
    assert critic(np.zeros((7, 3)), np.zeros((7, 2))).shape == (7, 1)
    with pytest.raises(ValueError, match="action_shape is for apply_preprocess_net_to_obs_only=True"):
        Critic(Net(3, hidden_sizes=[4]), action_shape=2)
