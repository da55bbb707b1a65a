"""Before training: what is wrong with an environment, a policy, a config, and what a run will take."""

import math
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.data.buffer.storage import leaves
from rlpolicy.env.adapt import as_vector_env
from rlpolicy.env.gymnasium_vector import GymnasiumVectorEnv
from rlpolicy.experiment.config import ExperimentConfig
from rlpolicy.experiment.doctor_env import examine_env
from rlpolicy.experiment.experiment import Experiment, build, make_policy
from rlpolicy.experiment.finding import Finding
from rlpolicy.policy.multiagent.mixed_q import MixedQPolicy
from rlpolicy.policy.probe import evaluating
from rlpolicy.utils.errors import MissingExtra

ROWS = 2_000
"""Transitions that the buffer holds while it is measured."""
SATURATED = 0.9
"""Share of a new policy's actions at their bounds that is too much."""
GB = 1e9


def examine(config: ExperimentConfig, seconds: float = 4.0) -> list[Finding]:
    """Look at the environment, the policy and the config of an experiment, and measure what a run will take.

    :param config: of the experiment; nothing is written.
    :param seconds: for measuring collecting and updating together.
    :return: errors first, then warnings, then notes; "is well" when there are only notes.
    :raises ValueError: there is no such environment.
    :raises MissingExtra: what the environment needs is not installed.
    """
    config.validate()
    config.make_env().close()  # what is wrong here is the caller's
    found = list(_config(config))
    is_team = False
    try:
        policy, _ = make_policy(config)
        is_team = isinstance(policy, MixedQPolicy)
    except (ValueError, TypeError) as error:
        advice = "choose another algorithm, or a wrapper for the environment"
        found.append(Finding("algorithm", "error", str(error).strip(), advice))
    gamma = float(getattr(config, "gamma", getattr(config, "discount_factor", 0.99)))
    if is_team:
        found.append(Finding("environment", "note", "a team's environment is not walked through at random"))
    else:
        found += examine_env(config.make_train_env, gamma=gamma, normalized=config.normalize_obs)
    if not any(one.check in ("algorithm", "environment") and one.severity == "error" for one in found):
        found += _tried(config, seconds)
    order = ("error", "warning", "note")
    return sorted(found, key=lambda one: order.index(one.severity))


def is_well(findings: list[Finding]) -> bool:
    """No finding will break learning."""
    return all(one.severity != "error" for one in findings)


def _config(config: ExperimentConfig) -> Iterator[Finding]:
    steps, begins = config.max_epoch * config.step_per_epoch, max(config.learning_starts, config.batch_size)
    if config.learning_starts >= steps:
        text = f"learning_starts is {config.learning_starts}, and the run has {steps} steps: nothing would be learned"
        yield Finding("config", "error", text, "lower learning_starts, or raise max_epoch or step_per_epoch")
    if config.random_steps >= steps:
        text = f"random_steps is {config.random_steps}, and the run has {steps} steps: the policy would never act"
        yield Finding("config", "error", text, "lower random_steps")
    if config.buffer_size < begins:
        text = f"the buffer holds {config.buffer_size} transitions, and learning begins with {begins}"
        yield Finding("config", "warning", text, "raise buffer_size, or lower batch_size and learning_starts")


# -- a short run -------------------------------------------------------------------------------------------------------


def _tried(config: ExperimentConfig, seconds: float) -> Iterator[Finding]:
    """What a short run without files shows."""
    rows = max(min(ROWS, config.buffer_size), config.train_envs)
    small = type(config).from_dict(config.to_dict() | {"buffer_size": rows, "memmap": None})
    what = "building"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gymnasium's have been noted
        try:
            with build(small, None) as experiment:
                what = "collecting"
                steps_per_s = _collect(experiment, seconds / 2)
                yield from _memory(config, experiment.buffer)
                yield from _actions(experiment)
                what = "updating"
                yield from _speed(config, steps_per_s, _update(experiment, seconds / 2))
        except MissingExtra:
            raise
        except Exception as error:  # whatever environment, networks or settings may raise
            words = str(error).strip().partition("\n")[0]
            text = f"{what} raised {type(error).__name__}: {words}"
            yield Finding("trial", "error", text, "training would stop here")


