"""Adapter for gymnasium's vector environments: the same transitions as DummyVectorEnv, whatever the mode."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from rlpolicy.env.gymnasium_vector import GymnasiumVectorEnv, autoreset_mode, split_info
from rlpolicy.env.venvs import DummyVectorEnv

MODES = list(AutoresetMode)
KINDS = {
    "sync": SyncVectorEnv,
    "async": AsyncVectorEnv,
    "async-pipe": lambda fns, **kw: AsyncVectorEnv(fns, shared_memory=False, **kw),
}


class OwnVectorEnv(VectorEnv[Any, Any, Any]):
    """A vector env that is none of gymnasium's own: no masks but in DISABLED mode, dense or missing final_obs."""

    def __init__(self, fns: Any, mode: Any, final: str | None = "final_obs", with_info: bool = True) -> None:
        self.envs = [fn() for fn in fns]
        self.num_envs = len(fns)
        self.metadata = {} if mode is None else {"autoreset_mode": mode}
        self.mode, self.final, self.with_info = autoreset_mode(self), final, with_info
        self.single_action_space = self.envs[0].action_space
        self.single_observation_space = self.envs[0].observation_space
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, self.num_envs)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, self.num_envs)
        self.done = np.zeros(self.num_envs, bool)
        self.obs = np.zeros((self.num_envs, 3), np.float32)  # reused, as by environments that spare copies

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        options = options or {}
        mask = options.pop("reset_mask", np.ones(self.num_envs, bool))
        assert mask.all() or self.mode is AutoresetMode.DISABLED
        infos: dict[str, Any] = {}
        for i in np.flatnonzero(mask):
            self.obs[i], info = self.envs[i].reset(seed=None if seed is None else seed + int(i), options=options)
            infos = self._add_info(infos, info, i)
        self.done[mask] = False
        return self.obs, infos if self.with_info else {}

    def step(self, actions: Any) -> Any:
        assert self.action_space.contains(actions)
        n = self.num_envs
        rew, term, trunc = np.zeros(n, np.float32), np.zeros(n, bool), np.zeros(n, bool)
        infos: dict[str, Any] = {}
        final = np.zeros_like(self.obs)
        final_infos = [None] * n
        for i, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            if self.mode is AutoresetMode.NEXT_STEP and self.done[i]:
                self.obs[i], info = env.reset()
            else:
                self.obs[i], rew[i], term[i], trunc[i], info = env.step(action)
                if self.mode is AutoresetMode.SAME_STEP and (term[i] or trunc[i]):
                    final[i] = self.obs[i]
                    final_infos[i] = info
                    self.obs[i], info = env.reset()
            infos = self._add_info(infos, info, i)
        self.done = term | trunc
        infos = infos if self.with_info else {}
        if self.mode is AutoresetMode.SAME_STEP and self.final and self.done.any():
            infos[self.final] = final
            if self.with_info:
                infos["final_info"] = np.array(final_infos, dtype=object)
        return self.obs, rew, term, trunc, infos


@pytest.fixture(scope="module")
def reference(kit: Any) -> Any:
    """Transitions of DummyVectorEnv."""
    return {d: kit.rollout(DummyVectorEnv(kit.fns(dict_obs=d)), 40, seed=3) for d in (False, True)}


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dict_obs", [False, True], ids=["box", "dict"])
def test_same_transitions_as_dummy(
    kit: Any, reference: Any, closing: Any, kind: str, mode: AutoresetMode, dict_obs: bool
) -> None:
    venv = closing(GymnasiumVectorEnv(KINDS[kind](kit.fns(dict_obs=dict_obs), autoreset_mode=mode)))
    got = kit.rollout(venv, 40, seed=3)
    late = kind == "async-pipe" and mode is AutoresetMode.NEXT_STEP
    for mine, theirs in zip(got, reference[dict_obs], strict=True):
        if late:  # resets take a step: fewer transitions, and none that is not the reference's
            assert 25 < len(mine) < len(theirs)
            assert mine == theirs[: len(mine)]
        else:
            assert mine == theirs


@pytest.mark.parametrize("mode", [*MODES, None, "NextStep", "SAME_STEP", "disabled"], ids=str)
def test_own_vector_env(kit: Any, reference: Any, mode: Any) -> None:
    venv = GymnasiumVectorEnv(OwnVectorEnv(kit.fns(), mode))
    got = kit.rollout(venv, 40, seed=3)
    late = venv.mode is AutoresetMode.NEXT_STEP
    for mine, theirs in zip(got, reference[False], strict=True):
        assert len(mine) > 25
        # float32 rewards of this env: rounded
        assert [(*t[:2], pytest.approx(t[2]), *t[3:]) for t in theirs[1 : len(mine)]] == mine[1:]
        assert late or len(mine) == len(theirs)


