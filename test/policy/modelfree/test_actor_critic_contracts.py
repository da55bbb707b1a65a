"""What TD3, SAC, REDQ and discrete SAC have in common, beyond the contract of all policies; and end to end."""

import copy
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.policy.base import BasePolicy
from rlpolicy.policy.modelfree.discrete_sac import DiscreteSACPolicy
from rlpolicy.policy.modelfree.redq import REDQPolicy
from rlpolicy.policy.modelfree.sac import SACPolicy
from rlpolicy.policy.modelfree.td3 import TD3Policy
from rlpolicy.seeding import seed_everything
from rlpolicy.trainer.offpolicy import offpolicy_trainer
from rlpolicy.utils.net import discrete
from rlpolicy.utils.net.common import EnsembleLinear, Net
from rlpolicy.utils.net.continuous import Actor, ActorProb, Critic

BOX, DISCRETE = spaces.Box(-2.0, 2.0, (1,)), spaces.Discrete(2)
Make = Callable[..., BasePolicy[Any]]


def with_optim(**nets: nn.Module) -> dict[str, Any]:
    optims = {f"{name}_optim": torch.optim.Adam(net.parameters(), lr=1e-2) for name, net in nets.items()}
    return {**nets, **optims}


def critic(o: int, **options: Any) -> Critic:
    return Critic(Net(o, 1, hidden_sizes=[8], concat=True, **options), flatten_input=not options, **options)


def td3(o: int = 3, **kwargs: Any) -> TD3Policy:
    nets = with_optim(actor=Actor(Net(o, hidden_sizes=[8]), 1), critic=critic(o))
    return TD3Policy(**{**nets, "action_space": BOX, **kwargs})


def gaussian(o: int) -> ActorProb:
    return ActorProb(Net(o, hidden_sizes=[8]), 1, unbounded=True, conditioned_sigma=True)


def sac(o: int = 3, **kwargs: Any) -> SACPolicy:
    nets = with_optim(actor=gaussian(o), critic=critic(o))
    return SACPolicy(**{**nets, "action_space": BOX, "alpha": "auto", **kwargs})


def redq(o: int = 3, **kwargs: Any) -> REDQPolicy:
    ensemble = critic(o, linear_layer=lambda n_in, n_out: EnsembleLinear(4, n_in, n_out))
    nets = with_optim(actor=gaussian(o), critic=ensemble)
    options = {"action_space": BOX, "alpha": "auto", "ensemble_size": 4, "actor_delay": 2}
    return REDQPolicy(**{**nets, **options, **kwargs})


def discrete_sac(o: int = 3, **kwargs: Any) -> DiscreteSACPolicy:
    nets = with_optim(
        actor=discrete.Actor(Net(o, hidden_sizes=[8]), 2, softmax_output=False),
        critic=discrete.Critic(Net(o, hidden_sizes=[8]), last_size=2),
    )
    return DiscreteSACPolicy(**{**nets, "action_space": DISCRETE, "alpha": "auto", **kwargs})


each = pytest.mark.parametrize("make", [td3, sac, redq, discrete_sac])
CLASSES = {td3: TD3Policy, sac: SACPolicy, redq: REDQPolicy, discrete_sac: DiscreteSACPolicy}
TARGETS = {
    td3: ["actor_old", "critic_old", "critic2_old"],
    sac: ["critic_old", "critic2_old"],
    redq: ["critic_old"],
    discrete_sac: ["critic_old", "critic2_old"],
}


def fill(buffer: ReplayBuffer, space: spaces.Space[Any]) -> ReplayBuffer:
    rng = np.random.default_rng(2)

    def obs() -> Any:
        return rng.normal(size=3).astype(np.float32)

    for i in range(20):
        act = rng.integers(2) if isinstance(space, spaces.Discrete) else rng.uniform(-1, 1, 1).astype(np.float32)
        flags = {"terminated": i == 6, "truncated": i == 13}
        buffer.add(Batch(obs=obs(), act=act, rew=rng.normal(), obs_next=obs(), **flags))
    return buffer


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    assert one.keys() == two.keys()
    return all(torch.equal(one[name], two[name]) for name in one)


@each
def test_constructor_takes_names_only(make: Make) -> None:
    with pytest.raises(TypeError, match="positional"):
        CLASSES[make](nn.Identity())  # type: ignore[index, call-arg]


@each
def test_terminated_steps_do_not_bootstrap_and_truncated_ones_do(make: Make) -> None:
    policy = make(gamma=0.5)
    buffer = fill(ReplayBuffer(20), policy.action_space)
    torch.manual_seed(0)
    batch = policy.process_fn(buffer[np.arange(20)], buffer, np.arange(20))
    torch.manual_seed(0)
    with torch.no_grad():
        value = policy._target_q(buffer, np.arange(20)).flatten().numpy()  # type: ignore[operator]
    expected = buffer.rew + 0.5 * np.where(np.arange(20) == 6, 0.0, value)
    np.testing.assert_allclose(batch.returns.flatten(), expected, rtol=1e-5)
    assert batch.returns[13, 0] != pytest.approx(buffer.rew[13])


