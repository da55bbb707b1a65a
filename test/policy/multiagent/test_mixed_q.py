"""MixedQPolicy: its updates against loops in float64, and that agents do not leak into each other."""

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import Adam

from rlpolicy.data.batch import Batch
from rlpolicy.exploration.random import EpsilonGreedy
from rlpolicy.policy.multiagent.mixed_q import MixedQPolicy
from rlpolicy.utils.net.common import Net

sys.path.insert(0, str(Path(__file__).parent))
from games import ACTIONS, AGENTS, OBS, STATE, episode, expected_update, make, stored

MIXERS = ("qmix", "vdn", "iql")


def some_episodes(seed: int, early: Any = ("terminated", "truncated", None)) -> list[Any]:
    rng = np.random.default_rng(seed)
    ends = ("truncated", "terminated", "terminated")
    return [episode(rng, 3 + i, end, which) for i, (end, which) in enumerate(zip(ends, early, strict=True))]


def parameters(policy: MixedQPolicy) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in policy.model.named_parameters()}


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("mixer", MIXERS)
def test_an_update_equals_a_recomputation_in_float64(mixer: str, n_step: int, recurrent: bool) -> None:
    episodes = some_episodes(n_step)
    policy = make(mixer, estimation_step=n_step, recurrent=recurrent, share=mixer != "vdn")
    loss, after = expected_update(policy, episodes, n_step)
    stats = policy.update(0, stored(episodes))
    assert stats.loss == pytest.approx(loss, rel=1e-12)
    for name, value in parameters(policy).items():
        np.testing.assert_allclose(value, after[name].numpy(), rtol=1e-9, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("mixer", MIXERS)
def test_aggregated_rewards(mixer: str) -> None:
    """Both ways to the team's reward; independent learners get it as well when it is asked for."""
    rew = np.array([[1.0, 2.0, 6.0], [3.0, 0.0, 0.0]])
    k = AGENTS if mixer == "iql" else 1
    for aggregate, team in (("sum", [9.0, 3.0]), ("mean", [3.0, 1.0])):
        rewards = make(mixer, aggregate_rewards=aggregate).rewards
        np.testing.assert_array_equal(rewards(rew, None, (2, AGENTS)), np.repeat(np.array(team)[:, None], k, 1))
        np.testing.assert_array_equal(
            rewards(np.array(team), None, (2, AGENTS)), np.repeat(np.array(team)[:, None], k, 1)
        )
        np.testing.assert_array_equal(make(mixer, aggregate_rewards=aggregate).team_return(rew), team)
    alive = np.array([[True, False, True], [True, True, True]])
    assert make(mixer, aggregate_rewards="sum").rewards(rew, alive, (2, AGENTS))[:, 0].tolist() == [7.0, 3.0]
    own = make(mixer, aggregate_rewards=None)
    if mixer == "iql":
        np.testing.assert_array_equal(own.rewards(rew, None, (2, AGENTS)), rew)
    else:
        with pytest.raises(ValueError, match='aggregate_rewards="mean" or "sum"'):
            own.rewards(rew, None, (2, AGENTS))
    with pytest.raises(ValueError, match="rewards of 3 agents have shape"):
        own.rewards(rew[:, :2], None, (2, AGENTS))


def garbled(episodes: list[Any], rng: np.random.Generator) -> list[Any]:
    """The same with anything at all where an agent that is gone would see, do and get something."""
    other = copy.deepcopy(episodes)
    for steps in other:
        for t, step in enumerate(steps):
            dead = ~step["obs"]["alive"]
            step["act"][dead] = rng.integers(ACTIONS, size=dead.sum())
            step["rew"][dead] = 100.0 * rng.standard_normal(dead.sum())
            for key in ("obs", "obs_next"):
                gone = dead if key == "obs" else dead | step["info"]["agent_terminated"]
                step[key] = {**step[key], "obs": step[key]["obs"].copy(), "mask": step[key]["mask"].copy()}
                step[key]["obs"][gone] = 100.0 * rng.standard_normal((gone.sum(), OBS))
                step[key]["mask"][gone] = rng.random((gone.sum(), ACTIONS)) < 0.3
            if t and not step["terminated"]:
                steps[t - 1]["obs_next"] = step["obs"] if dead.any() else steps[t - 1]["obs_next"]
    return other


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10_000), mixer=st.sampled_from(MIXERS), n_step=st.integers(1, 3), recurrent=st.booleans(),
    joined=st.booleans(),
)  # fmt: skip
def test_agents_that_are_gone_do_not_leak(seed: int, mixer: str, n_step: int, recurrent: bool, joined: bool) -> None:
    episodes = some_episodes(seed, early=("terminated", "terminated", None))
    both = [episodes, garbled(episodes, np.random.default_rng(seed))]
    after = []
    for some in both:
        if joined:  # no state of its own: the observations of all are the state
            for step in (step for steps in some for step in steps):
                for key in ("obs", "obs_next"):
                    step[key] = {name: value for name, value in step[key].items() if name != "state"}
        shape = {"state_shape": AGENTS * OBS} if joined else {}
        policy = make(mixer, estimation_step=n_step, recurrent=recurrent, share=False, **shape)
        policy.update(0, stored(some))
        after.append(parameters(policy))
    for name, value in after[0].items():
        np.testing.assert_allclose(value, after[1][name], rtol=1e-10, atol=1e-12, err_msg=name)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), agent=st.integers(0, AGENTS - 1), recurrent=st.booleans(), n_step=st.integers(1, 2))