@pytest.mark.parametrize("spelling", ["final_obs", "final_observation"])
def test_final_observation_as_dense_array(kit: Any, reference: Any, spelling: str) -> None:
    venv = GymnasiumVectorEnv(OwnVectorEnv(kit.fns(), "SameStep", spelling, with_info=False))
    got = kit.rollout(venv, 40, seed=3)
    for mine, theirs in zip(got, reference[False], strict=True):
        assert [(t[0], t[5]) for t in mine[1:]] == [(t[0], t[5]) for t in theirs[1:]]


def test_final_observation_that_is_not_told(kit: Any, reference: Any) -> None:
    venv = GymnasiumVectorEnv(OwnVectorEnv(kit.fns(), "SameStep", final=None))
    with pytest.warns(UserWarning, match="does not tell the final observation") as caught:
        got = kit.rollout(venv, 40, seed=3)
    assert len(caught) == 1
    for mine, theirs in zip(got, reference[False], strict=True):
        for m, t in zip(mine[1:], theirs[1:], strict=True):
            done = t[3] or t[4]
            assert m[0] == t[0]
            assert m[5] == (t[0] if done else t[5])  # the observation before the final one stands in for it
            assert m[6].get("final_obs_missing", False) == done


def test_environment_that_reuses_its_buffer(kit: Any) -> None:
    venv = GymnasiumVectorEnv(SyncVectorEnv(kit.fns(), copy=False))
    obs, _ = venv.reset(seed=0)
    before = obs.copy()
    new = venv.step(np.zeros(4, int))[0]
    assert (obs == before).all()
    assert not np.shares_memory(new, venv.step(np.zeros(4, int), range(4))[0])


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
@pytest.mark.parametrize("kind", ["sync", "async-pipe"])
def test_stacked_dicts(kit: Any, closing: Any, kind: str, mode: AutoresetMode) -> None:
    rows = closing(GymnasiumVectorEnv(KINDS[kind](kit.fns(dict_obs=True), autoreset_mode=mode)))
    stacked = closing(GymnasiumVectorEnv(KINDS[kind](kit.fns(dict_obs=True), autoreset_mode=mode)))
    stacked.stack_dicts = True
    obs, want = stacked.reset(seed=1)[0], rows.reset(seed=1)[0]
    for _ in range(20):
        assert obs["a"].shape == (4, 3)
        assert obs["a"].dtype == np.float32
        assert obs["b"]["n"].tolist() == [o["b"]["n"] for o in want]
        assert obs["b"]["t"][0].tolist() == [o["b"]["t"][0].tolist() for o in want]
        action = np.ones(4, int)
        obs, _, term, trunc, _ = stacked.step(action)
        want = rows.step(action)[0]
        if (term | trunc).any():
            ids = np.flatnonzero(term | trunc)
            a, b = stacked.reset(ids)[0], rows.reset(ids)[0]
            assert a["a"].tolist() == [o["a"].tolist() for o in b]


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
def test_cartpole(kit: Any, mode: AutoresetMode) -> None:
    def make() -> gym.Env[Any, Any]:
        return gym.make("CartPole-v1", max_episode_steps=15)

    def act(env_id: int, n: int) -> int:
        return n % 2 if env_id == 0 else 1

    want = kit.rollout(DummyVectorEnv([make] * 3), 100, seed=7, act=act)
    got = kit.rollout(GymnasiumVectorEnv(SyncVectorEnv([make] * 3, autoreset_mode=mode)), 100, seed=7, act=act)
    assert got == want
    assert sum(t[3] for rows in want for t in rows[1:]) > 3
    assert sum(t[4] for rows in want for t in rows[1:]) > 3


