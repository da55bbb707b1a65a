"""The contract of vector environments, over all of them, and what only rlpolicy's own do."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlpolicy.env.gymnasium_vector import GymnasiumVectorEnv
from rlpolicy.env.venv_wrappers import VectorEnvWrapper
from rlpolicy.env.venvs import (
    BaseVectorEnv,
    DummyVectorEnv,
    RayVectorEnv,
    ShmemVectorEnv,
    SubprocVectorEnv,
)
from rlpolicy.env.worker import DummyEnvWorker

OWN: dict[str, Any] = {
    "dummy": DummyVectorEnv,
    "base": lambda fns: BaseVectorEnv(fns, DummyEnvWorker),
    "subproc": SubprocVectorEnv,
    "shmem": ShmemVectorEnv,
    "2 workers": lambda fns: SubprocVectorEnv(fns, num_workers=2),
    "wrapped": lambda fns: VectorEnvWrapper(DummyVectorEnv(fns)),
}
ALL: dict[str, Any] = {
    **{kind: fn for kind, fn in OWN.items() if kind != "shmem"},  # "2 workers" has shared memory too, and forks less
    **{
        f"gymnasium {mode}": lambda fns, mode=mode: GymnasiumVectorEnv(
            gym.vector.SyncVectorEnv(fns, autoreset_mode=mode)
        )
        for mode in ("NextStep", "SameStep", "Disabled")
    },
}


@pytest.fixture(params=ALL)
def make(request: Any, closing: Any) -> Any:
    """Makes a vector env of each kind."""
    return lambda fns: closing(ALL[request.param](fns))


@pytest.fixture(params=OWN)
def make_own(request: Any, closing: Any) -> Any:
    """Makes a vector env of each of rlpolicy's own kinds."""
    return lambda fns: closing(OWN[request.param](fns))


@pytest.fixture(params=["dummy", "subproc", "shmem", "2 workers"])
def make_few(request: Any, closing: Any) -> Any:
    """Makes a vector env of the kinds that differ most."""
    return lambda fns: closing(OWN[request.param](fns))


