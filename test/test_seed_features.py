"""Every feature of the documents that the project answers to (``design``, section 5) has a test that fails without it.

``ROWS`` says which; tests that had no other place are below the table.
"""

import ast
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ExponentialLR, StepLR

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.exploration.random import EpsilonGreedy
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy
from rlpolicy.policy.modelfree.dqn import DQNPolicy
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils.logger.base import LazyLogger
from rlpolicy.utils.lr_scheduler import MultipleLRSchedulers
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, Critic
from rlpolicy.utils.optim import optimizers_of

sys.path.insert(0, str(Path(__file__).parent / "policy"))
sys.path.insert(0, str(Path(__file__).parent / "trainer"))
import runs
import zoo

TEST = Path(__file__).parent
HERE = "test_seed_features.py"
TRAINER, CALLBACKS = "trainer/test_offpolicy.py", "trainer/callbacks"
DDPG = "policy/test_ddpg.py"
ROWS: dict[str, list[str]] = {
    # TorchRL's trainers
    "collector": [f"{TRAINER}::test_run_counts_everything"],
    "total_frames": [f"{TRAINER}::test_total_steps"],
    "frame_skip": ["trainer/test_frame_skip.py::test_counters_count_frames_and_updates_count_decisions"],
    "optim_steps_per_batch": [
        f"{TRAINER}::test_gradient_steps_per_collect",
        f"{TRAINER}::test_fractions_of_updates_add_up",
    ],
    "loss_module, optimizer": ["policy/test_contract.py::test_updates_change_the_weights_and_report_finite_losses"],
    "clip_grad_norm, clip_norm": [
        f"{HERE}::test_gradients_of_every_algorithm_are_clipped",
        f"{DDPG}::test_gradients_are_clipped",
    ],
    "logger, log_interval": [
        f"{TRAINER}::test_logger_gets_everything_at_its_intervals",
        "utils/logger/test_base.py::test_intervals",
    ],
    "enable_logging": ["utils/logger/test_base.py::test_lazy_logger_does_nothing"],
    "progress_bar": [f"{TRAINER}::test_bar_when_asked", f"{TRAINER}::test_silent_when_asked"],
    "log_rewards, log_actions, log_observations": [f"{CALLBACKS}/test_rollout.py::test_each_part_alone"],
    "seed": [
        f"{TRAINER}::test_same_seed_same_weights_and_same_buffer",
        "test_reproducible.py::test_same_seed_same_run",
    ],
    "save_trainer_interval, save_trainer_file": ["trainer/test_checkpoint.py::test_saves_come_when_they_are_due"],
    "load_from_file": ["trainer/test_checkpoint.py::test_the_same_run", f"{HERE}::test_load_from_file_is_load"],
    "weights_only": ["fuzz/test_loaders.py", "policy/test_bundle.py::test_no_pickle_anywhere"],
    "replay_buffer, batch_size": [
        f"{TRAINER}::test_run_counts_everything",
        "policy/test_base_policy.py::test_update_sizes",
    ],
    "target_net_updater: SoftUpdate": [
        f"{DDPG}::test_sync_weight_is_soft",
        "policy/modelfree/test_c51.py::test_updates_equal_the_equations",
    ],
    "target_net_updater: HardUpdate": [
        "policy/modelfree/test_dqn.py::test_hard_copies_come_before_updates_0_freq_2_freq"
    ],
    "greedy_module": [
        "trainer/test_schedules.py::test_learning_rate_epsilon_and_beta",
        f"{HERE}::test_epsilon_set_in_train_fn",
    ],
    "async_collection": [
        "trainer/test_async.py::test_the_replay_ratio_is_exact",
        "trainer/test_async.py::test_weights_are_whole_and_those_of_a_known_update",
    ],
    "log_timings": [f"{CALLBACKS}/test_timings.py::test_seconds_go_to_the_phase_that_took_them"],
    "request_stop": [f"{TRAINER}::test_request_stop", f"{TRAINER}::test_request_stop_while_iterating"],
    "mixing_strategy": [
        "experiment/test_team.py::test_a_team_is_trained_and_evaluated",
        "policy/multiagent/test_two_step_game.py",
        "policy/multiagent/test_mixed_q.py::test_an_update_equals_a_recomputation_in_float64",
    ],
    "aggregated_reward_key, aggregated_episode_reward_key": [
        "policy/multiagent/test_mixed_q.py::test_aggregated_rewards",
    ],
    "Hydra configuration counterpart": [
        "experiment/test_config.py::test_a_config_is_the_script_that_one_would_write",
        "experiment/test_config.py::test_hydra_structured_configs",
    ],
    "done_key, terminated_key": [f"{CALLBACKS}/test_rollout.py::test_done_and_terminated_may_be_elsewhere"],
    "reward_key, episode_reward_key, action_key, observation_key": [f"{CALLBACKS}/test_rollout.py::test_dotted_keys"],
    # Tianshou's DDPGPolicy
    "actor, critic, their optimisers, tau, gamma": [f"{DDPG}::test_updates_equal_the_equations"],
    "action_space, action_scaling, action_bound_method": [
        "policy/test_action.py::test_clip_and_scale_table",
        f"{DDPG}::test_bad_spaces",
    ],
    "estimation_step": [f"{DDPG}::test_three_step_targets"],
    "observation_space": ["policy/test_base_policy.py::test_attributes"],
    "lr_scheduler": ["policy/test_base_policy.py::test_update_steps_the_scheduler_and_keeps_the_mode"],
    "forward": [f"{DDPG}::test_forward"],
    "exploration_noise": [f"{DDPG}::test_exploration_noise_is_added_and_not_clipped"],
    "learn, process_fn": [f"{DDPG}::test_updates_equal_the_equations"],
    "set_exp_noise": [f"{DDPG}::test_which_noise"],
    "sync_weight": [f"{DDPG}::test_sync_weight_is_soft"],
    "train": [f"{DDPG}::test_targets_stay_in_evaluation_mode"],
    "DDPGTrainingStats": [f"{HERE}::test_losses_are_what_they_say", f"{DDPG}::test_stats_and_vector_buffer"],
    # skrl's DDPG
    "DDPG_CFG": ["experiment/test_config.py::test_options_reach_their_places"],
    "gradient_steps": [f"{TRAINER}::test_gradient_steps_per_collect"],
    "discount_factor, polyak": [f"{DDPG}::test_updates_equal_the_equations"],
    "learning_rate, one or two": [f"{HERE}::test_one_rate_for_each_network"],
    "learning_rate_scheduler, kwargs": [
        "utils/test_lr_scheduler.py::test_one_class_for_all_or_one_per_optimiser",
        f"{HERE}::test_one_rate_for_each_network",
    ],
    "random_timesteps, learning_starts": [f"{TRAINER}::test_learning_starts_and_random_steps"],
    "grad_norm_clip": [f"{HERE}::test_gradients_of_every_algorithm_are_clipped"],
    "exploration_noise, kwargs, scheduler": [
        "trainer/test_schedules.py::test_noise",
        "exploration/test_random.py::test_schedules_set_the_scale",
    ],
    "observation_preprocessor, state_preprocessor": [
        "policy/test_preprocessing.py::test_all_networks_see_through_it",
        "utils/net/test_scaler.py::test_keys_have_statistics_of_their_own",
        "utils/net/test_scaler.py::test_evaluation_freezes",
    ],
    "rewards_shaper": ["data/test_reward_shaper.py::test_shaped_rewards_are_stored_and_true_returns_reported"],
    "state_space": ["policy/test_dict_observations.py::test_privileged_critic_and_nested_keys"],
    "mixed_precision": [
        "policy/test_precision.py::test_linear_layers_are_low_but_for_the_last",
        "policy/test_precision.py::test_nothing_low_leaves_the_networks",
    ],
    "RNN": [
        "policy/modelfree/test_recurrent_learning.py::test_remembers_a_cue",
        "utils/net/test_recurrent.py::test_a_sequence_is_its_steps",
    ],
    "Dict and Box observations": [
        "policy/test_contract.py::test_dict_observations",
        "policy/test_dict_observations.py::test_image_beside_a_vector",
    ],
    "Box actions": ["policy/test_contract.py::test_one_observation_gives_an_action_of_the_space"],
    "distributed SPMD": [
        "distributed/test_torchrun.py::test_two_ranks_learn_what_one_process_learns_from_the_joined_minibatches",
        "distributed/test_torchrun.py::test_a_run_on_two_ranks_goes_on_exactly",
    ],
    "experiment: directory, write_interval": [
        "experiment/test_cli.py::test_what_is_in_the_folder",
        "utils/logger/test_tensorboard.py::test_scalars_and_saves_come_back",
        "utils/logger/test_base.py::test_intervals",
    ],
    "experiment: checkpoint_interval": ["trainer/test_checkpoint.py::test_saves_come_when_they_are_due"],
    "experiment: wandb": ["utils/logger/test_wandb.py::test_it_writes_through_tensorboard"],
    "act, record_transition, update, enable_training_mode": [
        f"{HERE}::test_own_loop_learns_and_goes_on",
        "policy/test_base_policy.py::test_act_for_a_loop_of_ones_own",
    ],
    "pre_interaction, post_interaction": [f"{HERE}::test_own_loop_learns_and_goes_on"],
    "track_data": ["utils/logger/test_base.py::test_track_writes_at_once", f"{HERE}::test_own_loop_learns_and_goes_on"],
    "write_checkpoint, save, load": [
        "policy/test_bundle.py::test_loaded_policies_act_alike",
        f"{HERE}::test_own_loop_learns_and_goes_on",
    ],
    "environments written in JAX": ["env/test_gymnasium_vector.py::test_tensors_in_and_out"],
}
"""Feature, by its name there -> tests, relative to ``test/``."""