def test_vectorised_cartpole_without_masks() -> None:
    """No row of a reset step is handed out as a transition, none is lost."""
    venv = GymnasiumVectorEnv(
        gym.make_vec("CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point", max_episode_steps=12)
    )
    obs, _ = venv.reset(seed=0)
    lengths = np.zeros(3, int)
    finished_lengths, n_reset_rows = [], 0
    rng = np.random.default_rng(0)
    for _ in range(200):
        new, rew, term, trunc, _ = venv.step(rng.integers(0, 2, 3))
        rows = np.zeros(3, bool) if venv.reset_rows is None else venv.reset_rows
        n_reset_rows += rows.sum()
        assert (np.abs(new[rows]) <= 0.05).all()  # first observations are drawn from [-0.05, 0.05]
        assert (rew == ~rows).all()
        # one step moves the cart by its old velocity: rows that follow each other belong together
        np.testing.assert_allclose(new[~rows, 0], obs[~rows, 0] + 0.02 * obs[~rows, 1], atol=1e-6)
        obs = new
        lengths += ~rows
        done = term | trunc
        finished_lengths += lengths[done].tolist()
        lengths[done] = 0
        if done.any():
            first, infos = venv.reset(np.flatnonzero(done))
            assert infos == [{}] * done.sum()
            if venv.placeholder_rows is None:  # all ended together: the first observations are there at once
                assert done.all()
                assert (np.abs(first) <= 0.05).all()
                obs[done] = first
            else:
                assert (first == new[done]).all()
    assert max(finished_lengths) == 12
    assert n_reset_rows > 10


def test_all_environments_end_together(kit: Any) -> None:
    """Then the reset is done at once even where no masks are known."""
    want = kit.rollout(DummyVectorEnv(kit.fns(length=4)), 20)
    venv = GymnasiumVectorEnv(OwnVectorEnv(kit.fns(length=4), None))
    got = kit.rollout(venv, 20)
    assert [len(rows) for rows in got] == [21] * 4
    assert [[t[5] for t in rows[1:]] for rows in got] == [[t[5] for t in rows[1:]] for rows in want]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
def test_seeded_reset_in_the_middle(kit: Any, closing: Any, kind: str, mode: AutoresetMode) -> None:
    """Also while environments are finished but not reset, and after it the data are the seed's again."""
    venv = closing(GymnasiumVectorEnv(KINDS[kind](kit.fns(), autoreset_mode=mode)))
    first = kit.rollout(venv, 10, seed=5)
    venv.reset()
    for _ in range(10):
        *_, term, trunc, _ = venv.step(np.zeros(4, int))
        if (term | trunc).any():
            break
    assert kit.rollout(venv, 10, seed=5) == first


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
def test_unseeded_reset_of_all_in_the_middle(kit: Any, closing: Any, kind: str, mode: AutoresetMode) -> None:
    """What a collector does after n_episode: finished ones are reset, then all are. Draws as many numbers as Dummy."""

    def run(venv: Any) -> list[Any]:
        venv.reset(seed=2)
        for _ in range(8):
            *_, term, trunc, _ = venv.step(np.zeros(4, int))
            done = np.flatnonzero(term | trunc)
            if len(done):
                venv.reset(done)
                break
        obs, _ = venv.reset()
        new = venv.step(np.ones(4, int))[0]
        # an environment that resets late shows its first observation now, and starts in the next step
        late = np.zeros(4, bool) if venv.reset_rows is None else venv.reset_rows
        first = np.where(late[:, None], new, obs)
        if late.any():
            again = venv.step(np.ones(late.sum(), int), np.flatnonzero(late))[0]
            new[late] = again
        return [first.tolist(), new.tolist()]

    want = run(DummyVectorEnv(kit.fns()))
    got = run(closing(GymnasiumVectorEnv(KINDS[kind](kit.fns(), autoreset_mode=mode))))
    assert got == want


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
def test_some_environments(kit: Any, mode: AutoresetMode) -> None:
    """Rows are those of the given ids in their order; the others must be reset before they are used again."""
    dummy = DummyVectorEnv(kit.fns(length=3))
    venv = GymnasiumVectorEnv(SyncVectorEnv(kit.fns(length=3), autoreset_mode=mode))
    dummy.reset(seed=0), venv.reset(seed=0)
    for n in range(6):
        want, got = dummy.step([1, 2], [3, 1]), venv.step([1, 2], [3, 1])
        assert [kit.plain(x) for x in want] == [kit.plain(x) for x in got]
        if n % 3 == 2:
            a, b = dummy.reset([1, 3])[0], venv.reset([1, 3])[0]
            assert a.tolist() == b.tolist()
    with pytest.raises(ValueError, match="environment 0 must be reset first"):
        venv.step(np.zeros(4, int))
    venv.reset()
    venv.step(np.zeros(4, int))
    venv.reset(2)
    assert venv.step([0], 2)[0][0, 0] == 1


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
def test_only_some_from_the_start(kit: Any, mode: AutoresetMode) -> None:
    """The others have never been reset by the caller, nor need they be."""
    venv = GymnasiumVectorEnv(SyncVectorEnv(kit.fns(length=2), autoreset_mode=mode))
    assert venv.reset([2, 1], seed=[5, 6])[0].tolist() == [
        kit.CountingEnv(length=2).reset(seed=seed)[0].tolist() for seed in (5, 6)
    ]
    for _ in range(3):
        assert venv.step([0, 0], [1, 2])[0][:, 0].tolist() == [1, 1]
        assert venv.step([0, 0], [1, 2])[0][:, 0].tolist() == [2, 2]
        venv.reset([1, 2])