class TestContract:
    def test_shapes_and_types(self, kit: Any, make: Any) -> None:
        v = make(kit.fns())
        assert len(v) == v.env_num == 4
        assert not v.is_async
        assert not v.is_closed
        assert v.reset_rows is None
        assert list(v.action_space) == [spaces.Discrete(5)] * 4
        assert list(v.observation_space) == [kit.CountingEnv.observation_space] * 4
        obs, infos = v.reset()
        assert isinstance(infos, list)
        assert infos == [{"first": 0}] * 4
        assert obs.shape == (4, 3)
        assert obs.dtype == np.float32
        obs, rew, terminated, truncated, info = v.step(np.array([0, 1, 2, 3]))
        assert obs.shape == (4, 3)
        assert obs.dtype == np.float32
        assert rew.tolist() == [1.0, 1.1, 1.2, 1.3]
        assert rew.dtype == np.float64
        assert terminated.dtype == truncated.dtype == np.bool_
        assert terminated.shape == truncated.shape == info.shape == (4,)
        assert info.dtype == object
        assert [(d["t"], d["env_id"], d["where"]["episode"]) for d in info] == [(1, i, 0) for i in range(4)]

    def test_ids(self, kit: Any, make: Any) -> None:
        v = make(kit.fns(length=50))
        v.reset()
        for ids, want in [(3, [3]), ([2, 0], [2, 0]), (np.array([1]), [1]), (np.int64(2), [2]), (None, [0, 1, 2, 3])]:
            obs, infos = v.reset(ids)
            assert obs[:, 0].tolist() == [0] * len(want)
            assert len(infos) == len(want)
            obs, rew, *_, info = v.step(np.array(want), ids)
            assert obs[:, 0].tolist() == [1] * len(want)
            assert rew.tolist() == [1 + i / 10 for i in want]
            assert [d["env_id"] for d in info] == want
        episodes = v.reset(env_id=[1, 3])[1]
        assert episodes == [{"first": 3}, {"first": 3}]
        with pytest.raises(IndexError, match=r"must be in 0\.\.3"):
            v.reset(4)
        with pytest.raises(IndexError):
            v.reset(-1)
        with pytest.raises(ValueError, match="once"):
            v.step([0, 0], [1, 1])
        with pytest.raises(ValueError, match="mask"):
            v.reset(np.array([True, False, True, False]))

    def test_infos_without_tags(self, kit: Any, make_own: Any) -> None:
        """The same step, but infos are as the environments gave them."""
        tagged, plain = make_own(kit.fns()), make_own(kit.fns())
        for v in (tagged, plain):
            v.reset(seed=0)
        for ids in (None, [2, 0]):
            n = 4 if ids is None else 2
            a, b = tagged.step(np.arange(n), ids), plain.step(np.arange(n), ids, tag=False)
            for x, y in zip(a[:4], b[:4], strict=True):
                np.testing.assert_array_equal(x, y)
                assert x.dtype == y.dtype
            assert len(b[4]) == n
            assert not any("env_id" in info for info in b[4])
            assert [{**info, "env_id": i} for info, i in zip(b[4], ids or range(4), strict=True)] == a[4].tolist()

    def test_observations_are_fresh(self, kit: Any, make: Any) -> None:
        """An array that was handed out never changes, whatever happens next."""
        v = make(kit.fns(length=2))
        held = [v.reset(seed=0)[0]]
        for n in range(6):
            held.append(v.step(np.full(4, n % 5))[0])
            if n % 2:
                held.append(v.reset()[0])
        copies = [a.copy() for a in held]
        v.step(np.zeros(4, int))
        v.reset()
        assert all((a == b).all() for a, b in zip(held, copies, strict=True))
        assert len({a.__array_interface__["data"][0] for a in held}) == len(held)

    def test_actions_of_any_kind(self, kit: Any, make: Any) -> None:
        import torch

        v = make(kit.fns(length=99))
        v.reset()
        actions = [0, 1, 2, 4]
        for form in (actions, np.array(actions), np.array(actions, np.int32), torch.tensor(actions)):
            rew = v.step(form)[1]
            assert (rew - rew[0]).round(9).tolist() == [0.0, 0.1, 0.2, 0.4]
        with pytest.raises(AssertionError, match="4 environments, 3 actions"):
            v.step([0, 0, 0])
        with pytest.raises(ValueError, match="no actions"):
            v.step(None)

    def test_seed(self, kit: Any, make: Any) -> None:
        v = make(kit.fns())
        reference = DummyVectorEnv(kit.fns())
        for seed in (3, np.int64(11), [9, 8, 7, 6], np.arange(4), None):
            assert v.seed(seed) == reference.seed(seed)
            samples = [[[s.sample() for s in w.action_space] for _ in range(3)] for w in (v, reference)]
            if seed is not None:
                assert samples[0] == samples[1]
                assert v.reset()[0].tolist() == reference.reset()[0].tolist()
        assert v.seed(3) == [[3], [4], [5], [6]]
        with pytest.raises(ValueError, match="4 environments, 2 seeds"):
            v.seed([1, 2])

    def test_reset_with_seed(self, kit: Any, make: Any) -> None:
        v = make(kit.fns())
        drawn = [float(np.float32(np.random.default_rng(20 + i).random())) for i in range(4)]

        def first(seed: int) -> float:
            env = kit.CountingEnv()
            return float(env.reset(seed=seed)[0][2])

        drawn = [first(20 + i) for i in range(4)]
        assert v.reset(seed=20)[0][:, 2].tolist() == drawn
        assert v.reset([3, 1], seed=20)[0][:, 2].tolist() == [drawn[3], drawn[1]]
        assert v.reset([3, 1], seed=[21, 20])[0][:, 2].tolist() == [drawn[1], drawn[0]]
        assert v.reset(seed=np.int32(20))[0][:, 2].tolist() == drawn
        assert len(set(drawn)) == 4

    def test_options(self, kit: Any, make: Any) -> None:
        v = make(kit.fns())
        assert [d["options"] for d in v.reset(options={"x": 1})[1]] == ["[('x', 1)]"] * 4

    def test_render_and_close(self, kit: Any, make: Any) -> None:
        v = make(kit.fns())
        v.reset()
        assert [frame.shape for frame in v.render()] == [(2, 2, 3)] * 4
        v.close()
        v.close()
        assert v.is_closed
        assert len(v) == 4
        for method in (v.reset, v.render, v.seed, lambda: v.step(np.zeros(4, int))):
            with pytest.raises(AssertionError, match="closed"):
                method()