@each
def test_modes(make: Make) -> None:
    policy = make()
    assert policy.train() is policy
    for mode in (True, False):
        policy.train(mode)
        assert policy.training is policy.actor.training is policy.critic.training is mode  # type: ignore[union-attr]
        for name in TARGETS[make]:  # type: ignore[index]
            target = getattr(policy, name)
            assert not any(module.training for module in target.modules())
            assert not any(p.requires_grad for p in target.parameters())
    assert {name for name, _ in policy.named_children() if name.endswith("_old")} == set(TARGETS[make])  # type: ignore[index]


@each
def test_targets_are_the_same_with_dropout(make: Make) -> None:
    """A target network in training mode would drop units at random."""

    class Dropping(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net, self.drop = net, nn.Dropout(0.9)

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.drop(self.net(*args, **kwargs))

    torch.manual_seed(0)
    inner = make()
    critics = {"critic": Dropping(inner.critic), "critic2": Dropping(inner.critic)}  # type: ignore[arg-type]
    if make is redq:
        critics.pop("critic2")
    policy = make(**with_optim(**critics), **({} if make is td3 else {"alpha": 0.0})).train()
    buffer = fill(ReplayBuffer(20), policy.action_space)
    values = []
    for _ in range(2):
        torch.manual_seed(0)
        values.append(policy._target_q(buffer, np.arange(20)))  # type: ignore[operator]
    assert torch.equal(values[0], values[1])
    old, obs, act = policy.critic_old, buffer.obs_next, policy(Batch(obs=buffer.obs_next, info=None)).act
    arguments = (obs,) if make is discrete_sac else (obs, act)
    torch.testing.assert_close(old(*arguments), inner.critic(*arguments))  # type: ignore[operator]


@each
def test_copies_go_on_alike_and_apart(make: Make) -> None:
    policy = make()
    buffer = fill(ReplayBuffer(20, seed=4), policy.action_space)
    policy.update(8, buffer)
    other, other_buffer = copy.deepcopy((policy, buffer))
    before = copy.deepcopy(policy.state_dict())
    torch.manual_seed(1)
    other.update(8, other_buffer)
    assert same(policy.state_dict(), before)
    torch.manual_seed(1)
    policy.update(8, buffer)
    assert same(policy.state_dict(), other.state_dict())


@each
def test_weights_of_samples_count(make: Make) -> None:
    def critic_after(weight: list[float] | None) -> Tensor:
        torch.manual_seed(0)
        policy = make(estimation_step=1)
        buffer = fill(ReplayBuffer(20), policy.action_space)
        indices = np.arange(2)
        batch = buffer[indices]
        if weight is not None:
            batch.weight = np.array(weight)
        torch.manual_seed(1)
        policy.learn(policy.process_fn(batch, buffer, indices))
        return nn.utils.parameters_to_vector(policy.critic.parameters())  # type: ignore[union-attr]

    plain, one, other = critic_after(None), critic_after([1.0, 1.0]), critic_after([1.0, 0.0])
    assert torch.equal(plain, one)
    assert not torch.allclose(one, other)


@each
def test_learning_rate_schedule(make: Make) -> None:
    nets = make()
    optim = torch.optim.SGD(nets.critic.parameters(), lr=0.1)  # type: ignore[union-attr]
    schedule = torch.optim.lr_scheduler.ExponentialLR(optim, 0.5)
    policy = make(critic=nets.critic, critic_optim=optim, lr_scheduler=schedule)
    buffer = fill(ReplayBuffer(20), policy.action_space)
    policy.update(8, buffer)
    policy.update(8, buffer)
    assert optim.param_groups[0]["lr"] == 0.025


@each
def test_training_end_to_end(make: Make) -> None:
    task, o = ("CartPole-v1", 4) if make is discrete_sac else ("Pendulum-v1", 3)

    def trained() -> tuple[Any, dict[str, Tensor]]:
        seed_everything(3)
        policy = make(o)
        train_envs = DummyVectorEnv([lambda: gym.make(task, max_episode_steps=40) for _ in range(2)])
        train_envs.seed(3)
        train = Collector(policy, train_envs, VectorReplayBuffer(500, 2, seed=1), exploration_noise=True)
        train.collect(n_step=50, random=True)
        info = offpolicy_trainer(
            policy,
            train,
            Collector(policy, DummyVectorEnv([lambda: gym.make(task, max_episode_steps=40)])),
            max_epoch=2,
            step_per_epoch=30,
            step_per_collect=6,
            episode_per_test=1,
            batch_size=16,
            update_per_step=0.5,
            seed=3,
            verbose=False,
            show_progress=False,
        )
        return info, copy.deepcopy(policy.state_dict())

    (info, one), (_, two) = trained(), trained()
    assert info.gradient_step == 30
    assert info.train_step == 60
    assert same(one, two)
    assert all(torch.isfinite(value).all() for value in one.values())


@pytest.mark.parametrize("make", [td3, sac, redq])
def test_actions_reach_the_environment_in_its_own_range(make: Make) -> None:
    policy = make()
    act = policy(Batch(obs=np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32), info=None)).act
    assert act.abs().max() <= 1
    np.testing.assert_allclose(policy.map_action(act), 2 * act.detach().numpy(), rtol=1e-6)
