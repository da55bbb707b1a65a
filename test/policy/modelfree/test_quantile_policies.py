"""What QR-DQN, IQN and FQF have in common: targets, masks, options, modes, checkpoints, whole runs."""

import copy
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.data.buffer.vecbuf import PrioritizedVectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.exploration.random import EpsilonGreedy
from rlpolicy.policy.modelfree.fqf import FQFPolicy
from rlpolicy.policy.modelfree.iqn import IQNPolicy
from rlpolicy.policy.modelfree.qrdqn import QRDQNPolicy
from rlpolicy.trainer.offpolicy import offpolicy_trainer
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.discrete import FractionProposalNetwork, FullQuantileFunction, ImplicitQuantileNetwork

O, ACTIONS, N, GAMMA = 4, 2, 5, 0.9  # noqa: E741 - observation, actions, quantiles
ALL = pytest.mark.parametrize("name", ["qrdqn", "iqn", "fqf"])
Policy = QRDQNPolicy | IQNPolicy | FQFPolicy


class Table(nn.Module):
    """Quantile i of action a is s · W_a + i / 10, at whatever fraction; answers in the manner of all three networks."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.w = nn.Parameter(torch.randn(O, ACTIONS, dtype=torch.float64))

    def forward(
        self,
        obs: Any,
        sample_size: int = N,
        propose_model: Any = None,
        fractions: Any = None,
        state: Any = None,
        info: Any = None,
    ) -> Any:
        s = torch.as_tensor(obs, dtype=torch.float64)
        # IQN may ask for more than it keeps: the last N are kept
        spread = torch.arange(-sample_size, 0, dtype=torch.float64) / 10 + N / 10
        quantiles = (s @ self.w).unsqueeze(2) + spread
        if self.name == "qrdqn":
            return quantiles
        if self.name == "iqn":
            return (quantiles, torch.rand(len(s), sample_size)), state
        taus = torch.linspace(0, 1, N + 1, dtype=torch.float64).expand(len(s), -1)
        fractions = Batch(taus=taus, tau_hats=taus[:, 1:] - 0.5 / N, entropies=propose_model(s).sum(1))
        return (quantiles, fractions, quantiles[:, :, 1:]), state


def make(name: str, table: bool = False, **options: Any) -> Policy:
    torch.manual_seed(0)
    given: dict[str, Any] = {"action_space": spaces.Discrete(ACTIONS), "discount_factor": GAMMA}
    features = Net(O, hidden_sizes=[8])
    match name:
        case "qrdqn":
            given |= {"model": Net(O, ACTIONS, hidden_sizes=[8], num_atoms=N), "num_quantiles": N}
        case "iqn":
            given |= {"model": ImplicitQuantileNetwork(features, ACTIONS, num_cosines=4), "target_sample_size": N}
        case "fqf":
            proposals = nn.Linear(O, 1).double() if table else FractionProposalNetwork(N, 8)
            given |= {
                "model": FullQuantileFunction(features, ACTIONS, num_cosines=4),
                "fraction_model": proposals,
                "fraction_optim": torch.optim.RMSprop(proposals.parameters(), lr=1e-4),
                "num_fractions": N,
            }
    if table:
        given["model"] = Table(name)
    given |= options
    given.setdefault("optim", torch.optim.Adam(given["model"].parameters(), lr=1e-2))
    return {"qrdqn": QRDQNPolicy, "iqn": IQNPolicy, "fqf": FQFPolicy}[name](**given)


def fill(buffer: ReplayBuffer, masks: NDArray[np.bool_] | None = None) -> ReplayBuffer:
    """12 rows: row 4 terminates, row 8 is truncated, row 10 both."""
    rng = np.random.default_rng(5)
    for i in range(12):
        obs, obs_next = rng.normal(size=(2, O))
        buffer.add(
            Batch(
                obs=obs if masks is None else Batch(obs=obs, mask=np.ones(ACTIONS, bool)),
                act=rng.integers(ACTIONS),
                rew=rng.normal(),
                terminated=i in (4, 10),
                truncated=i in (8, 10),
                obs_next=obs_next if masks is None else Batch(obs=obs_next, mask=masks[i]),
            )
        )
    return buffer


def returns_of(policy: Policy, buffer: ReplayBuffer) -> NDArray[np.float64]:
    rows = np.arange(12)
    returns: NDArray[np.float64] = policy.process_fn(buffer[rows], buffer, rows).returns.numpy()
    assert returns.shape == (12, N)
    return returns


def separate(policy: Policy) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the lagging table weights of its own; (W, W')."""
    with torch.no_grad():
        policy.model_old.w.copy_(torch.randn(O, ACTIONS, dtype=torch.float64))
    return policy.model.w.detach().numpy(), policy.model_old.w.detach().numpy()


