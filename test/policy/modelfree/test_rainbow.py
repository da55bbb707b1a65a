"""Rainbow: what it adds to C51, the noise, and its whole update."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.data.buffer.vecbuf import PrioritizedVectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.policy.modelfree.rainbow import RainbowPolicy, noisy_layers, sample_noise
from rlpolicy.seeding import seed_everything
from rlpolicy.trainer.offpolicy import offpolicy_trainer
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.discrete import NoisyLinear

O, A, K = 3, 4, 6  # noqa: E741 - observation, actions, atoms
GAMMA, LOW, HIGH = 0.9, -2.0, 3.0
NOISY = {"linear_layer": NoisyLinear}


def make_policy(**kwargs: Any) -> RainbowPolicy:
    torch.manual_seed(3)
    model = Net(O, A, hidden_sizes=[8], softmax=True, num_atoms=K, dueling_param=(NOISY, NOISY)).double()
    wrapped = InFloat64(model)
    options = {
        "model": wrapped,
        "optim": torch.optim.SGD(wrapped.parameters(), lr=0.05),
        "action_space": spaces.Discrete(A),
        "discount_factor": GAMMA,
        "num_atoms": K,
        "v_min": LOW,
        "v_max": HIGH,
        **kwargs,
    }
    policy = RainbowPolicy(**options)
    if hasattr(policy, "model_old"):
        for p in policy.model_old.parameters():
            p.data += 0.5 * torch.randn_like(p)
    return policy


class InFloat64(nn.Module):
    """The parts of a dueling ``Net`` in float64, put together again."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.trunk, self.q, self.v = net.model.model, net.Q.model, net.V.model  # type: ignore[union-attr]

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> Tensor:
        x = self.trunk(torch.as_tensor(obs, dtype=torch.float64))
        q, v = self.q(x).view(-1, A, K), self.v(x).view(-1, 1, K)
        return (q - q.mean(1, keepdim=True) + v).softmax(-1)


def fill(buffer: ReplayBuffer, steps: int = 14) -> ReplayBuffer:
    """Steps 4, 10 terminate, step 8 is truncated."""
    rng = np.random.default_rng(5)
    for i in range(steps):
        obs, obs_next = rng.normal(size=(2, O))
        flags = {"terminated": i in (4, 10), "truncated": i == 8}
        buffer.add(Batch(obs=obs, act=rng.integers(A), rew=rng.normal(), obs_next=obs_next, **flags))
    return buffer


def noise_of(net: nn.Module) -> list[Tensor]:
    return [x.clone() for layer in noisy_layers(net) for x in (layer.eps_p, layer.eps_q)]