def _collect(experiment: Experiment, seconds: float) -> float:
    """Steps per second; first a few at random, as many as a minibatch."""
    collector, config = experiment.train_collector, experiment.config
    count = config.train_envs
    collector.collect(n_step=-(-config.batch_size // count) * count, random=True)
    begin, steps = time.perf_counter(), 0
    while (taken := time.perf_counter() - begin) < seconds or not steps:
        steps += collector.collect(n_step=count).n_collected_steps
    return steps / taken


def _update(experiment: Experiment, seconds: float) -> float:
    """Updates per second."""
    policy, config = experiment.policy, experiment.config
    policy.train()
    policy.update(config.batch_size, experiment.buffer)  # whatever is made at first use
    begin, count = time.perf_counter(), 0
    while (taken := time.perf_counter() - begin) < seconds or not count:
        policy.update(config.batch_size, experiment.buffer)
        count += 1
    if torch.device(config.device).type == "cuda":
        torch.cuda.synchronize()
        taken = time.perf_counter() - begin
    return count / taken


def _actions(experiment: Experiment) -> Iterator[Finding]:
    """What a new policy does in the states that were seen."""
    policy = experiment.policy
    if isinstance(policy, MixedQPolicy):
        return
    batch = experiment.buffer[experiment.buffer.sample_indices(256)]
    with evaluating(policy), torch.no_grad():
        act = policy(Batch({"obs": batch.obs, "info": batch.info})).act
    act = np.asarray(act.cpu() if isinstance(act, torch.Tensor) else act)
    if not np.isfinite(act).all():
        text = f"a new policy's actions are not finite in {1 - np.isfinite(act).mean():.0%} of the cases"
        yield Finding("actions", "error", text, "look at the observations: are they huge?")
    elif isinstance(policy.action_space, spaces.Box):
        share = float(np.mean(np.abs(act) >= 0.99))
        if share > SATURATED:
            text = f"{share:.0%} of a new policy's actions are at their bounds, where no gradient gets through"
            advice = "normalize_obs=True (in a script: obs_preprocessor=RunningStandardScaler), or scale observations"
            yield Finding("actions", "error", text, advice)


# -- forecasts ---------------------------------------------------------------------------------------------------------


def _memory(config: ExperimentConfig, buffer: ReplayBuffer) -> Iterator[Finding]:
    """What the buffer of the config will take."""
    row = sum(leaf.dtype.itemsize * math.prod(leaf.shape[1:]) for _, leaf in leaves(buffer._storage.columns))
    need = row * config.buffer_size
    if isinstance(buffer, PrioritizedReplayBuffer):
        need += 2 * 8 * 2 ** math.ceil(math.log2(max(config.buffer_size, 2)))
    text = f"the buffer will take {_size(need)} ({config.buffer_size} transitions of {row} bytes)"
    free: float | None
    if config.memmap is not None:
        free, where, advice = (
            _free_disk(Path(config.memmap)),
            f"on the disk of {config.memmap}",
            "a smaller buffer_size",
        )
    else:
        free, where = _free_memory(), "of memory"
        advice = "a smaller buffer_size, or memmap=FOLDER: the buffer then lies on a disk"
    if free is not None and need > 0.9 * free:
        yield Finding("memory", "error", f"{text}, {_size(free)} {where} are free", advice)
    else:
        yield Finding("memory", "note", text if free is None else f"{text}; {_size(free)} {where} are free")


def _free_memory() -> float | None:
    """Bytes that new processes can have; None where that is not known."""
    try:
        text = Path("/proc/meminfo").read_text()
        return 1024.0 * int(text.partition("MemAvailable:")[2].split()[0])
    except (OSError, IndexError, ValueError):
        pass
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return None


def _free_disk(folder: Path) -> float:
    while not folder.exists():
        folder = folder.absolute().parent
    return float(shutil.disk_usage(folder).free)


def _speed(config: ExperimentConfig, steps_per_s: float, updates_per_s: float) -> Iterator[Finding]:
    """How long training will take."""
    steps = config.max_epoch * config.step_per_epoch
    learning = max(steps - config.learning_starts, 0)
    updates = config.update_per_step * learning
    if config.gradient_steps_per_collect is not None:
        updates = config.gradient_steps_per_collect * learning / (config.step_per_collect or config.train_envs)
    taken = steps / steps_per_s + updates / updates_per_s
    text = (
        f"{steps_per_s:.3g} environment steps and {updates_per_s:.3g} updates per second, so about {_duration(taken)} "
    )
    text += f"for {steps} steps and {updates:.0f} updates, tests not counted"
    slow = "environment" if steps / steps_per_s > updates / updates_per_s else "updates"
    yield Finding("speed", "note", f"{text}; most of it for the {slow}")


def _size(count: float) -> str:
    return f"{count / GB:.3g} GB" if count >= GB else f"{count / 1e6:.3g} MB"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} seconds"


# -- vector environments -----------------------------------------------------------------------------------------------


def examine_vector_env(envs: Any, steps: int = 500) -> list[Finding]:
    """Walk through a vector environment at random: its autoreset mode, final observations, seeds, numbers.

    :param envs: whatever a collector takes; it is reset.
    :param steps: of all environments.
    """
    found: list[Finding] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        venv = as_vector_env(envs)
        if isinstance(venv, GymnasiumVectorEnv):
            text = f"the vector environment resets in mode {venv.mode.value}; what is stored is the same in all modes"
            found.append(Finding("autoreset", "note", text))
        obs, _ = venv.reset(seed=list(range(len(venv))))
        if venv.is_async:
            return [*found, Finding("autoreset", "note", "asynchronous environments are not walked through")]
        if len(venv) > 1 and all(np.array_equal(np.asarray(row), np.asarray(obs[0])) for row in obs):
            text = f"all {len(venv)} environments begin alike, though each got another seed"
            found.append(Finding("seeding", "warning", text, "hand the seed of reset to every environment"))
        found += _walked(venv, steps)
    return found


def _walked(venv: Any, steps: int) -> Iterator[Finding]:
    ended = 0
    for t in range(steps):
        obs, rew, terminated, truncated, infos = venv.step([space.sample() for space in venv.action_space])
        done = np.flatnonzero(np.logical_or(terminated, truncated))
        ended += len(done)
        lost = [i for i in done.tolist() if infos[i].get("final_obs_missing")]
        if lost:
            text = f"environment {lost[0]} resets in the step that ends its episode and does not tell the observation "
            text += "that was reached: values after a truncation would be those of a new episode"
            advice = 'put it into info["final_obs"], or use the autoreset mode NEXT_STEP or DISABLED'
            yield Finding("autoreset", "error", text, advice)
            return
        if not np.isfinite(np.asarray(rew, np.float64)).all() or not _finite(obs):
            text = f"a reward or observation of step {t + 1} is not finite"
            yield Finding("NaN", "error", text, "nothing can be learned from NaN or infinity")
            return
        if len(done):
            venv.reset(done)
    if not ended:
        yield Finding("time limit", "warning", f"no episode ended in {steps} steps", "see that there is a time limit")


def _finite(obs: Any) -> bool:
    if isinstance(obs, np.ndarray) and obs.dtype == object:
        return all(map(_finite, obs))
    if isinstance(obs, dict):
        return all(map(_finite, obs.values()))
    if isinstance(obs, tuple):
        return all(map(_finite, obs))
    values = np.asarray(obs)
    return values.dtype.kind not in "fc" or bool(np.isfinite(values).all())
