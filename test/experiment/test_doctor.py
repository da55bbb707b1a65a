"""Each fault that is planted is found, named and explained; environments that are well are let alone."""

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlpolicy.experiment import (
    DDPGConfig,
    DQNConfig,
    Finding,
    cli,
    doctor,
    examine,
    examine_env,
    examine_vector_env,
    is_well,
)
from rlpolicy.experiment.doctor_env import Walk, return_size, walk

SMALL: dict[str, Any] = {"hidden_sizes": (8,), "batch_size": 16, "train_envs": 2, "test_envs": 1, "buffer_size": 500}


class Sound(gym.Env[Any, Any]):
    """A point that is pushed; truncated after 20 steps. Each subclass plants one fault."""

    observation_space: spaces.Space[Any] = spaces.Box(-10.0, 10.0, (2,), np.float32)
    action_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (1,), np.float32)
    length = 20

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        self.place = self.np_random.normal(size=2).astype(np.float32)
        return self.observed(), {}

    def observed(self) -> Any:
        return self.place.copy()

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.t += 1
        self.place = np.clip(self.place + 0.1 * np.sum(action), -10, 10).astype(np.float32)
        return self.observed(), self.reward(), *self.flags(), {}

    def reward(self) -> Any:
        return -float(np.abs(self.place).sum())

    def flags(self) -> tuple[bool, bool]:
        return False, self.t >= self.length


class Unbounded(Sound):
    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)


class NoRange(Sound):
    action_space = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 0.0], np.float32))


class Stretched(Sound):
    action_space = spaces.Box(-3.0, 5.0, (1,), np.float32)


class Single(Sound):
    action_space = spaces.Discrete(1)


class Escapes(Sound):
    observation_space = spaces.Box(-0.5, 0.5, (2,), np.float32)


class Double(Sound):
    def observed(self) -> Any:
        return self.place.astype(np.float64)


class Shape(Sound):
    def observed(self) -> Any:
        return np.append(self.place, np.float32(0))


class Nothing(Sound):
    def observed(self) -> Any:
        return None


class NaN(Sound):
    def observed(self) -> Any:
        return self.place + (np.float32(np.nan) if self.t == 7 else 0)


class Huge(Sound):
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def observed(self) -> Any:
        return self.place * np.array([1.0, 1e6], np.float32)


class Tiny(Sound):
    def observed(self) -> Any:
        return self.place * np.float32(1e-6)


class Frozen(Sound):
    def observed(self) -> Any:
        return np.ones(2, np.float32)


class Choice(Sound):
    observation_space = spaces.Discrete(3)

    def observed(self) -> Any:
        return self.t


class Infinite(Sound):
    def reward(self) -> Any:
        return np.inf if self.t == 5 else 0.1


class Large(Sound):
    def reward(self) -> Any:
        return 1e5 * super().reward()


class Small(Sound):
    def reward(self) -> Any:
        return 1e-8 * super().reward()


class Silent(Sound):
    def reward(self) -> Any:
        return 0.0


class Endless(Sound):
    length = 10**9


class Terminates(Sound):
    def flags(self) -> tuple[bool, bool]:
        return self.t >= self.length, False


class SometimesTerminates(Terminates):
    """Ends early as well, by itself."""

    def flags(self) -> tuple[bool, bool]:
        return self.t >= self.length or self.place[0] > 1.5, False


class Bandit(Sound):
    length = 1


class GlobalRandom(Sound):
    def step(self, action: Any) -> Any:
        return super().step(action + np.random.normal())


class SameEpisode(Sound):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=3 if seed is None else seed)


class NoSeed(Sound):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=3)


class OldReset(Sound):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


class Breaks(Sound):
    def step(self, action: Any) -> Any:
        if self.t == 9:
            raise ZeroDivisionError("the simulator fell over\nand a long story")
        return super().step(action)


class Restless(Sound):
    """Returns one array, and writes to it."""

    def observed(self) -> Any:
        self.own = getattr(self, "own", np.zeros(2, np.float32))
        self.own[:] = self.place
        return self.own