def test_independent_learners_learn_from_nothing_of_the_others(
    seed: int, agent: int, recurrent: bool, n_step: int
) -> None:
    """With networks and rewards of their own, whatever the others see, may do, do and get makes no difference."""
    rng = np.random.default_rng(seed)
    episodes = some_episodes(seed, early=(None, None, None))
    other = copy.deepcopy(episodes)
    others = np.arange(AGENTS) != agent
    for steps in other:
        for t, step in enumerate(steps):
            step["rew"][others] = rng.standard_normal(AGENTS - 1)
            step["obs"]["obs"][others] = rng.standard_normal((AGENTS - 1, OBS))
            step["obs"]["mask"][others] = True
            step["act"][others] = rng.integers(ACTIONS, size=AGENTS - 1)
            step["obs_next"] = steps[t + 1]["obs"] if t + 1 < len(steps) else step["obs_next"]
    weights = []
    for some in (episodes, other):
        policy = make("iql", share=False, recurrent=recurrent, estimation_step=n_step)
        policy.update(0, stored(some))
        weights.append(parameters(policy))
    own = [name for name in weights[0] if name.startswith(f"agents.nets.{agent}.")]
    assert own
    for name in own:
        np.testing.assert_allclose(weights[0][name], weights[1][name], rtol=1e-10, atol=1e-13, err_msg=name)