def differ(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(not torch.equal(x, y) for x, y in zip(a, b, strict=True))


# -- noise ------------------------------------------------------------------------------------------------------------


def test_every_update_draws_noise_for_the_target_the_choice_and_the_loss() -> None:
    policy = make_policy(target_update_freq=100)
    seen: dict[str, list[list[Tensor]]] = {"model": [], "model_old": []}
    for name, record in seen.items():
        net = getattr(policy, name)
        net.register_forward_hook(lambda net, args, out, record=record: record.append(noise_of(net)))
    buffer = fill(ReplayBuffer(20, seed=0))
    for _ in range(2):
        policy.update(8, buffer)
    choice, loss, choice_again, loss_again = seen["model"]
    target, target_again = seen["model_old"]
    drawn = [choice, loss, target, choice_again, loss_again, target_again]
    for i, one in enumerate(drawn):
        for other in drawn[i + 1 :]:
            assert differ(one, other)


def test_a_hard_copy_does_not_leave_the_target_with_the_networks_noise() -> None:
    policy = make_policy(target_update_freq=1)
    targets, choices = [], []
    policy.model_old.register_forward_hook(lambda net, args, out: targets.append(noise_of(net)))
    policy.model.register_forward_hook(lambda net, args, out: choices.append(noise_of(net)))
    buffer = fill(ReplayBuffer(20, seed=0))
    for _ in range(2):
        policy.update(8, buffer)
    assert differ(targets[1], choices[1])  # the loss's noise of update 0, which the copy took over
    assert differ(targets[1], choices[2])


def test_modes() -> None:
    policy = make_policy(target_update_freq=1)
    for mode in (True, False, True):
        assert policy.train(mode) is policy
        assert policy.model.training is mode
        for module in policy.model_old.modules():
            assert module.training is isinstance(module, NoisyLinear)
    obs = Batch(obs=np.zeros((1, O)), info=None)
    still = policy.eval()(obs).logits
    sample_noise(noisy_layers(policy.model))
    assert torch.equal(policy(obs).logits, still)
    moving = policy.train()(obs).logits
    sample_noise(noisy_layers(policy.model))
    assert not torch.equal(policy(obs).logits, moving)


def test_a_copied_policy_draws_its_own_noise() -> None:
    policy = make_policy(target_update_freq=1)
    clone = copy.deepcopy(policy)
    before = noise_of(policy)
    clone.update(8, fill(ReplayBuffer(20, seed=0)))
    assert all(torch.equal(a, b) for a, b in zip(before, noise_of(policy), strict=True))
    assert differ(before, noise_of(clone))


def test_mode_of_a_new_policy_is_that_of_its_network() -> None:
    policy = make_policy(target_update_freq=1)
    assert policy.training
    assert [m.training for m in policy.model_old.modules() if isinstance(m, NoisyLinear)] == [True] * 2


# -- one update -------------------------------------------------------------------------------------------------------


def probabilities(params: dict[str, Tensor], noise: list[Tensor] | None, s: np.ndarray) -> Tensor:
    """softmax of the dueling sum, with weights μ + σ f(ξ) f(ξ)ᵀ written out; noise: p, q of the two noisy layers."""
    x = torch.relu(torch.from_numpy(s) @ params["trunk.0.weight"].T + params["trunk.0.bias"])
    heads = []
    for name, (eps_in, eps_out) in zip(("q", "v"), (noise[:2], noise[2:]), strict=True):  # type: ignore[index]
        w = params[f"{name}.0.mu_W"] + params[f"{name}.0.sigma_W"] * eps_out[:, None] * eps_in[None, :]
        b = params[f"{name}.0.mu_bias"] + params[f"{name}.0.sigma_bias"] * eps_out
        heads.append((x @ w.T + b).view(len(s), -1, K))
    e = (heads[0] - heads[0].mean(1, keepdim=True) + heads[1]).exp()
    return e / e.sum(-1, keepdim=True)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("double", [True, False])
def test_an_update_equals_the_equations(n: int, double: bool) -> None:
    policy = make_policy(target_update_freq=100, estimation_step=n, is_double=double)
    policy._iter = 1  # no copy now
    buffer = fill(PrioritizedReplayBuffer(20, alpha=0.6, beta=0.4, seed=1))
    buffer.update_weight(np.arange(14), np.linspace(0.1, 2.0, 14))
    new, old = (
        {name: p.detach().clone() for name, p in net.named_parameters()} for net in (policy.model, policy.model_old)
    )
    batch, i = buffer.sample(16)
    weight = torch.from_numpy(np.array(batch.weight))
    batch = policy.process_fn(batch, buffer, i)
    choice, target_noise = noise_of(policy.model), noise_of(policy.model_old)
    stats = policy.learn(batch)
    loss_noise = noise_of(policy.model)

    z, targets = np.linspace(LOW, HIGH, K), []
    for row in i:
        reward, factor = 0.0, 1.0
        for step in range(n):
            reward += factor * buffer.rew[row]
            factor *= GAMMA
            if step == n - 1 or buffer.terminated[row] or buffer.truncated[row] or row == 13:
                break
            row += 1
        s_next = buffer.obs_next[row][None]
        p_old = probabilities(old, target_noise, s_next)[0].numpy()
        judge = probabilities(new, choice, s_next)[0].numpy() if double else p_old
        p = p_old[(judge * z).sum(-1).argmax()]
        moved = reward + (0.0 if buffer.terminated[row] else factor) * z
        distance = np.abs(np.clip(moved, LOW, HIGH)[None, :] - z[:, None]) / (z[1] - z[0])
        targets.append((np.clip(1 - distance, 0, 1) * p).sum(1))
    m = torch.from_numpy(np.stack(targets))
    np.testing.assert_allclose(batch.target_dist, m, atol=1e-12)

    leaves = {name: p.clone().requires_grad_() for name, p in new.items()}
    chosen = probabilities(leaves, loss_noise, buffer.obs[i])[torch.arange(16), torch.from_numpy(buffer.act[i])]
    entropies = -(m * torch.log(chosen + 1e-8)).sum(1)
    loss = (weight * entropies).mean()
    grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    assert stats.loss == pytest.approx(loss.item(), rel=1e-10)
    for name, p in policy.model.named_parameters():
        assert p.grad is not None
        np.testing.assert_allclose(p.grad, grads[name], rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(p.detach(), new[name] - 0.05 * grads[name], rtol=1e-8, atol=1e-12)
    for name, p in policy.model_old.named_parameters():
        assert torch.equal(p, old[name])
    np.testing.assert_allclose(batch.weight, entropies.detach(), rtol=1e-5)


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_without_a_copy_and_without_noise() -> None:
    model = Net(O, A, hidden_sizes=[8], softmax=True, num_atoms=K)
    policy = make_policy(model=model, optim=torch.optim.Adam(model.parameters()), tau=None)
    assert np.isfinite(policy.update(8, fill(ReplayBuffer(20, seed=0))).loss)
    noisy = make_policy()
    assert not hasattr(noisy, "model_old")
    assert np.isfinite(noisy.update(8, fill(ReplayBuffer(20, seed=0))).loss)


def test_masks() -> None:
    policy = make_policy().eval()
    mask = np.zeros((5, A), bool)
    mask[:, 1] = True
    batch = Batch(obs=Batch(obs=np.random.default_rng(0).normal(size=(5, O)), mask=mask), info=None)
    result = policy(batch)
    assert result.act.tolist() == [1] * 5
    q = policy.compute_q_value(result.logits, mask)
    assert torch.isinf(q).sum() == 5 * (A - 1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"action_space": spaces.Box(-1, 1, (2,))}, "Rainbow needs a Discrete"),
        ({"num_atoms": 1}, "num_atoms"),
        ({"clip_loss_grad": True}, "Rainbow"),
        ({"tau": 0.1, "target_update_freq": 3}, "target_update_freq"),
    ],
)
def test_wrong_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make_policy(**options)