SPREAD = np.arange(N) / 10

# -- targets ----------------------------------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("is_double", [True, False])
def test_targets(name: str, is_double: bool) -> None:
    """Truncated steps bootstrap and terminated ones do not; who chooses a* is is_double's to say."""
    policy = make(name, table=True, is_double=is_double, target_update_freq=3)
    w, w_old = separate(policy)
    buffer = fill(ReplayBuffer(20))
    q, q_old = buffer.obs_next[:12] @ w, buffer.obs_next[:12] @ w_old
    assert (q.argmax(1) != q_old.argmax(1)).any()
    best = (q if is_double else q_old).argmax(1)
    returns = returns_of(policy, buffer)
    for row in range(12):
        follows = 0.0 if row in (4, 10) else GAMMA * (q_old[row, best[row]] + SPREAD)
        np.testing.assert_allclose(returns[row], buffer.rew[row] + follows)


@ALL
def test_three_step_targets(name: str) -> None:
    """The whole distribution is that at the last step, by gamma to the number of steps that were really taken."""
    policy = make(name, table=True, estimation_step=3, target_update_freq=3)
    w, w_old = separate(policy)
    buffer = fill(ReplayBuffer(20))
    r = buffer.rew
    q_next = buffer.obs_next @ w_old
    best = (buffer.obs_next @ w).argmax(1)
    returns = returns_of(policy, buffer)
    for row, rewards, last, power in (
        (0, r[0] + 0.9 * r[1] + 0.81 * r[2], 2, 3),
        (3, r[3] + 0.9 * r[4], None, 0),
        (7, r[7] + 0.9 * r[8], 8, 2),
        (11, r[11], 11, 1),
    ):
        follows = 0.0 if last is None else GAMMA**power * (q_next[last, best[last]] + SPREAD)
        np.testing.assert_allclose(returns[row], rewards + follows)


@ALL
@pytest.mark.parametrize("is_double", [True, False])
def test_targets_without_a_lagging_copy(name: str, is_double: bool) -> None:
    policy = make(name, table=True, is_double=is_double)
    assert not hasattr(policy, "model_old")
    buffer = fill(ReplayBuffer(20))
    q = (buffer.obs_next[:12] @ policy.model.w.detach().numpy()).max(1)
    expected = buffer.rew[:12, None] + GAMMA * np.where(buffer.terminated[:12, None], 0.0, q[:, None] + SPREAD)
    np.testing.assert_allclose(returns_of(policy, buffer), expected)


@ALL
@pytest.mark.parametrize("is_double", [True, False])
def test_masks_count_in_targets(name: str, is_double: bool) -> None:
    masks = np.random.default_rng(0).random((12, ACTIONS)) < 0.5
    masks[np.arange(12), np.arange(12) % ACTIONS] = True
    masks[4] = False  # nothing is allowed where an episode has ended
    policy = make(name, table=True, is_double=is_double, target_update_freq=3)
    w, w_old = separate(policy)
    buffer = fill(ReplayBuffer(20), masks)
    q_old = buffer.obs_next.obs[:12] @ w_old
    judge = buffer.obs_next.obs[:12] @ w if is_double else q_old
    best = np.where(masks, judge, -np.inf).argmax(1)
    assert (best != judge.argmax(1)).any()
    returns = returns_of(policy, buffer)
    for row in range(12):
        follows = 0.0 if row in (4, 10) else GAMMA * (q_old[row, best[row]] + SPREAD)
        np.testing.assert_allclose(returns[row], buffer.rew[row] + follows)
    assert np.isfinite(policy.update(8, buffer).loss)


# -- acting -----------------------------------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("table", [True, False])
def test_masks_count_in_acting(name: str, table: bool) -> None:
    policy = make(name, table=table)
    rng = np.random.default_rng(1)
    mask = np.eye(ACTIONS, dtype=bool)[rng.integers(ACTIONS, size=50)]
    result = policy(Batch(obs=Batch(obs=rng.normal(size=(50, O)), mask=mask), info=None))
    np.testing.assert_array_equal(result.act, mask.argmax(1))
    assert isinstance(result.act, np.ndarray)
    assert result.logits.shape[:2] == (50, ACTIONS)
    assert result.logits.isfinite().all()
    assert result.state is None