def test_greedy_and_random_actions_respect_each_agents_mask_and_number_of_actions() -> None:
    net = Net(OBS, 4, hidden_sizes=[4])
    policy = MixedQPolicy(
        model=net, optim=Adam(net.parameters()), action_space=spaces.MultiDiscrete([2, 4, 3]), mixer="vdn",
        exploration_noise=EpsilonGreedy(1.0, seed=0),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((300, 3, OBS), np.float32)
    batch = Batch(obs=obs, info=Batch())
    for act in (policy(batch).act, explored := policy.exploration_noise(policy(batch).act, batch)):
        assert (act < [2, 4, 3]).all()
    assert [len(np.unique(explored[:, a])) for a in range(3)] == [2, 4, 3]
    assert len(np.unique(explored, axis=0)) == 24  # each agent explores by itself
    mask = rng.random((300, 3, 4)) < 0.5
    mask[..., 0] |= ~(mask & (np.arange(4) < [[2], [4], [3]])).any(-1)
    masked = Batch(obs=Batch(obs=obs, mask=mask), info=Batch())
    for act in (policy(masked).act, policy.exploration_noise(policy(masked).act, masked)):
        assert np.take_along_axis(mask, act[..., None], -1).all()


def test_agents_explore_independently() -> None:
    policy = make("vdn", exploration_noise=EpsilonGreedy(0.5, seed=1))
    batch = Batch(obs=np.zeros((4000, AGENTS, OBS)), info=Batch())
    greedy = policy(batch).act
    changed = policy.exploration_noise(greedy, batch) != greedy
    rates = changed.mean(axis=0)
    np.testing.assert_allclose(rates, 0.5 * (1 - 1 / ACTIONS), atol=0.04)
    assert np.abs(np.corrcoef(changed.T.astype(float)) - np.eye(AGENTS)).max() < 0.06


def test_recurrent_agents_remember_step_by_step_what_they_see_in_sequences() -> None:
    policy = make("qmix", recurrent=True, share=False).eval()
    seen = np.random.default_rng(0).standard_normal((2, 6, AGENTS, OBS))
    state, stepwise = None, []
    for t in range(6):
        result = policy(Batch(obs=seen[:, t], info=Batch()), state)
        state = result.state
        stepwise.append(result.logits)
    features, _ = policy.model.memory.unroll(seen)
    q = policy.model.agents.on_features(features.flatten(0, 1)).view(2, 6, AGENTS, ACTIONS)
    torch.testing.assert_close(torch.stack(stepwise, dim=1), q)
    assert {leaf.shape[:2] for leaf in state.model.values()} == {(2, AGENTS)}


def test_the_mixer_is_trained_and_copied() -> None:
    policy = make("qmix", target_update_freq=2)
    assert policy.model.mixer is not policy.model_old.mixer
    known = {id(p) for group in policy.optim.param_groups for p in group["params"]}
    assert known == {id(p) for p in policy.model.parameters()}
    buffer = stored(some_episodes(0))
    policy._iter = 0
    policy.update(0, buffer)
    before = copy.deepcopy(policy.model_old.mixer.state_dict())
    policy.update(0, buffer)
    for name, value in policy.model_old.mixer.state_dict().items():
        torch.testing.assert_close(value, before[name])
    policy.update(0, buffer)
    assert any((value != before[name]).any() for name, value in policy.model_old.mixer.state_dict().items())


def test_own_mixer_and_state_of_the_observation_space() -> None:
    class Mean(nn.Module):
        needs_state = False

        def forward(self, q: torch.Tensor, state: Any = None) -> torch.Tensor:
            return q.mean(dim=1, keepdim=True)

    policy = make(Mean(), aggregate_rewards="mean")
    assert np.isfinite(policy.update(0, stored(some_episodes(0))).loss)
    net = Net(OBS, ACTIONS)
    seen = spaces.Box(-1, 1, (AGENTS, OBS))
    for space, size in (
        (spaces.Dict(obs=seen, state=spaces.Box(-1, 1, (2, 4))), 8),
        (spaces.Dict(obs=seen), 15),
        (seen, 15),
    ):
        policy = MixedQPolicy(
            model=net, optim=Adam(net.parameters()), action_space=spaces.MultiDiscrete([ACTIONS] * AGENTS),
            observation_space=space,
        )  # fmt: skip
        assert policy.model.mixer.state_dim == size


NET = Net(OBS, ACTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action_space": spaces.Discrete(4)}, "MultiDiscrete with one entry per agent"),
        ({"mixer": "mean"}, 'mixer must be "qmix", "vdn", "iql" or a module'),
        ({"aggregate_rewards": "max"}, 'aggregate_rewards must be "mean", "sum" or None'),
        ({"mixer": "qmix", "state_shape": None}, "needs the shape of the state"),
        ({"share_parameters": False}, "list of 3 networks"),
        ({"model": [NET, NET, NET]}, "takes one network, got 3"),
        ({"sequence_length": 4}, "sequence_length is for agents with a memory"),
        ({"mixing_embed_dim": 0}, "must be at least 1"),
        ({"tau": 0.1, "target_update_freq": 3}, "two ways to move one target network"),
        ({"discount_factor": 1.5}, "discount_factor must be in"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], message: str) -> None:
    good = {"model": NET, "action_space": spaces.MultiDiscrete([ACTIONS] * AGENTS), "state_shape": STATE}
    with pytest.raises(ValueError, match=message):
        MixedQPolicy(optim=Adam(NET.parameters()), **{**good, **options})


def test_wrong_shapes_are_told() -> None:
    policy = make("qmix")
    with pytest.raises(ValueError, match=r"observations of 3 agents have shape \(B, 3, ...\)"):
        policy(Batch(obs=np.zeros((2, OBS)), info=Batch()))
    episodes = some_episodes(0)
    for step in (step for steps in episodes for step in steps):
        for key in ("obs", "obs_next"):
            step[key] = {**step[key], "state": np.zeros(2)}
    with pytest.raises(ValueError, match="the mixer was made for states of 6 numbers, got 2"):
        policy.update(0, stored(episodes))