FAULTS: dict[str, tuple[Any, str, str, str]] = {
    "unbounded actions": (Unbounded, "error", "action bounds", "action 0 goes from -inf to inf"),
    "an action without a range": (NoRange, "error", "action bounds", "action 1 can only be 0"),
    "one action": (Single, "error", "action bounds", "only one action"),
    "autoreset": (lambda: gym.wrappers.Autoreset(Sound()), "error", "autoreset", "begins a new episode by itself"),
    "outside the space": (Escapes, "warning", "observation bounds", "the space says -0.5 to 0.5"),
    "outside a Discrete space": (Choice, "error", "observation bounds", "leave their space Discrete(3)"),
    "another dtype": (Double, "warning", "observation dtype", "come as float64, their space says float32"),
    "another shape": (Shape, "error", "observation shape", "(3,), their space (2,)"),
    "no observation": (Nothing, "error", "observations", "no arrays of numbers"),
    "NaN": (NaN, "error", "NaN", "entry 0 was nan in observation 8"),
    "huge observations": (Huge, "warning", "observation scale", "entry 1"),
    "tiny observations": (Tiny, "warning", "observation scale", "a network hardly sees them"),
    "frozen observations": (Frozen, "error", "observations", "never change"),
    "infinite reward": (Infinite, "error", "NaN", "the reward was inf in step 5"),
    "large rewards": (Large, "error", "reward scale", "hardly learn such numbers"),
    "small rewards": (Small, "error", "reward scale", "less than the noise"),
    "no reward": (Silent, "warning", "reward", "it was 0 in each of 2000 random steps"),
    "no end": (Endless, "error", "time limit", "no time limit"),
    "time limit as termination": (
        Terminates,
        "warning",
        "time limit",
        "100 of 100 episodes were over after exactly 20",
    ),
    "time limit among other ends": (SometimesTerminates, "warning", "time limit", "after exactly 20 steps"),
    "randomness of its own": (GlobalRandom, "warning", "determinism", "another step 1"),
    "a reset that seeds": (SameEpisode, "error", "seeding", "every reset without a seed begins the same episode"),
    "a seed that is ignored": (NoSeed, "note", "seeding", "another seed gives the same first observation"),
    "a reset without a seed": (OldReset, "error", "environment", "reset raised TypeError"),
    "it breaks": (Breaks, "error", "environment", "step 10 raised ZeroDivisionError: the simulator fell over"),
    "a bandit": (Bandit, "note", "episodes", "one step"),
    "actions of another range": (Stretched, "note", "action bounds", "from -3 to 5"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named(name: str) -> None:
    make, severity, check, words = FAULTS[name]
    found = examine_env(make)
    (one,) = [one for one in found if one.check == check and words in one.text]
    assert one.severity == severity
    assert one.advice or severity == "note"
    worse = [other for other in found if other.severity != "note" and other is not one]
    assert not worse, "and nothing else is said to be wrong"


@pytest.mark.parametrize("make", [Sound, Restless], ids=["sound", "one array"])
def test_nothing_is_said_of_the_sound(make: Any) -> None:
    found = examine_env(make)
    assert [str(one) for one in found] == [str(found[0])]
    assert found[0].check == "episodes"
    assert "100 episodes of 20 to 20 steps" in found[0].text


def test_normalised_observations_may_be_huge() -> None:
    assert any(one.check == "observation scale" for one in examine_env(Huge))
    assert not any(one.check == "observation scale" for one in examine_env(Huge, normalized=True))


def test_the_seed_of_global_generators_does_not_hide_a_fault() -> None:
    np.random.seed(0)
    assert any(one.check == "determinism" for one in examine_env(GlobalRandom))


def test_parts_of_observations_are_named() -> None:
    class Nested(Sound):
        observation_space = spaces.Dict(
            {"a": spaces.Box(-10, 10, (2,), np.float32), "b": spaces.Tuple((spaces.Box(0, 1, (1,), np.float32),))}
        )

        def observed(self) -> Any:
            return {"a": self.place.copy(), "b": (np.full(1, self.t, np.float32),)}

    (one,) = [one for one in examine_env(Nested) if one.severity != "note"]
    assert (one.check, one.text.partition(":")[0]) == (
        "observation bounds",
        "90% of the observations['b'][0] leave their space",
    )


def test_what_gymnasium_says_is_passed_on() -> None:
    gym.register("Doctor/Double-v0", Double, max_episode_steps=30)
    try:
        found = examine_env(lambda: gym.make("Doctor/Double-v0"))
    finally:
        del gym.registry["Doctor/Double-v0"]
    assert any(one.check == "gymnasium" and "\x1b" not in one.text and "float32" in one.text for one in found)


def test_return_size_by_hand() -> None:
    # two episodes, of rewards 1, 2 and 4; gamma 0.5: returns 2, 2, 4
    seen = Walk(rew=[1.0, 2.0, 4.0], starts=[0, 2, 3])
    assert return_size(seen, 0.5) == pytest.approx(np.sqrt((4 + 4 + 16) / 3))


def test_a_slow_environment_may_be_endless() -> None:
    found = examine_env(Endless, seconds=0.0)
    assert is_well(found)
    assert "not known" in next(one.text for one in found if one.check == "time limit")


def test_walk_stops_in_time() -> None:
    assert len(walk(Sound(), 0, 10**9, seconds=0.02).rew) < 10**6


# -- configs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def registered() -> Iterator[None]:
    for kind in (Sound, Huge, Large, Breaks, Endless):
        gym.register(f"Doctor/{kind.__name__}-v0", kind, max_episode_steps=None if kind is Endless else 30)
    yield
    for kind in (Sound, Huge, Large, Breaks, Endless):
        del gym.registry[f"Doctor/{kind.__name__}-v0"]


def named(found: list[Finding], severity: str = "error") -> list[str]:
    return [one.check for one in found if one.severity == severity]


def test_a_sound_experiment_gets_its_forecasts(registered: None) -> None:
    config = DDPGConfig(env="Doctor/Sound-v0", **SMALL)
    found = examine(config, seconds=0.1)
    assert is_well(found)
    assert not named(found, "warning")
    memory, speed = (next(one.text for one in found if one.check == check) for check in ("memory", "speed"))
    row = 2 * 2 * 4 + 4 + 8 + 3 + 8  # obs, obs_next, act, rew, flags, env_id
    assert f"({500} transitions of {row} bytes)" in memory
    assert "for 20000 steps and 20000 updates" in speed


def test_memory_that_is_not_there(registered: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    config = DDPGConfig(env="Doctor/Sound-v0", **SMALL | {"buffer_size": 10**9, "prioritized": True})
    monkeypatch.setattr(doctor, "_free_memory", lambda: 44e9)
    (one,) = [one for one in examine(config, 0.05) if one.check == "memory"]
    assert one.severity == "error"
    assert one.text.startswith("the buffer will take 56.2 GB")  # 39 bytes and two float64 in a tree of 2**30 leaves
    assert "memmap=FOLDER" in one.advice
    config.prioritized = False
    assert "memory" not in named(examine(config, 0.05))
    config.memmap = str(tmp_path / "new" / "folder")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: doctor.shutil._ntuple_diskusage(1, 1, 10**9))
    (one,) = [one for one in examine(config, 0.05) if one.check == "memory"]
    assert (one.severity, one.advice) == ("error", "a smaller buffer_size")
    assert not (tmp_path / "new").exists()


def test_settings_with_which_nothing_is_learned(registered: None) -> None:
    options = SMALL | {"max_epoch": 1, "step_per_epoch": 100}
    found = examine(DDPGConfig(env="Doctor/Sound-v0", **options, learning_starts=100, random_steps=100), 0.05)
    assert sorted(one.text[:15] for one in found if one.check == "config") == ["learning_starts", "random_steps is"]
    found = examine(DDPGConfig(env="Doctor/Sound-v0", **options | {"buffer_size": 10}), 0.05)
    assert named(found, "warning") == ["config"]


def test_the_policy_is_looked_at(registered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = examine(DDPGConfig(env="Doctor/Huge-v0", **SMALL), 0.05)
    assert "actions" in named(found)
    assert "observation scale" in named(found, "warning")
    found = examine(DDPGConfig(env="Doctor/Huge-v0", **SMALL, normalize_obs=True), 0.05)
    assert is_well(found)
    found = examine(DQNConfig(env="Doctor/Sound-v0", **SMALL), 0.05)
    assert named(found) == ["algorithm"]
    assert "dqn needs a Discrete action space" in found[0].text

    def fails(*args: Any) -> Any:
        raise RuntimeError("the update fell over")

    monkeypatch.setattr("rlpolicy.policy.base.BasePolicy.update", fails)
    found = examine(DDPGConfig(env="Doctor/Sound-v0", **SMALL), 0.05)
    assert [one.text for one in found if one.check == "trial"] == ["updating raised RuntimeError: the update fell over"]


def test_nan_weights_are_seen(registered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: DDPGConfig, obs: Any, act: Any) -> Any:
        net = made(self, obs, act)
        torch.nn.init.constant_(next(net.parameters()), torch.nan)
        return net

    made = DDPGConfig.actor
    monkeypatch.setattr(DDPGConfig, "actor", broken)
    (one,) = [
        one for one in examine(DDPGConfig(env="Doctor/Sound-v0", **SMALL), 0.05) if one.check in ("actions", "trial")
    ]
    assert "finite" in one.text


def test_exit_codes(registered: None, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--hidden-sizes", "8", "--batch-size", "16", "--train-envs", "2", "--test-envs", "1", "--seconds", "0.05"]

    def run(*arguments: str) -> tuple[int, str]:
        code = cli.main(["doctor", *arguments, *small])
        said = capsys.readouterr()
        return code, said.out + said.err

    assert run("--algo", "ddpg", "--env", "Doctor/Sound-v0")[0] == 0
    code, text = run("--algo", "ddpg", "--env", "Doctor/Large-v0")
    assert code == 1
    assert text.startswith("error   reward scale: returns are of size")
    assert "\n        -> scale rewards" in text
    assert text.endswith("1 error(s), 0 warning(s)\n")
    assert run("--algo=ddpg", "--env=Doctor/Breaks-v0")[0] == 1
    for wrong, words in (
        (["--algo", "ddpg", "--env", "Doctor/Soun-v0"], "did you mean 'Doctor/Sound-v0'"),
        (["--algo", "dpg"], "did you mean 'ddpg'"),
        (["--algo", "ddpg", "--gama", "0.9"], "did you mean '--gamma'"),
        (["--algo", "ddpg", "--env", "Doctor/Sound-v0", "--seconds", "0"], "--seconds must be positive"),
    ):
        code = cli.main(["doctor", *wrong])
        assert code == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


# -- vector environments -----------------------------------------------------------------------------------------------


class Vector(gym.vector.VectorEnv[Any, Any, Any]):
    """Two copies that reset in the step that ends their episodes."""

    def __init__(self, kind: Any = Sound, tells: bool = True, seeds: bool = True) -> None:
        self.envs, self.tells, self.seeds = [kind(), kind()], tells, seeds
        self.num_envs = 2
        self.metadata = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
        self.single_observation_space, self.single_action_space = (
            self.envs[0].observation_space,
            self.envs[0].action_space,
        )
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, 2)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, 2)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        seeds = [0, 0] if seed is None or not self.seeds else [seed, seed + 1] if isinstance(seed, int) else seed
        return np.stack([env.reset(seed=s)[0] for env, s in zip(self.envs, seeds, strict=True)]), {}

    def step(self, actions: Any) -> Any:
        results = [env.step(action)[:4] for env, action in zip(self.envs, actions, strict=True)]
        obs, rew, terminated, truncated = (np.array(part) for part in zip(*results, strict=True))
        info: dict[str, Any] = {}
        done = terminated | truncated
        if done.any():
            if self.tells:
                info = {"final_obs": np.array(list(obs), object), "_final_obs": done}
            obs = np.stack(
                [env.reset()[0] if over else row for env, over, row in zip(self.envs, done, obs, strict=True)]
            )
        return obs, rew, terminated, truncated, info


def test_vector_environments() -> None:
    (note,) = examine_vector_env(Vector(), steps=50)
    assert (note.check, note.severity) == ("autoreset", "note")
    assert "SameStep" in note.text
    assert named(examine_vector_env(Vector(tells=False), steps=50)) == ["autoreset"]
    assert named(examine_vector_env(Vector(NaN), steps=50)) == ["NaN"]
    assert named(examine_vector_env(Vector(Infinite), steps=50)) == ["NaN"]
    assert named(examine_vector_env(Vector(seeds=False), steps=50), "warning") == ["seeding"]
    assert named(examine_vector_env(Vector(Endless), steps=50), "warning") == ["time limit"]