@ALL
def test_dict_observations(name: str) -> None:
    """The network picks what it wants from an observation with keys."""
    policy = make(name)
    net = policy.model if name == "qrdqn" else policy.model.preprocess
    net.obs_key = "position"
    rng = np.random.default_rng(1)
    position = rng.normal(size=(6, O)).astype(np.float32)
    torch.manual_seed(0)
    with_keys = policy(Batch(obs=Batch(position=position, other=np.zeros(6)), info=None))
    torch.manual_seed(0)
    assert torch.equal(with_keys.logits, policy(Batch(obs=position, info=None)).logits)


@ALL
def test_exploration(name: str) -> None:
    policy = make(name, exploration_noise=EpsilonGreedy(0.5, seed=3))
    assert policy.eps == 0.5
    act = np.zeros(1000, np.int64)
    explored = policy.exploration_noise(act, Batch(obs=np.zeros((1000, O))))  # before any forward
    assert 0.2 < (explored != 0).mean() < 0.3  # half of the half stays
    policy.set_eps(0.0)
    assert policy.exploration_noise(act, Batch(obs=np.zeros((1000, O)))) is act
    assert make(name).eps == 0.0


# -- learning ---------------------------------------------------------------------------------------------------------


@ALL
def test_weights_multiply_the_losses(name: str) -> None:
    """Rows of weight zero do not count: twice the weight on the others gives what those rows alone give."""
    results = []
    for rows, weight in ((np.arange(8), np.repeat([2.0, 0.0], 4)), (np.arange(4), np.ones(4))):
        policy = make(name, table=True)
        policy.optim = torch.optim.SGD(policy.model.parameters(), lr=0.1)
        buffer = fill(ReplayBuffer(20))
        batch = buffer[rows]
        batch.weight = weight
        torch.manual_seed(1)
        batch = policy.process_fn(batch, buffer, rows)
        torch.manual_seed(1)
        if name == "iqn":  # the same fractions for the same rows
            policy.model.register_forward_hook(
                lambda *args: ((args[2][0][0], torch.full_like(args[2][0][1], 0.3)), None)
            )
        stats = policy.learn(batch)
        results.append((stats.loss, policy.model.w.detach().clone()))
    (loss, w), (loss_alone, w_alone) = results
    assert loss == pytest.approx(loss_alone)
    torch.testing.assert_close(w, w_alone)


@ALL
def test_priorities_reach_the_buffer(name: str) -> None:
    buffer = PrioritizedReplayBuffer(20, alpha=1.0, beta=0.4, seed=0)
    fill(buffer)
    before = np.array(buffer.weight[np.arange(12)])
    make(name).update(64, buffer)
    after = np.array(buffer.weight[np.arange(12)])
    assert (after > 0).all()
    assert (after != before).all()


@ALL
@pytest.mark.parametrize("target", [{"target_update_freq": 3}, {"tau": 0.25}])
def test_lagging_copy(name: str, target: dict[str, Any]) -> None:
    policy = make(name, table=True, **target)
    separate(policy)
    buffer = fill(ReplayBuffer(20, seed=0))
    assert not any(p.requires_grad for p in policy.model_old.parameters())
    for update in range(5):
        model, old = policy.model.w.detach().clone(), policy.model_old.w.detach().clone()
        policy.update(8, buffer)
        if "tau" in target:
            expected = 0.25 * policy.model.w.detach() + 0.75 * old
        else:
            expected = model if update % 3 == 0 else old
        torch.testing.assert_close(policy.model_old.w.detach(), expected)
        assert not torch.equal(policy.model.w.detach(), model)


@ALL
def test_gradients_are_clipped(name: str) -> None:
    policy = make(name, max_grad_norm=1e-3)
    policy.update(8, fill(ReplayBuffer(20, seed=0)))
    for net in [policy.model] + ([policy.fraction_model] if isinstance(policy, FQFPolicy) else []):
        norm = torch.stack([p.grad.norm() for p in net.parameters() if p.grad is not None]).norm()
        assert norm <= 1e-3 * 1.001
    norm = torch.stack([p.grad.norm() for p in policy.model.parameters() if p.grad is not None]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)