def test_partial_step_of_boxed_actions() -> None:
    venv = GymnasiumVectorEnv(gym.make_vec("Pendulum-v1", num_envs=3, vectorization_mode="sync"))
    venv.reset(seed=0)
    obs, *_ = venv.step(np.ones((2, 1), np.float32), [0, 2])
    dummy = DummyVectorEnv([lambda: gym.make("Pendulum-v1")] * 3)
    dummy.reset(seed=0)
    assert (obs == dummy.step(np.ones((2, 1), np.float32), [0, 2])[0]).all()


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_guard_against_stepping_finished_ones(kit: Any, closing: Any, kind: str, mode: AutoresetMode) -> None:
    venv = closing(GymnasiumVectorEnv(KINDS[kind](kit.fns(length=2), autoreset_mode=mode)))
    with pytest.raises(ValueError, match="environment 0 must be reset first"):
        venv.step(np.zeros(4, int))
    venv.reset()
    venv.step(np.zeros(4, int))
    venv.step(np.zeros(4, int))
    venv.reset([0, 1, 3])
    with pytest.raises(ValueError, match="environment 2 has finished"):
        venv.step(np.zeros(4, int))


def test_what_cannot_be_reset_alone(kit: Any) -> None:
    venv = GymnasiumVectorEnv(OwnVectorEnv(kit.fns(length=9), None))
    venv.reset()
    with pytest.raises(ValueError, match="cannot reset environments \\[1\\] alone: reset all"):
        venv.reset(1)
    with pytest.raises(ValueError, match="takes one seed for all"):
        venv.reset(seed=[1, 2, 5, 9])
    venv.reset(seed=[4, 5, 6, 7])


def test_reset_options_reach_the_environments_and_are_not_shared(kit: Any) -> None:
    venv = GymnasiumVectorEnv(SyncVectorEnv(kit.fns(length=1), autoreset_mode="Disabled"))
    options = {"level": 3}
    infos = venv.reset(options=options)[1]
    assert [info["options"] for info in infos] == ["[('level', 3)]"] * 4
    venv.step(np.zeros(4, int))
    infos = venv.reset([0, 2], options=options)[1]
    assert [info["options"] for info in infos] == ["[('level', 3)]"] * 2
    assert options == {"level": 3}


def test_seeds(kit: Any) -> None:
    venv = GymnasiumVectorEnv(SyncVectorEnv(kit.fns()))
    dummy = DummyVectorEnv(kit.fns())
    for seed in (3, np.int64(3), [3, 4, 5, 6], None):
        assert venv.seed(seed) == dummy.seed(seed)
        assert len(venv.action_space) == len(venv.observation_space) == len(venv) == venv.env_num == 4
        samples = [[space.sample() for space in v.action_space] for v in (venv, dummy)]
        if seed is not None:
            assert samples[0] == samples[1]
            assert venv.reset()[0].tolist() == dummy.reset()[0].tolist()
    assert venv.reset(seed=8)[0].tolist() == venv.reset(env_id=[0, 1, 2, 3], seed=8)[0].tolist()
    assert venv.reset([2], seed=8)[0].tolist() == venv.reset(2, seed=[10])[0].tolist()


