"""The tables for those who come from other libraries: every name that they give for rlpolicy is one."""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import rlpolicy
from rlpolicy.data import Batch, Collector, CollectStats, InfoStats, VectorReplayBuffer
from rlpolicy.env import SubprocVectorEnv
from rlpolicy.experiment import DDPGConfig, cli
from rlpolicy.policy import DQNPolicy
from rlpolicy.policy.options import PolicyOptions
from rlpolicy.trainer import OffpolicyTrainer
from rlpolicy.utils import JSONLLogger

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ["coming_from.md", "coming_from_tianshou.md"]

OBJECTS = {
    "policy": DQNPolicy,
    "buffer": VectorReplayBuffer,
    "collector": Collector,
    "trainer": OffpolicyTrainer,
    "logger": JSONLLogger,
    "envs": SubprocVectorEnv,
    "batch": Batch,
    "stats": CollectStats,
    "info": InfoStats,
    "config": DDPGConfig,
    "torch": torch,
    "nn": torch.nn,
    "np": np,
    "gymnasium": gymnasium,
    "rlpolicy": rlpolicy,
}
"""What short names in the tables stand for."""
PLACEHOLDERS = {
    *("actor", "critic", "net", "optim", "optimiser", "writer", "fn", "env_fns", "other_envs", "space", "action_space"),
    *("train", "train_collector", "test_collector", "obs", "act", "name", "value", "step", "path", "directory"),
    *("size", "n_envs", "batch_size", "seed", "k", "t", "n", "a", "b"),
}
"""Names of the reader's own things. Functions and classes are never among them."""
FROM_TORCH = {"Adam": torch.optim.Adam, "SummaryWriter": object}


def rows(page: str) -> Iterator[tuple[str, str]]:
    """(theirs, ours) of each row of the tables whose last column is headed "rlpolicy"."""
    ours = False
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            ours = False
        elif cells[-1] == "rlpolicy":
            ours = True
        elif ours and not set(line) <= set("|- "):
            yield cells[0], cells[-1]


@cache
def public() -> dict[str, list[Any]]:
    """The public classes and functions by their names."""
    found: dict[str, list[Any]] = {}
    for info in pkgutil.walk_packages(rlpolicy.__path__, "rlpolicy."):
        if info.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(info.name)).items():
            is_ours = (getattr(value, "__module__", None) or "").startswith("rlpolicy.")
            if is_ours and not name.startswith("_") and (inspect.isclass(value) or inspect.isroutine(value)):
                found.setdefault(name, []).append(value)
    return found


def parameters(thing: Any) -> set[str]:
    """The names of the arguments that something takes, those of the classes below it included."""
    names = set(PolicyOptions.__annotations__)
    for each in inspect.getmro(thing) if inspect.isclass(thing) else [thing]:
        try:
            names |= set(inspect.signature(each).parameters)
        except (ValueError, TypeError):
            continue
    return names - {"args", "kwargs", "options", "self"}


@cache
def words() -> set[str]:
    """The arguments of everything public, and the attributes, fields and methods of public classes."""
    found = set(public())
    for thing in (each for things in public().values() for each in things):
        found |= parameters(thing)
        if inspect.isclass(thing):
            found |= {name for name in dir(thing) if not name.startswith("_")}
            found |= {field.name for field in fields(thing)} if is_dataclass(thing) else set()
    return found


class Checker(ast.NodeVisitor):
    """Finds the names of a piece of code that are nothing of ours."""

    def __init__(self) -> None:
        self.unknown: list[str] = []

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        things = self.things(node.func)
        for keyword in node.keywords:
            if things and not any(keyword.arg in parameters(thing) for thing in things):
                self.unknown.append(f"{ast.unparse(node.func)}({keyword.arg}=)")

    def things(self, node: ast.expr) -> list[Any]:
        """What an expression may stand for; nothing if that is not known."""
        if isinstance(node, ast.Name):
            given = OBJECTS.get(node.id, FROM_TORCH.get(node.id))
            return public().get(node.id, []) if given is None else [given]
        if isinstance(node, ast.Attribute):
            return [getattr(thing, node.attr) for thing in self.things(node.value) if hasattr(thing, node.attr)]
        return []

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and node.value.id in OBJECTS:
            base = OBJECTS[node.value.id]
            names = {field.name for field in fields(base)} if is_dataclass(base) else set()
            if not (hasattr(base, node.attr) or node.attr in names):
                self.unknown.append(ast.unparse(node))
        elif isinstance(node.value, ast.Name) and node.value.id in public():
            if not any(hasattr(each, node.attr) for each in public()[node.value.id]):
                self.unknown.append(ast.unparse(node))
        elif ast.unparse(node).startswith("rlpolicy."):  # others may need packages that are not there
            try:
                pkgutil.resolve_name(ast.unparse(node))
            except (ImportError, AttributeError):
                self.unknown.append(ast.unparse(node))

    def visit_Name(self, node: ast.Name) -> None:
        known = {*OBJECTS, *PLACEHOLDERS, *FROM_TORCH, "iter", "next", "float", "str"}
        if node.id not in known and node.id not in words():
            self.unknown.append(node.id)