@ALL
@pytest.mark.parametrize("kappa", [0.01, 100.0])
def test_kappa(name: str, kappa: float) -> None:
    """κ ρ is |u| weighed by fractions for κ -> 0, and its half square for κ -> ∞, divided by κ."""
    policy = make(name, table=True, kappa=kappa)
    batch = Batch(obs=np.zeros((2, O)), act=np.zeros(2, int), info=None, returns=torch.full((2, N), 7.0))
    policy.learn(batch)
    # all quantiles of s = 0 are i / 10 - sample_size / 10 + N / 10; those of 8 samples begin at -0.3
    n_online = 8 if name == "iqn" else N
    u = 7.0 - (np.arange(n_online) + N - n_online) / 10
    expected = (np.abs(u) - kappa / 2).sum() if kappa < 1 else (u**2 / 2 / kappa).sum()
    np.testing.assert_allclose(batch.weight, expected)


# -- modes, copies, checkpoints ---------------------------------------------------------------------------------------


@ALL
def test_modes(name: str) -> None:
    policy = make(name, target_update_freq=3)
    assert policy.train() is policy
    assert policy.model.training
    assert not any(module.training for module in policy.model_old.modules())
    if isinstance(policy, FQFPolicy):
        assert policy.fraction_model.training
        assert not policy.eval().fraction_model.training
    assert policy.eval() is policy
    assert not policy.model.training


@ALL
def test_updates_work_in_evaluation_mode(name: str) -> None:
    policy = make(name, target_update_freq=3).eval()
    assert np.isfinite(policy.update(8, fill(ReplayBuffer(20, seed=0))).loss)
    assert not policy.training


@ALL
def test_checkpoint(name: str) -> None:
    policy, other = make(name, target_update_freq=3), make(name, target_update_freq=3)
    policy.update(8, fill(ReplayBuffer(20, seed=0)))
    state = policy.state_dict()
    other.load_state_dict(state)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in state.items())
    # Tianshou's checkpoints of IQN and FQF have an entry that nobody uses
    state["tau_hat"] = torch.zeros(1, N, 1)
    other.load_state_dict(state)
    assert "model_old.last.model.0.weight" in state or name == "qrdqn"


@ALL
def test_a_copy_is_independent(name: str) -> None:
    policy = make(name, target_update_freq=3)
    twin = copy.deepcopy(policy)
    policy.update(8, fill(ReplayBuffer(20, seed=0)))
    fresh = make(name, target_update_freq=3).state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in twin.state_dict().items())
    assert np.isfinite(twin.update(8, fill(ReplayBuffer(20, seed=0))).loss)


# -- errors -----------------------------------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"clip_loss_grad": True}, "clip_loss_grad=True has no meaning"),
        ({"reward_normalization": True}, "reward_normalization"),
        ({"discount_factor": 1.1}, "discount_factor"),
        ({"estimation_step": 0}, "estimation_step"),
        ({"target_update_freq": -1}, "target_update_freq"),
        ({"tau": 0.1, "target_update_freq": 5}, "two ways"),
        ({"kappa": 0.0}, "kappa"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"action_space": spaces.Box(-1, 1, (2,))}, "Discrete"),
    ],
)
def test_bad_options(name: str, bad: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make(name, **bad)


@ALL
def test_empty_buffer(name: str) -> None:
    with pytest.raises(ValueError, match="no transition"):
        make(name).update(8, ReplayBuffer(20))


# -- whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine make the tiny products of these tests very slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(name: str) -> tuple[dict[str, Tensor], float]:
    envs = [DummyVectorEnv([lambda: gym.make("CartPole-v1")] * 2) for _ in range(2)]
    torch.manual_seed(0)
    policy = make(
        name,
        estimation_step=3,
        target_update_freq=20,
        exploration_noise=EpsilonGreedy(0.2),
    )
    buffer = PrioritizedVectorReplayBuffer(1000, 2, alpha=0.6, beta=0.4)
    info = offpolicy_trainer(
        policy,
        Collector(policy, envs[0], buffer, exploration_noise=True),
        Collector(policy, envs[1]),
        max_epoch=2,
        step_per_epoch=150,
        step_per_collect=4,
        episode_per_test=2,
        batch_size=16,
        update_per_step=0.5,
        seed=0,
        verbose=False,
        show_progress=False,
    )
    for env in envs:
        env.close()
    assert info.gradient_step > 100
    return policy.state_dict(), info.best_reward


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread")
@ALL
def test_same_seed_same_run(name: str) -> None:
    (one, reward), (two, reward_again) = run(name), run(name)
    assert reward == reward_again > 0
    assert all(torch.equal(one[key], two[key]) for key in one)
    untrained = make(name, target_update_freq=20).state_dict()
    assert not any(torch.equal(one[key], untrained[key]) for key in one if key.startswith("model.") and "weight" in key)