@cache
def names_in(path: str) -> set[str]:
    tree = ast.parse((TEST / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("feature", ROWS)
def test_each_feature_has_tests(feature: str) -> None:
    assert ROWS[feature]
    for place in ROWS[feature]:
        path, _, name = place.partition("::")
        assert names_in(path), f"{path} has no test"
        assert not name or name in names_in(path), f"{place} does not exist"


# -- tests of their own -----------------------------------------------------------------------------------------------


def plain_descent(policy: Any) -> None:
    """Gradient descent at rate 1: a network moves by exactly its gradient."""
    for part in policy.modules():
        for name, value in vars(part).items():
            if isinstance(value, Adam):
                setattr(part, name, SGD([p for group in value.param_groups for p in group["params"]], lr=1.0))


@pytest.mark.parametrize("name", zoo.ZOO)
def test_gradients_of_every_algorithm_are_clipped(name: str) -> None:
    moved: dict[float | None, list[float]] = {}
    for limit in (None, 1e-3):
        policy = zoo.make(name, max_grad_norm=limit)
        plain_descent(policy)
        buffer, batch = ReplayBuffer(60, seed=0), zoo.transitions(name, 60)
        for i in range(60):
            buffer.add(batch[i])
        optims = [optim for optim in optimizers_of(policy) if sum(len(g["params"]) for g in optim.param_groups) > 1]
        params = [[p for group in optim.param_groups for p in group["params"]] for optim in optims]
        before = [[p.detach().clone() for p in group] for group in params]
        torch.manual_seed(0)
        for _ in range(2):  # actors that wait
            policy.update(16, buffer)
        steps = [torch._foreach_sub(group, old) for group, old in zip(params, before, strict=True)]
        moved[limit] = [float(torch.cat([s.detach().flatten() for s in step]).norm()) for step in steps]
    assert len(moved[1e-3]) >= (1 if hasattr(policy, "model") else 2)
    assert max(moved[None]) > 1e-2
    assert max(moved[1e-3]) <= 2 * 1e-3 * 1.01
    assert all(distance > 0.0 for distance in moved[1e-3])


def test_one_rate_for_each_network() -> None:
    actor, critic = Actor(Net(3, hidden_sizes=[8]), 1), Critic(Net(3, 1, hidden_sizes=[8], concat=True))
    slow, fast = Adam(actor.parameters(), lr=1e-4), Adam(critic.parameters(), lr=1e-2)
    policy = DDPGPolicy(
        actor=actor, actor_optim=slow, critic=critic, critic_optim=fast, action_space=gym.spaces.Box(-1, 1, (1,)),
        lr_scheduler=MultipleLRSchedulers(ExponentialLR(slow, gamma=0.5), StepLR(fast, step_size=2, gamma=0.1)),
    )  # fmt: skip
    buffer = ReplayBuffer(20, seed=0)
    for _ in range(20):
        obs = np.random.default_rng(0).standard_normal(3)
        buffer.add(Batch(obs=obs, act=np.zeros(1), rew=1.0, terminated=False, truncated=False, obs_next=obs))
    before = [torch.cat([p.detach().flatten() for p in net.parameters()]) for net in (actor, critic)]
    policy.update(8, buffer)
    after = [torch.cat([p.detach().flatten() for p in net.parameters()]) for net in (actor, critic)]
    steps = [float((b - a).abs().max()) for a, b in zip(before, after, strict=True)]
    assert steps == pytest.approx([1e-4, 1e-2], rel=0.05)  # Adam's first step is the learning rate
    policy.update(8, buffer)
    assert [slow.param_groups[0]["lr"], fast.param_groups[0]["lr"]] == pytest.approx([0.25e-4, 1e-3])


def test_losses_are_what_they_say() -> None:
    torch.manual_seed(0)
    actor, critic = Actor(Net(3, hidden_sizes=[8]), 1), Critic(Net(3, 1, hidden_sizes=[8], concat=True))
    policy = DDPGPolicy(
        actor=actor, actor_optim=SGD(actor.parameters(), lr=0.0), critic=critic,
        critic_optim=SGD(critic.parameters(), lr=0.0), action_space=gym.spaces.Box(-1, 1, (1,)), gamma=0.0,
    )  # fmt: skip
    obs, act = torch.randn(6, 3), torch.rand(6, 1)
    buffer = ReplayBuffer(6, seed=0)
    for i in range(6):
        buffer.add(
            Batch(obs=obs[i].numpy(), act=act[i].numpy(), rew=float(i), terminated=False, truncated=False,
                  obs_next=obs[i].numpy())
        )  # fmt: skip
    stats = policy.update(0, buffer)
    with torch.no_grad():
        td = critic(obs, act).flatten() - torch.arange(6.0)
        assert stats.critic_loss == pytest.approx(float(td.square().mean()), rel=1e-5)
        assert stats.actor_loss == pytest.approx(-float(critic(obs, actor(obs)[0]).mean()), rel=1e-5)


def dqn_run(noise: Any, train_fn: Callable[[Any], Any] | None = None, **options: Any) -> tuple[DQNPolicy, np.ndarray]:
    """A short run on CartPole, whose network always prefers action 0: the policy, and the actions taken."""
    model = Net(4, 2, hidden_sizes=[4])
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        list(model.parameters())[-1][0] = 1.0
    policy = DQNPolicy(
        model=model, optim=SGD(model.parameters(), lr=0.0), action_space=gym.spaces.Discrete(2), exploration_noise=noise
    )
    envs = DummyVectorEnv([lambda: gym.make("CartPole-v1")] * 2)
    train = Collector(policy, envs, VectorReplayBuffer(400, 2), exploration_noise=True)
    offpolicy_trainer(
        policy, train, None, max_epoch=2, step_per_epoch=100, step_per_collect=2, episode_per_test=None, batch_size=4,
        train_fn=None if train_fn is None else train_fn(policy), seed=0, verbose=False, show_progress=False, **options,
    )  # fmt: skip
    return policy, train.buffer.sample(0)[0].act


def test_epsilon_set_in_train_fn() -> None:
    def train_fn(policy: DQNPolicy) -> Any:
        return lambda epoch, env_step: policy.set_eps(1.0 if epoch == 1 else 0.0)

    policy, act = dqn_run(EpsilonGreedy(0.5), train_fn)
    first, second = act.reshape(2, 2, 50).transpose(1, 0, 2).reshape(2, -1)  # two rings of two epochs
    assert 0.3 < first.mean() < 0.7
    assert second.sum() == 0
    assert policy.eps == 0.0


def test_load_from_file_is_load(tmp_path: Path) -> None:
    first = runs.make_trainer("ddpg", max_epoch=1)
    first.run()
    first.save(tmp_path)
    second = runs.make_trainer("ddpg", max_epoch=1, seed=4)
    second.load_from_file(tmp_path)
    runs.assert_same(
        {k: v.numpy() for k, v in first.policy.state_dict().items()},
        {k: v.numpy() for k, v in second.policy.state_dict().items()},
    )
    for trainer in (first, second):
        runs.close(trainer)


# -- a loop of one's own ----------------------------------------------------------------------------------------------


class Tracked(LazyLogger):
    """Keeps what is tracked."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, Any]]] = []

    def write(self, step_type: str, step: int, data: dict[str, Any]) -> None:
        self.rows.append((step, data))


class OwnLoop:
    """The loop of docs/own_loop.md, whose place can be kept."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        actor, critic = Actor(Net(3, hidden_sizes=[8]), 1), Critic(Net(3, 1, hidden_sizes=[8], concat=True))
        self.env = gym.make("Pendulum-v1", max_episode_steps=25)
        self.policy = DDPGPolicy(
            actor=actor, actor_optim=Adam(actor.parameters(), lr=1e-2), critic=critic,
            critic_optim=Adam(critic.parameters(), lr=1e-2), action_space=self.env.action_space,
        )  # fmt: skip
        self.policy.seed(0)
        self.buffer, self.logger = ReplayBuffer(1_000, seed=0), Tracked()
        self.obs, _ = self.env.reset(seed=0)

    def run(self, begin: int, end: int) -> None:
        policy, env, buffer, obs = self.policy, self.env, self.buffer, self.obs
        for step in range(begin, end):
            act = policy.act(obs[None], explore=True)[0]
            after, rew, terminated, truncated, _ = env.step(policy.map_action(act))
            buffer.add(Batch(obs=obs, act=act, rew=rew, terminated=terminated, truncated=truncated, obs_next=after))
            obs = env.reset()[0] if terminated or truncated else after
            if step >= 20:
                self.logger.track("own/critic_loss", policy.update(8, buffer).critic_loss, step)
        self.obs = obs


def test_own_loop_learns_and_goes_on(tmp_path: Path) -> None:
    loop = OwnLoop()
    untrained = [p.detach().clone() for p in loop.policy.parameters()]
    loop.run(0, 60)
    assert all(not torch.equal(a, b) for a, b in zip(untrained, loop.policy.parameters(), strict=True))
    assert [step for step, _ in loop.logger.rows] == list(range(20, 60))
    assert all(np.isfinite(data["own/critic_loss"]) for _, data in loop.logger.rows)

    loop.policy.save(tmp_path / "policy")
    loop.buffer.save(tmp_path / "buffer.npz")
    torch.save(loop.policy.training_state(), tmp_path / "training.pt")
    other = OwnLoop()
    other.policy.load(tmp_path / "policy")
    probe = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(other.policy.act(probe), loop.policy.act(probe))
    assert (other.policy.act(probe, explore=True) != other.policy.act(probe)).all()

    other.policy.load_training_state(torch.load(tmp_path / "training.pt", weights_only=True))
    other.buffer = ReplayBuffer.load(tmp_path / "buffer.npz")
    other.buffer.seed(5)
    loop.buffer.seed(5)
    other.env, other.obs = gym.make("Pendulum-v1", max_episode_steps=25), loop.obs
    other.env.reset(seed=1)
    loop.env.reset(seed=1)
    loop.run(60, 90)
    other.run(60, 90)
    for ours, theirs in zip(loop.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_own_loop_has_eight_lines() -> None:
    text = (TEST.parent / "docs" / "own_loop.md").read_text(encoding="utf-8")
    loop = next(block for block in text.split("```python\n") if block.startswith("obs, info = env.reset("))
    lines = loop.partition("```")[0].strip().splitlines()
    assert len(lines) == 8
    for call in ("policy.act(", "buffer.add(", "policy.update(", "logger.track("):
        assert any(call in line for line in lines)