def unknown_names(code: str) -> list[str]:
    """The names in a piece of code, or in a command line, that rlpolicy does not have."""
    if code.startswith("rlpolicy "):
        arguments = [*(word for word in code.split()[1:] if word.islower()), "--help"]
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        return [] if stop.value.code == 0 else [code]
    if code.startswith('"') or re.fullmatch(r"[\d.]+", code):
        return []
    checker = Checker()
    checker.visit(ast.parse(code))
    return checker.unknown


@pytest.mark.parametrize("page", PAGES)
def test_every_name_in_our_column_exists(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = list(rows(page))
    assert len(found) > 50
    wrong = {}
    for theirs, ours in found:
        assert ours, f"{theirs}: nothing is said about it"
        for code in re.findall(r"`([^`]+)`", ours):
            try:
                bad = unknown_names(code)
            except SyntaxError:
                bad = ["no Python"]
            if bad:
                wrong[f"{theirs} -> {code}"] = bad
    assert not wrong, "\n".join(f"{row}: {bad}" for row, bad in wrong.items())


TORCHRL = (
    "action_key aggregated_episode_reward_key aggregated_reward_key async_collection batch_size clip_grad_norm "
    "clip_norm collector done_key enable_logging episode_reward_key frame_skip greedy_module log_actions log_interval "
    "log_observations log_rewards log_timings logger loss_module mixing_strategy observation_key optim_steps_per_batch "
    "optimizer progress_bar replay_buffer reward_key save_trainer_file save_trainer_interval seed target_net_updater "
    "terminated_key total_frames load_from_file request_stop"
)
"""Arguments and methods of its DQN, DDPG and SAC trainers."""
SKRL = (
    "gradient_steps batch_size discount_factor polyak learning_rate learning_rate_scheduler "
    "learning_rate_scheduler_kwargs observation_preprocessor observation_preprocessor_kwargs state_preprocessor "
    "state_preprocessor_kwargs random_timesteps learning_starts grad_norm_clip exploration_noise "
    "exploration_noise_kwargs exploration_scheduler rewards_shaper mixed_precision models memory observation_space "
    "state_space action_space device act enable_models_training_mode enable_training_mode init load post_interaction "
    "pre_interaction record_transition save track_data update write_checkpoint write_tracking_data"
)
"""Fields of its DDPG_CFG, arguments and methods of its DDPG."""
SB3 = (
    "learning_rate buffer_size learning_starts batch_size tau gamma train_freq gradient_steps action_noise n_steps "
    "optimize_memory_usage ent_coef target_update_interval target_entropy use_sde tensorboard_log seed device"
)
"""Arguments of its SAC."""


@pytest.mark.parametrize("names", [TORCHRL, SKRL, SB3], ids=["TorchRL", "skrl", "SB3"])
def test_every_argument_of_theirs_has_a_row(names: str) -> None:
    theirs = {word for cell, _ in rows("coming_from.md") for word in re.findall(r"\w+", cell)}
    assert set(names.split()) <= theirs


@pytest.mark.parametrize(
    "code",
    [
        "OffpolicyTrainerr(policy=policy)",
        "OffpolicyTrainer(polcy=policy)",
        "policy.compute_acton(obs)",
        "CollectStats.with_generated_stats",
        "max_epochss",
        "rlpolicy.utils.net.contiuous",
        "Critic(..., obs_keys='a')",
    ],
)
def test_wrong_names_are_found(code: str) -> None:
    assert unknown_names(code)