def train_a_little(seed: int) -> RainbowPolicy:
    seed_everything(seed)
    model = Net(4, 2, hidden_sizes=[16], softmax=True, num_atoms=11, dueling_param=(NOISY, NOISY))
    policy = RainbowPolicy(
        model=model,
        optim=torch.optim.Adam(model.parameters(), lr=1e-3),
        action_space=spaces.Discrete(2),
        num_atoms=11,
        v_min=0.0,
        v_max=50.0,
        estimation_step=3,
        target_update_freq=20,
    )
    buffer = PrioritizedVectorReplayBuffer(500, 2, alpha=0.6, beta=0.4)
    envs = [DummyVectorEnv([lambda: gym.make("CartPole-v1")] * 2) for _ in range(2)]
    info = offpolicy_trainer(
        policy,
        Collector(policy, envs[0], buffer, exploration_noise=True),
        Collector(policy, envs[1]),
        max_epoch=1,
        step_per_epoch=200,
        step_per_collect=4,
        episode_per_test=2,
        batch_size=16,
        update_per_step=0.5,
        seed=seed,
        verbose=False,
        show_progress=False,
    )
    assert info.gradient_step == 100
    return policy


def test_same_seed_same_weights() -> None:
    first, second, other = (train_a_little(seed) for seed in (1, 1, 2))
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