def test_vector_wrappers(kit: Any) -> None:
    """The statistics that gymnasium's wrapper puts into the last info of an episode are found there in all modes.

    They are right in SAME_STEP only: a partial reset wipes those of running episodes (Gymnasium#1696).
    """
    runs, same = [], MODES.index(AutoresetMode.SAME_STEP)
    for mode in MODES:
        env = gym.wrappers.vector.RecordEpisodeStatistics(SyncVectorEnv(kit.fns(), autoreset_mode=mode))
        runs.append(kit.rollout(GymnasiumVectorEnv(env), 40))
    for rows in runs:
        ends = [t[6] for env_rows in rows for t in env_rows[1:] if t[3] or t[4]]
        assert len(ends) > 10
        assert [info.pop("episode")["l"] for info in ends] == [info["t"] for info in ends] or rows is not runs[same]
    assert runs[0] == runs[1] == runs[2] == kit.rollout(DummyVectorEnv(kit.fns()), 40)


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_observation_wrappers(kit: Any, mode: str) -> None:
    env = gym.wrappers.vector.VectorizeTransformObservation(
        SyncVectorEnv(kit.fns(), autoreset_mode=mode),
        gym.wrappers.TransformObservation,
        func=lambda obs: obs * 2,
        observation_space=None,
    )
    want = kit.rollout(DummyVectorEnv(kit.fns()), 30)
    for mine, theirs in zip(kit.rollout(GymnasiumVectorEnv(env), 30), want, strict=True):
        assert [t[5] for t in mine[1:]] == [[2 * x for x in t[5]] for t in theirs[1:]]


def test_wrapper_that_knows_no_masks(kit: Any) -> None:
    """gymnasium's NormalizeObservation refuses partial resets: the reset happens in the next step."""
    env = gym.wrappers.vector.NormalizeObservation(SyncVectorEnv(kit.fns()))
    rows = kit.rollout(GymnasiumVectorEnv(env), 40)
    want = kit.rollout(DummyVectorEnv(kit.fns()), 40)
    for mine, theirs in zip(rows, want, strict=True):
        assert len(mine) > 25
        assert [t[2:5] for t in mine[1:]] == [t[2:5] for t in theirs[1 : len(mine)]]


def test_tensors_in_and_out(kit: Any) -> None:
    torch = pytest.importorskip("torch")

    class Tensors(gym.vector.VectorWrapper[Any, Any, Any, Any, Any]):
        def reset(self, **kw: Any) -> Any:
            obs, info = self.env.reset(**kw)
            return torch.as_tensor(obs), info

        def step(self, actions: Any) -> Any:
            assert isinstance(actions, torch.Tensor)
            obs, *rest, info = self.env.step(actions.numpy())
            return torch.as_tensor(obs), *map(torch.as_tensor, rest), info

    venv = GymnasiumVectorEnv(Tensors(SyncVectorEnv(kit.fns(), autoreset_mode="SameStep")))
    assert kit.rollout(venv, 30) == kit.rollout(DummyVectorEnv(kit.fns()), 30)


def test_unusable_environments(kit: Any) -> None:
    with pytest.raises(ValueError, match="unknown autoreset_mode 'Sometimes'"):
        GymnasiumVectorEnv(OwnVectorEnv(kit.fns(), "Sometimes"))

    class Tuples(kit.CountingEnv):
        observation_space = spaces.Tuple((spaces.Discrete(2), spaces.Discrete(3)))

    with pytest.raises(TypeError, match="Tuple observation"):
        GymnasiumVectorEnv(SyncVectorEnv([Tuples]))
    venv = GymnasiumVectorEnv(SyncVectorEnv(kit.fns()))
    venv.reset()
    with pytest.raises(ValueError, match="4 environments, 3 actions"):
        venv.step(np.zeros(3, int))
    assert [frame.shape for frame in venv.render()] == [(2, 2, 3)] * 4
    assert venv.spec == [None] * 4
    assert venv.metadata[0]["autoreset_mode"] is AutoresetMode.NEXT_STEP
    venv.close()
    venv.close()
    with pytest.raises(ValueError, match="closed"):
        venv.reset()


def test_split_info() -> None:
    info = {
        "a": np.array([1.0, 2.0, 3.0]),
        "_a": np.array([True, False, True]),
        "deep": {"b": np.arange(6).reshape(3, 2), "_b": np.array([False, True, True])},
        "_deep": np.array([False, True, True]),
        "dense": [7, 8, 9],
        "constant": "x",
        "_private": np.arange(3),
        "left": 1,
    }
    got = split_info(info, 3, frozenset({"left"}))
    assert [{k: v for k, v in d.items() if k != "deep"} for d in got] == [
        {"a": 1.0, "dense": 7, "constant": "x", "_private": 0},
        {"dense": 8, "constant": "x", "_private": 1},
        {"a": 3.0, "dense": 9, "constant": "x", "_private": 2},
    ]
    assert "deep" not in got[0]
    assert got[1]["deep"]["b"].tolist() == [2, 3]
    info["deep"]["b"][1] = 0
    assert got[1]["deep"]["b"].tolist() == [2, 3]