@pytest.mark.parametrize("dict_obs", [False, True], ids=["box", "dict"])
def test_same_data_as_dummy(kit: Any, make_own: Any, dict_obs: bool) -> None:
    want = kit.rollout(DummyVectorEnv(kit.fns(5, dict_obs=dict_obs)), 40)
    assert kit.rollout(make_own(kit.fns(5, dict_obs=dict_obs)), 40) == want  # 5 on 2 workers: unequal shares
    kinds = {(bool(t[3]), bool(t[4])) for rows in want for t in rows[1:]}
    assert kinds == {(False, False), (True, False), (False, True), (True, True)}


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("kind", ["subproc", "shmem", "2 workers"])
def test_same_data_of_gymnasium_environments(kit: Any, closing: Any, name: str, kind: str) -> None:
    def act(env_id: int, n: int) -> Any:
        return (n + env_id) % 2 if name == "CartPole-v1" else np.float32([np.sin(n + env_id)])

    fns = [lambda: gym.make(name, max_episode_steps=13)] * 3
    want = kit.rollout(DummyVectorEnv(fns), 60, act=act)
    assert kit.rollout(closing(OWN[kind](fns)), 60, act=act) == want


@pytest.mark.parametrize("context", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_start_methods(kit: Any, closing: Any, context: Any) -> None:
    v = closing(SubprocVectorEnv(kit.fns(3), context=context, num_workers=1))
    assert kit.rollout(v, 15) == kit.rollout(DummyVectorEnv(kit.fns(3)), 15)


def test_partial_steps_are_the_same(kit: Any, make_own: Any) -> None:
    v, reference = make_own(kit.fns(length=99)), DummyVectorEnv(kit.fns(length=99))
    v.reset(seed=0), reference.reset(seed=0)
    for _ in range(3):
        for ids in ([2], [3, 0], None, [3, 2, 1, 0]):
            actions = np.arange(4 if ids is None else len(ids))
            got, want = v.step(actions, ids), reference.step(actions, ids)
            assert [kit.plain(x) for x in got] == [kit.plain(x) for x in want]
        got, want = v.reset([3, 2]), reference.reset([3, 2])
        assert [kit.plain(x) for x in got] == [kit.plain(x) for x in want]


@pytest.mark.parametrize("n", [1, 4])
def test_stacked_dicts(kit: Any, make_own: Any, n: int) -> None:
    v, rows = make_own(kit.fns(n, dict_obs=True, length=9)), DummyVectorEnv(kit.fns(n, dict_obs=True, length=9))
    v.stack_dicts = True
    obs, want = v.reset(seed=1)[0], rows.reset(seed=1)[0]
    assert want.dtype == object
    for n_done in range(5):
        assert obs["a"].shape == (n, 3)
        assert obs["a"].dtype == np.float32
        assert obs["b"]["n"].tolist() == [n_done] * n
        assert obs["b"]["t"][0].tolist() == [[n_done, n_done]] * n
        assert obs["a"].tolist() == [o["a"].tolist() for o in want]
        obs, want = v.step([1] * n)[0], rows.step([1] * n)[0]
    assert v.step([1], 0)[0]["a"].shape == (1, 3)


class OddEnv(gym.Env[Any, Any]):
    """Returns whatever it is told to return, step by step."""

    def __init__(self, observations: list[Any], rew: Any = 1, box: bool = True) -> None:
        if box:
            self.observation_space = spaces.Box(-9, 9, (2,), np.float32)
            self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.observations, self.rew = observations, rew
        self.acts: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.n = 0
        return self.observations[0], {}

    def step(self, action: Any) -> Any:
        self.n += 1
        self.acts.append(action)
        return self.observations[self.n % len(self.observations)], self.rew, False, False, {}


@pytest.mark.parametrize(
    "observations",
    [
        [np.zeros(2), np.ones(2)],  # float64 in a float32 space stays float64
        [np.zeros(3, np.float32), np.ones(2, np.float32)],  # not always of the shape of the space
        [np.zeros((2, 1), np.float32), np.ones((2, 1), np.float32)],
        [1, 2],
        [[1.0, 2.0], [3.0, 4.0]],
        [np.float32(1), np.float32(2)],
    ],
    ids=str,
)
def test_observations_that_do_not_fit_their_space(make_few: Any, observations: list[Any]) -> None:
    """They arrive as they are: shared memory neither rounds nor refuses."""
    v = make_few([lambda: OddEnv(observations)] * 2)
    for obs in (v.reset()[0], v.step(np.zeros((2, 2), np.float32))[0], v.step(np.zeros((1, 2), np.float32), 1)[0]):
        want = np.array([observations[0], observations[0]])
        assert obs.dtype == want.dtype
        assert obs[0].tolist() in [np.asarray(o).tolist() for o in observations]


@pytest.mark.parametrize("rew", [2, 2.5, np.float32(0.1), True, [1.0, 2.0], np.array([3.0, 4.0]), np.array([5.0])])
def test_rewards(make_few: Any, rew: Any) -> None:
    v = make_few([lambda: OddEnv([np.zeros(2, np.float32)], rew)] * 3)
    v.reset()
    got = v.step(np.zeros((3, 2), np.float32))[1]
    assert got.dtype == np.float64
    assert got.tolist() == [np.asarray(rew, dtype=float).tolist()] * 3


def test_objects_and_ragged_arrays(make_few: Any) -> None:
    ragged = make_few([lambda n=n: OddEnv([np.ones((n, 2))], box=False) for n in (1, 2, 3)])
    objects = make_few([lambda: OddEnv([{1, 2}], box=False)] * 3)
    nothing = make_few([lambda o=o: OddEnv([o], box=False) for o in (None, 3)])
    for v in (ragged, objects, nothing):
        for obs in (v.reset()[0], v.step([0] * len(v))[0]):
            assert obs.dtype == object
            assert obs.shape == (len(v),)
    assert ragged.reset()[0][2].shape == (3, 2)
    assert nothing.reset()[0].tolist() == [None, 3]


def test_tuple_observations(make_few: Any) -> None:
    v = make_few([lambda: OddEnv([(1, 2)], box=False)])
    with pytest.raises(TypeError, match="tuple observations"):
        v.reset()


def test_actions_arrive_as_they_are(make_few: Any) -> None:
    """dtype kept, and a row that an environment keeps does not change with the next step."""
    v = make_few([lambda: OddEnv([np.zeros(2, np.float32)])] * 2)
    v.reset()
    given = [np.full((2, 2), 0.5, np.float32), np.full((2, 2), 0.1), np.full((2, 2), 0.25, np.float32)]
    for actions in given:
        v.step(actions.copy())
    for acts in v.get_env_attr("acts"):
        assert [a.dtype for a in acts] == [np.float32, np.float64, np.float32]
        assert [a.tolist() for a in acts] == [g[0].tolist() for g in given]


def test_attributes(kit: Any, make_few: Any) -> None:
    v = make_few(kit.fns())
    v.reset()
    assert v.get_env_attr("length") == [None] * 4
    v.set_env_attr("length", 5)
    v.set_env_attr("length", 7, 1)
    v.set_env_attr("length", 8, [2, 3])
    assert v.get_env_attr("length") == [5, 7, 8, 8]
    assert v.get_env_attr("length", id=0) == [5]
    assert v.get_env_attr("length", id=[3, 1]) == [8, 7]
    assert v.metadata == [{"render_modes": []}] * 4
    assert v.spec == [None] * 4
    v.set_env_attr("action_space", spaces.Discrete(9), 1)
    assert v.action_space[:2] == [spaces.Discrete(5), spaces.Discrete(9)]
    if isinstance(v, DummyVectorEnv):
        with pytest.raises(AttributeError):
            v.get_env_attr("nothing")
        with pytest.raises(AttributeError):
            _ = v.reward_range
    else:
        assert v.get_env_attr("nothing") == [None] * 4


def test_attributes_of_wrapped_environments() -> None:
    v = DummyVectorEnv([lambda: gym.wrappers.TimeAwareObservation(gym.make("CartPole-v1"))])
    v.set_env_attr("length", 3.0)
    assert v.workers[0].env.unwrapped.length == 3.0  # type: ignore[attr-defined]
    v.set_env_attr("fresh", 1)
    v.set_env_attr("fresh", 2)
    assert v.get_env_attr("fresh") == [2]
    assert v.workers[0].env.fresh == v.workers[0].env.unwrapped.fresh == 2  # type: ignore[attr-defined]
    assert v.get_env_attr("gravity") == [9.8]


def test_environments_without_spaces(closing: Any) -> None:
    v = closing(SubprocVectorEnv([lambda: OddEnv([1], box=False)] * 2))
    assert v.action_space == v.observation_space == [None, None]
    dummy = DummyVectorEnv([lambda: OddEnv([1], box=False)])
    with pytest.raises(AttributeError):
        _ = dummy.action_space
    assert v.seed(1) == dummy.seed(1) * 1 + [[2]]


def test_infos_are_new_dicts(kit: Any) -> None:
    """An environment may return the same dict each time, even one that it shares with others."""
    shared: dict[str, Any] = {"x": 1}

    class Sharing(kit.CountingEnv):
        def step(self, action: Any) -> Any:
            return *super().step(action)[:4], shared

    v = DummyVectorEnv([Sharing] * 3)
    v.reset()
    info = v.step([0] * 3)[4]
    assert [d["env_id"] for d in info] == [0, 1, 2]
    assert shared == {"x": 1}


def test_old_environments_are_refused(kit: Any, make_few: Any) -> None:
    class Old(kit.CountingEnv):
        def reset(self, **kw: Any) -> Any:
            return super().reset(**kw)[0]

    with pytest.raises(TypeError, match=r"must return \(obs, info\)"):
        make_few([Old]).reset()

    class Four(kit.CountingEnv):
        def step(self, action: Any) -> Any:
            return super().step(action)[:4]

    v = make_few([Four])
    v.reset()
    with pytest.raises((TypeError, ValueError), match=r"must return|expected 5, got 4"):
        v.step([0])


def test_old_seed_method(kit: Any, make_few: Any) -> None:
    class Old(kit.CountingEnv):
        def seed(self, seed: int | None = None) -> list[Any]:
            return [seed, "old"]

    assert make_few([Old] * 2).seed(4) == [[4, "old"], [5, "old"]]


@pytest.mark.parametrize("cls", [DummyVectorEnv, SubprocVectorEnv, ShmemVectorEnv])
class TestArguments:
    def test_wrong(self, kit: Any, cls: Any) -> None:
        for wait_num in (0, 5, -1):
            with pytest.raises(AssertionError, match=r"wait_num must be in 1\.\.4"):
                cls(kit.fns(), wait_num=wait_num)
        for timeout in (0, -1.0):
            with pytest.raises(AssertionError, match="timeout must be positive"):
                cls(kit.fns(), timeout=timeout)
        with pytest.raises(ValueError, match="empty"):
            cls([])
        with pytest.raises(TypeError, match=r"\[lambda: env"):
            cls([kit.CountingEnv()])

    def test_async_flag(self, kit: Any, cls: Any, closing: Any) -> None:
        assert not closing(cls(kit.fns(2), wait_num=2)).is_async
        assert closing(cls(kit.fns(2), wait_num=1)).is_async
        assert closing(cls(kit.fns(2), timeout=1.0)).is_async


def test_arguments_of_processes(kit: Any, closing: Any) -> None:
    with pytest.raises(ValueError, match="num_workers must be at least 1"):
        SubprocVectorEnv(kit.fns(), num_workers=0)
    with pytest.raises(ValueError, match="one process per environment"):
        SubprocVectorEnv(kit.fns(), num_workers=2, wait_num=3)
    v = closing(SubprocVectorEnv(kit.fns(2), num_workers=8))
    assert len(v.workers) == 2
    v = closing(SubprocVectorEnv(kit.fns(5), num_workers=2))
    assert len(v.workers) == 5
    assert [w.process.env_ids for w in v.workers] == [[0, 1, 2]] * 3 + [[3, 4]] * 2


def test_same_environment_twice(kit: Any) -> None:
    env = kit.CountingEnv()
    with pytest.raises(ValueError, match="same environment object"):
        DummyVectorEnv([lambda: env] * 2)


class FakeRay:
    """As much of ray as is used, in this process: actors are objects, futures are functions."""

    def __init__(self) -> None:
        self.initialized = False
        self.killed = 0

    def is_initialized(self) -> bool:
        return self.initialized

    def init(self) -> None:
        self.initialized = True

    def remote(self, cls: Any) -> Any:
        class Method:
            def __init__(self, method: Any) -> None:
                self.remote = lambda *args: lambda: method(*args)

        class Actor:
            def __init__(self, *args: Any) -> None:
                self.inner = cls(*args)

            def __getattr__(self, name: str) -> Method:
                return Method(getattr(self.inner, name))

        return SimpleNamespace(options=lambda num_cpus: SimpleNamespace(remote=Actor))

    def get(self, future: Any) -> Any:
        return future()

    def wait(self, futures: list[Any], num_returns: int, timeout: float | None) -> Any:
        assert num_returns <= len(futures)
        return futures[-num_returns:], futures[:-num_returns]

    def kill(self, actor: Any) -> None:
        self.killed += 1


def test_ray(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for ray."""
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    v, reference = RayVectorEnv(kit.fns()), DummyVectorEnv(kit.fns())
    assert ray.initialized
    assert kit.rollout(v, 20) == kit.rollout(reference, 20)
    assert v.seed(3) == reference.seed(3)
    assert [s.sample() for s in v.action_space] == [s.sample() for s in reference.action_space]
    v.set_env_attr("length", 3, 1)
    assert v.get_env_attr("length") == [None, 3, None, None]
    v.set_env_attr("action_space", spaces.Discrete(2))
    assert v.action_space == [spaces.Discrete(2)] * 4
    assert v.render()[0].shape == (2, 2, 3)
    v.close()
    v.close()
    assert ray.killed == 4
    v = RayVectorEnv(kit.fns(), wait_num=3)
    v.reset()
    assert [d["env_id"] for d in v.step([0] * 4)[4]] == [1, 2, 3]
    assert v.waiting_id == [0]
    assert [d["env_id"] for d in v.step(None)[4]] == [0]


def test_ray_actors_end_when_one_fails(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    v = RayVectorEnv([lambda i=i: kit.BrokenEnv("value" if i == 1 else "never") for i in range(3)])
    v.reset()
    v.step([0] * 3), v.step([0] * 3)
    with pytest.raises(ValueError, match="the robot fell") as caught:
        v.step([0] * 3)
    assert caught.value.__notes__ == ["raised by environment 1"]
    assert v.is_closed
    assert ray.killed == 3

    class NoSpace(kit.CountingEnv):
        @property
        def action_space(self) -> Any:
            raise KeyError("no space")

        @action_space.setter
        def action_space(self, space: Any) -> None: ...

    with pytest.raises(KeyError, match="no space"):
        RayVectorEnv([kit.CountingEnv, NoSpace])
    assert ray.killed == 5


def test_ray_is_named_when_missing(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'rlpolicy\[ray\]'"):
        RayVectorEnv(kit.fns())


# ---------------------------------------------------------------------------------------------------- asynchronous


@pytest.mark.parametrize("cls", [SubprocVectorEnv, ShmemVectorEnv])
def test_async_returns_what_is_ready(kit: Any, closing: Any, tmp_path: Path, cls: Any) -> None:
    """Each step ends when its gate is opened, so who is ready does not hang on the machine's speed."""

    def open_gates(*gates: tuple[int, int]) -> None:
        for env_id, t in gates:
            (tmp_path / f"{env_id}-{t}").touch()

    def step(ids: Any) -> list[int]:
        obs, rew, _, _, info = v.step(None if ids is None else np.ones(len(ids), int), ids)
        ready = [d["env_id"] for d in info]
        assert len(obs) == len(rew) == len(ready)
        assert set(ready) <= set(v.ready_id)
        assert sorted(v.ready_id + v.waiting_id) == [0, 1, 2, 3]
        return sorted(ready)

    fns = [lambda i=i: kit.CountingEnv(gate=f"{tmp_path}/{i}-", length=99) for i in range(4)]
    v = closing(cls(fns, wait_num=3, timeout=60.0))
    v.reset()
    open_gates((0, 1), (1, 1), (2, 1))
    assert step([0, 1, 2, 3]) == [0, 1, 2]  # three are waited for, not four, and no time runs out
    open_gates((3, 1), (0, 2), (2, 2))
    assert step([0, 1, 2]) == [0, 2, 3]  # whoever they are, also from the step before
    open_gates((1, 2))
    assert step(None) == [1]  # no more are under way

    v.timeout = 0.1
    open_gates((2, 3))
    assert step([0, 1, 2, 3]) == [2]  # the time runs out before there are three, but one there must be
    open_gates((0, 3), (1, 3), (3, 2))
    seen: list[int] = []
    while v.waiting_id:
        seen += step(None)
    assert sorted(seen) == [0, 1, 3]


@pytest.mark.parametrize("cls", [DummyVectorEnv, SubprocVectorEnv, ShmemVectorEnv])
def test_async_rules(kit: Any, closing: Any, tmp_path: Path, cls: Any) -> None:
    gates = ["", *[f"{tmp_path}/{i}-" for i in (1, 2, 3)]] if cls is not DummyVectorEnv else [""] * 4
    fns = [lambda gate=gate: kit.CountingEnv(gate=gate, length=99, dict_obs=True) for gate in gates]
    v = closing(cls(fns, wait_num=1))
    v.reset()
    with pytest.raises(ValueError, match="no environment is stepping"):
        v.step(None)
    _, _, _, _, info = v.step([1] * 4)
    assert v.ready_id == [d["env_id"] for d in info]
    assert v.waiting_id == [i for i in range(4) if i not in v.ready_id]
    if cls is DummyVectorEnv:
        return  # it is never busy
    assert v.ready_id == [0]
    busy = v.waiting_id[-1]
    for call in (
        lambda: v.step([0], [busy]),
        lambda: v.reset(busy),
        lambda: v.reset(),
        lambda: v.seed(1),
        lambda: v.get_env_attr("t"),
        lambda: v.set_env_attr("t", 1),
    ):
        with pytest.raises(AssertionError, match="still stepping"):
            call()
    with pytest.raises(RuntimeError, match="still stepping"):
        v.render()
    assert v.reset(v.ready_id[0])[0][0]["b"]["n"] == 0
    got = [d["env_id"] for d in info]
    for i in (1, 2, 3):
        (tmp_path / f"{i}-1").touch()
    while v.waiting_id:
        obs, rew, *_, info = v.step(None)
        assert obs[0]["b"]["n"] == 1
        assert rew.tolist() == [1.1] * len(info)
        got += [d["env_id"] for d in info]
    assert sorted(got) == [0, 1, 2, 3]
    v.step([1] * 4)
    for i in (1, 2, 3):
        (tmp_path / f"{i}-2").touch()
    v.close()  # also while environments are stepping


def test_async_gives_the_same_data_per_environment(kit: Any, closing: Any) -> None:
    fns = [lambda s=s: kit.CountingEnv(sleep=s) for s in (0.0, 0.001, 0.002)]
    want = kit.rollout(DummyVectorEnv(kit.fns(3)), 30)
    v = closing(ShmemVectorEnv(fns, wait_num=1))
    obs = list(v.reset(seed=0)[0])
    counts, got = [0] * 3, [[row[0]] for row in want]
    ids = [0, 1, 2]
    while min(counts) < 15:
        new, rew, term, trunc, info = v.step([(3 * i + 7 * counts[i] + counts[i] // 4) % 5 for i in ids], ids)
        ids = [d["env_id"] for d in info]
        for row, i in enumerate(ids):
            act = (3 * i + 7 * counts[i] + counts[i] // 4) % 5
            t = kit.plain(obs[i]), act, rew[row], term[row], trunc[row], kit.plain(new[row]), kit.plain(info[row])
            got[i].append(t)
            counts[i] += 1
            obs[i] = new[row]
            if term[row] or trunc[row]:
                obs[i] = v.reset(i)[0][0]
    for mine, theirs in zip(got, want, strict=True):
        n = min(len(mine), len(theirs))
        assert mine[:n] == theirs[:n]


def test_subclass_that_overrides_step_and_reset(kit: Any, closing: Any) -> None:
    """The pattern of scripts that wrap the data of a finite data set."""

    class Logging(BaseVectorEnv):
        def __init__(self, env_fns: Any, **kwargs: Any) -> None:
            super().__init__(env_fns, **kwargs)
            self.log: list[Any] = []

        def reset(self, id: Any = None) -> Any:  # type: ignore[override]
            ids = self._wrap_id(id)
            self.log.append(("reset", ids))
            return super().reset(ids)

        def step(self, action: Any, id: Any = None) -> Any:
            ids = self._wrap_id(id)
            self.log.append(("step", ids))
            return list(map(np.stack, zip(*zip(*super().step(action, ids), strict=True), strict=True)))

    class LoggingSubproc(Logging, SubprocVectorEnv):
        pass

    class LoggingDummy(Logging, DummyVectorEnv):
        pass

    for v in (closing(LoggingSubproc(kit.fns())), LoggingDummy(kit.fns())):
        v.reset()
        obs, *_ = v.step(np.ones(2, int), [1, 2])
        assert obs.shape == (2, 3)
        assert v.log == [("reset", [0, 1, 2, 3]), ("step", [1, 2])]
