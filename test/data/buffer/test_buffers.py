"""What every buffer does: tables worked out by hand."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.cached import CachedReplayBuffer
from rlpolicy.data.buffer.her import HERReplayBuffer
from rlpolicy.data.buffer.manager import ReplayBufferManager
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.data.buffer.vecbuf import (
    HERVectorReplayBuffer,
    PrioritizedVectorReplayBuffer,
    VectorReplayBuffer,
)


def reward(achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
    return -(np.abs(achieved - desired).sum(-1) > 0.5).astype(np.float32)


HER = {"compute_reward_fn": reward, "horizon": 10}
BUFFERS = {
    "plain": lambda **kw: ReplayBuffer(12, **kw),
    "vector": lambda **kw: VectorReplayBuffer(24, 2, **kw),
    "prio": lambda **kw: PrioritizedReplayBuffer(12, 0.6, 0.4, **kw),
    "prio_vector": lambda **kw: PrioritizedVectorReplayBuffer(24, 2, alpha=0.6, beta=0.4, **kw),
    "her": lambda **kw: HERReplayBuffer(12, **HER, **kw),
    "her_vector": lambda **kw: HERVectorReplayBuffer(24, 2, **HER, **kw),
    "cached": lambda **kw: CachedReplayBuffer(ReplayBuffer(12, **kw), 2, 10),
}


def goal_obs(value: float) -> dict[str, np.ndarray]:
    return {
        "observation": np.array([value]),
        "achieved_goal": np.array([value]),
        "desired_goal": np.array([99.0]),
    }


def transition(t: int, done: bool = False, **extra: Any) -> Batch:
    """Step t of a counting environment with goal observations; leaves without a batch axis."""
    return Batch(
        obs=goal_obs(t),
        act=t,
        rew=-1.0,
        terminated=done,
        truncated=False,
        obs_next=goal_obs(t + 1),
        info={"t": t},
        **extra,
    )


def fill(buffer: ReplayBuffer, steps: int = 7, episode: int = 4) -> None:
    envs = getattr(buffer, "cached_buffer_num", getattr(buffer, "buffer_num", 1))
    for t in range(steps):
        rows = Batch.stack([transition(t % episode, t % episode == episode - 1) for _ in range(envs)])
        buffer.add(rows, buffer_ids=np.arange(envs))


@pytest.fixture(params=list(BUFFERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Batch):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a.keys())
    return np.array_equal(a, b)


# -- contract of all buffers ----------------------------------------------------------------------------------------


def test_sample_has_every_name_and_matching_rows(kind: str) -> None:
    buffer = BUFFERS[kind](seed=1) if kind != "cached" else BUFFERS[kind]()
    fill(buffer)
    batch, indices = buffer.sample(16)
    for name in ("obs", "act", "rew", "terminated", "truncated", "done", "obs_next", "info"):
        assert len(batch[name]) == 16
    assert batch.rew.dtype == np.float64
    assert batch.done.dtype == bool
    np.testing.assert_array_equal(batch.act, buffer.act[indices])
    np.testing.assert_array_equal(batch.obs_next.observation[:, 0], batch.act + 1)
    assert isinstance(batch.policy, Batch)
    assert batch.policy.is_empty()


def test_empty_buffer_refuses_to_sample(kind: str) -> None:
    buffer = BUFFERS[kind]()
    with pytest.raises(ValueError, match="holds no transition"):
        buffer.sample(4)
    with pytest.raises(ValueError, match="holds no transition"):
        buffer.sample(0)
    assert buffer.sample_indices(0).tolist() == []
    assert buffer.unfinished_index().tolist() == []
    assert repr(buffer) == f"{type(buffer).__name__}()"
    with pytest.raises(AttributeError):
        buffer.obs  # noqa: B018


def test_same_seed_same_minibatches(kind: str) -> None:
    def draw(seed: int) -> list[int]:
        buffer = BUFFERS[kind]()
        fill(buffer)
        buffer.seed(seed)
        return buffer.sample_indices(32).tolist()

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_numpy_global_seed_reaches_unseeded_buffers() -> None:
    def draw() -> list[int]:
        np.random.seed(5)
        buffer = ReplayBuffer(12)
        fill(buffer)
        return buffer.sample_indices(32).tolist()

    assert draw() == draw()


@pytest.mark.parametrize("how", ["pickle", "npz", "hdf5"])
def test_files_bring_everything_back(kind: str, how: str, tmp_path: Path) -> None:
    buffer = BUFFERS[kind]()
    fill(buffer)
    if "prio" in kind:
        buffer.update_weight(np.array([0, 2]), np.array([3.0, 0.5]))
    buffer.seed(7)
    path = tmp_path / "buffer"
    function = {"compute_reward_fn": reward} if "her" in kind else {}
    if how == "pickle":
        loaded = pickle.loads(pickle.dumps(buffer))
    elif how == "npz":
        buffer.save(path)
        loaded = type(buffer).load(path, **function)
    else:
        buffer.save_hdf5(str(path))
        loaded = type(buffer).load_hdf5(str(path), **function)
    assert [p.name for p in tmp_path.iterdir()] in ([], ["buffer"])
    assert type(loaded) is type(buffer)
    assert loaded.options == buffer.options
    assert loaded.maxsize == buffer.maxsize
    assert equal(loaded[:], buffer[:])
    np.testing.assert_array_equal(loaded.sample_indices(20), buffer.sample_indices(20))
    # both go on alike: pointers, running episodes and priorities are the same
    for buf in (buffer, loaded):
        fill(buf, 3)
    assert equal(loaded[:], buffer[:])
    np.testing.assert_array_equal(loaded.sample_indices(20), buffer.sample_indices(20))
    if hasattr(buffer, "buffers"):
        loaded.act[0] = -5
        assert loaded.buffers[0].act[0] == -5


def test_reset_forgets(kind: str) -> None:
    buffer = BUFFERS[kind]()
    fill(buffer)
    buffer.reset()
    assert len(buffer) == 0
    fill(buffer, 2)
    assert len(buffer) == 2 * getattr(buffer, "cached_buffer_num", getattr(buffer, "buffer_num", 1))
    assert (buffer.sample(32)[0].act <= 1).all()


def test_wrong_input_is_refused_and_leaves_the_buffer_whole(kind: str) -> None:
    buffer = BUFFERS[kind]()
    fill(buffer)
    before = pickle.dumps(buffer[:])
    envs = getattr(buffer, "cached_buffer_num", getattr(buffer, "buffer_num", 1))
    rows = Batch.stack([transition(1) for _ in range(envs)])
    ids = np.arange(envs)
    bad_act = Batch(rows, copy=True)
    bad_act.act = np.zeros((envs, 3))
    with pytest.raises(ValueError, match=r"act of one transition has shape \(3,\), but this buffer holds \(\)"):
        buffer.add(bad_act, buffer_ids=ids)
    if envs > 1:
        bad_length = Batch(rows, copy=True)
        bad_length.act = bad_length.act[:1]
        with pytest.raises(ValueError, match=r"act has shape \(1,\), but there are 2 transitions"):
            buffer.add(bad_length, buffer_ids=ids)
    missing = Batch({k: v for k, v in rows.items() if k != "rew"})
    with pytest.raises(AssertionError, match="missing: rew"):
        buffer.add(missing, buffer_ids=ids)
    with pytest.raises(ValueError, match="stored column"):
        buffer.obs = 3
    assert pickle.dumps(buffer[:]) == before


# -- the plain buffer -----------------------------------------------------------------------------------------------


def test_first_values_shape_the_columns() -> None:
    buffer = ReplayBuffer(5)
    buffer.add(Batch(obs=1, act=[2], rew=1, terminated=1, truncated=0, obs_next="end", info={"a": 3, "b": {"c": 5.0}}))
    assert buffer.obs.tolist() == [1, 0, 0, 0, 0]
    assert buffer.act.shape == (5, 1)
    assert buffer.obs_next.tolist() == ["end", None, None, None, None]
    assert buffer.info.a.dtype == np.int64
    assert buffer.info.b.c.tolist() == [5.0, 0, 0, 0, 0]
    buffer.add(
        Batch(obs=2, act=[1], rew=2, terminated=0, truncated=0, obs_next="x", info={"a": 4, "d": {"e": -np.inf}})
    )
    assert set(buffer.info.keys()) == {"a", "b", "d"}
    assert buffer.info.a.tolist() == [3, 4, 0, 0, 0]
    assert buffer.info.b.c[1] == 0
    assert buffer.info.d.e.tolist() == [0, -np.inf, 0, 0, 0]
    assert buffer.done.tolist() == [True, False, False, False, False]
    with pytest.raises(IndexError):
        buffer[7]


def test_values_of_another_type_widen_the_column() -> None:
    buffer = ReplayBuffer(4)
    step = {"obs": 0, "act": 0, "rew": 0.0, "terminated": False, "truncated": False}
    buffer.add(Batch(**step, info={"x": 1, "flag": True}))
    buffer.add(Batch(**step, info={"x": 0.5, "flag": False}))
    buffer.add(Batch(**step, info={"x": "text", "flag": 3}))
    assert buffer.info.x[:3].tolist() == [1.0, 0.5, "text"]
    assert buffer.info.flag[:3].tolist() == [1, 0, 3]


def test_add_returns_episode_statistics() -> None:
    """A done step, an open step, then a done step with a batch axis."""
    buffer = ReplayBuffer(5)
    step = {"obs": np.zeros(2), "act": 0}
    results = [
        buffer.add(Batch(**step, rew=1.5, terminated=True, truncated=False)),
        buffer.add(Batch(**step, rew=3.0, terminated=False, truncated=False)),
        buffer.add(
            Batch(obs=np.zeros((1, 2)), act=[0], rew=[1.0], terminated=[False], truncated=[True]), buffer_ids=[0]
        ),
    ]
    assert [[float(v[0]) for v in r] for r in results] == [[0, 1.5, 1, 0], [1, 0, 0, 1], [2, 4.0, 2, 1]]
    assert buffer.prev([0, 1, 2]).tolist() == [0, 1, 1]
    assert buffer.next([0, 1, 2]).tolist() == [0, 2, 2]


def test_vector_rewards_give_vector_returns() -> None:
    buffer = VectorReplayBuffer(8, 2)
    step = {"obs": np.zeros(2), "act": np.zeros(2), "rew": np.array([[1.0, 2, 3], [4, 5, 6]])}
    _, ep_rew, _, _ = buffer.add(Batch(**step, terminated=[False, True], truncated=[False, False]))
    np.testing.assert_array_equal(ep_rew, [[0, 0, 0], [4, 5, 6]])
    _, ep_rew, ep_len, _ = buffer.add(Batch(**step, terminated=[True, False], truncated=[False, False]))
    np.testing.assert_array_equal(ep_rew, [[2, 4, 6], [0, 0, 0]])
    np.testing.assert_array_equal(ep_len, [2, 0])


def test_update_appends_in_order_and_ends_open_episodes() -> None:
    source, target = ReplayBuffer(4, stack_num=2), ReplayBuffer(4, stack_num=2)
    assert source.update(target).tolist() == []
    for i in range(5):
        source.add(
            Batch(
                obs=np.array([i]),
                act=float(i),
                rew=i * i,
                terminated=i % 2 == 0,
                truncated=False,
                info={"n": "x"},
            )
        )
    assert target.update(source).tolist() == [0, 1, 2, 3]
    assert target.obs[:, 0].tolist() == [1, 2, 3, 4]
    assert target.truncated.tolist() == [False] * 4
    source.add(Batch(obs=np.array([9]), act=9.0, rew=0, terminated=False, truncated=False, info={"n": "y"}))
    target.update(source)
    assert target.obs[:, 0].tolist() == [2, 3, 4, 9]
    assert target.truncated.tolist() == [False, False, False, True]


def test_obs_dtype_halves_float64_observations() -> None:
    buffer = VectorReplayBuffer(4, 2, obs_dtype="float32")
    obs = np.array([[0.1, 0.2], [0.3, 0.4]])
    zero = np.zeros(2)
    buffer.add(Batch(obs=obs, obs_next=obs, act=zero, rew=zero, terminated=zero, truncated=zero, info={"x": obs}))
    assert buffer.obs.dtype == buffer.obs_next.dtype == np.float32
    assert buffer.info.x.dtype == np.float64
    np.testing.assert_array_equal(buffer.sample(0)[0].obs, obs.astype(np.float32))


def test_tensors_are_stored_as_arrays() -> None:
    buffer = ReplayBuffer(3)
    buffer.add(Batch(obs=torch.ones(2), act=0, rew=0, terminated=False, truncated=False, policy={"h": torch.arange(3)}))
    np.testing.assert_array_equal(buffer[0].policy.h, [0, 1, 2])
    np.testing.assert_array_equal(buffer.obs[0], [1, 1])


def test_from_data_and_set_batch() -> None:
    n = 6
    columns = {
        "obs": np.arange(n),
        "act": np.arange(n),
        "rew": np.ones(n),
        "terminated": np.arange(n) % 3 == 2,
    }
    columns |= {"truncated": np.zeros(n, bool), "done": columns["terminated"], "obs_next": np.arange(n) + 1}
    buffer = ReplayBuffer.from_data(**columns)
    assert len(buffer) == buffer.maxsize == n
    assert buffer.next(np.arange(n)).tolist() == [1, 2, 2, 4, 5, 5]
    replaced = buffer._meta
    replaced.info = np.ones(n)
    buffer.set_batch(replaced)
    assert buffer[:].info.tolist() == [1.0] * n
    with pytest.raises(AssertionError, match="must have 6 rows"):
        buffer.set_batch(Batch(obs=np.zeros(3)))
    with pytest.raises(ValueError, match="same length"):
        ReplayBuffer.from_data(**{**columns, "act": np.zeros(2)})


def test_n_of_everything_in_the_constructor_is_checked() -> None:
    for make in (
        lambda: ReplayBuffer(-1),
        lambda: ReplayBuffer(3, stack_num=0),
        lambda: VectorReplayBuffer(10, 0),
        lambda: VectorReplayBuffer(2, 3),
        lambda: PrioritizedReplayBuffer(3, alpha=0.0, beta=0.4),
        lambda: PrioritizedReplayBuffer(3, alpha=0.5, beta=-1.0),
        lambda: HERReplayBuffer(3, reward, horizon=0),
        lambda: ReplayBufferManager([]),
        lambda: ReplayBufferManager([ReplayBuffer(3), ReplayBuffer(3, stack_num=2)]),
        lambda: CachedReplayBuffer(ReplayBuffer(3), 0, 3),
    ):
        with pytest.raises(AssertionError) as caught:
            make()
        assert isinstance(caught.value, ValueError)


# -- stacking and final observations --------------------------------------------------------------------------------


def test_stacks_repeat_the_first_frame_of_the_episode() -> None:
    """Episodes of 4 frames 1..4; a ring of 9 after 16 steps."""
    buffer, avail = ReplayBuffer(9, stack_num=4), ReplayBuffer(9, stack_num=4, sample_avail=True)
    for i in range(16):
        frame = Batch(obs=i % 4 + 1, act=0, rew=0, terminated=i % 4 == 3, truncated=False)
        buffer.add(frame)
        avail.add(frame)
    expected = [
        [1, 1, 1, 2], [1, 1, 2, 3], [1, 2, 3, 4],
        [1, 1, 1, 1], [1, 1, 1, 2], [1, 1, 2, 3], [1, 2, 3, 4],
        [4, 4, 4, 4], [1, 1, 1, 1],
    ]  # fmt: skip
    np.testing.assert_array_equal(buffer.get(np.arange(9), "obs"), expected)
    assert buffer.get(2, "obs").tolist() == [1, 2, 3, 4]
    assert sorted(avail.sample_indices(0)) == [2, 6]
    assert set(avail.sample_indices(50)) == {2, 6}


def test_save_only_last_obs_keeps_one_frame() -> None:
    buffer = VectorReplayBuffer(8, 2, stack_num=3, save_only_last_obs=True)
    stacks = np.arange(12).reshape(2, 3, 2)
    zero = np.zeros(2)
    buffer.add(Batch(obs=stacks, obs_next=stacks + 1, act=zero, rew=zero, terminated=zero, truncated=zero))
    assert buffer.obs.shape == (8, 2)
    np.testing.assert_array_equal(buffer.obs[[0, 4]], stacks[:, -1])
    plain = ReplayBuffer(4, stack_num=3, save_only_last_obs=True)
    plain.add(Batch(obs=stacks[0], obs_next=stacks[0] + 1, act=0, rew=0, terminated=False, truncated=False))
    np.testing.assert_array_equal(plain.obs_next[0], stacks[0, -1] + 1)


@pytest.mark.parametrize(
    "make",
    [lambda **kw: ReplayBuffer(10, **kw), lambda **kw: CachedReplayBuffer(ReplayBuffer(10, **kw), 1, 10)],
)
def test_ignore_obs_next_keeps_the_true_final_observation(make: Any) -> None:
    """Frames 10e + t; each episode of 3 ends with a frame that is no row's obs."""
    buffer = make(ignore_obs_next=True, stack_num=2)
    for i in range(8):
        e, t = divmod(i, 3)
        buffer.add(
            Batch(
                obs=[10 * e + t],
                obs_next=[10 * e + t + 1],
                act=[0],
                rew=[0],
                terminated=[False],
                truncated=[t == 2],
            ),
            buffer_ids=[0],
        )
    rows = buffer.sample_indices(0)
    batch = buffer[rows]
    assert "obs_next" not in buffer._meta.keys()
    assert batch.obs.tolist() == [[0, 0], [0, 1], [1, 2], [10, 10], [10, 11], [11, 12], [20, 20], [20, 21]]
    assert batch.obs_next.tolist() == [
        [0, 1],
        [1, 2],
        [2, 3],
        [10, 11],
        [11, 12],
        [12, 13],
        [20, 21],
        [21, 22],
    ]
    assert buffer.get(rows[2], "obs_next").tolist() == [2, 3]


def test_final_observations_follow_the_ring() -> None:
    """Thousands of overwritten episodes: the table of final observations stays small and right."""
    buffer = VectorReplayBuffer(20, 2, ignore_obs_next=True)
    rng = np.random.default_rng(0)
    shown, clock = np.zeros(2), 2.0
    for _ in range(3000):
        done = rng.random(2) < 0.3
        obs_next = np.array([clock, clock + 1])
        clock += 2
        zero = np.zeros(2)
        step = Batch(obs=shown, obs_next=obs_next, act=zero, rew=zero, terminated=done, truncated=zero > 0)
        step.info = {"next": obs_next}
        buffer.add(step)
        shown = np.where(done, obs_next + 0.5, obs_next)
    batch = buffer[:]
    np.testing.assert_array_equal(batch.obs_next, batch.info.next)
    assert buffer._final is not None
    assert buffer._final.table.size < 60


def test_obs_next_that_does_not_continue_is_really_ignored() -> None:
    """Rows whose obs_next is not the next obs are no trajectory: obs_next is obs of the next row, as if never given."""
    buffer = ReplayBuffer(6, ignore_obs_next=True)
    for i in range(4):
        buffer.add(Batch(obs=i, obs_next=-i - 1, act=0, rew=0, terminated=i == 3, truncated=False))
    assert buffer[np.arange(4)].obs_next.tolist() == [1, 2, 3, 3]


def test_cut_episodes_are_truncated_and_keep_their_final_observation() -> None:
    buffer = VectorReplayBuffer(12, 2, ignore_obs_next=True)
    for t in range(2):
        buffer.add(
            Batch(
                obs=[t, t + 10],
                obs_next=[t + 1, t + 11],
                act=[0, 0],
                rew=[1, 1],
                terminated=[False] * 2,
                truncated=[False] * 2,
            )
        )
    buffer.end_episodes([1])
    _, ep_rew, ep_len, start = buffer.add(
        Batch(
            obs=[2, 50],
            obs_next=[3, 51],
            act=[0, 0],
            rew=[1, 1],
            terminated=[True, True],
            truncated=[False] * 2,
        )
    )
    assert ep_rew.tolist() == [3, 1]
    assert ep_len.tolist() == [3, 1]
    assert start.tolist() == [0, 8]
    batch = buffer[:]
    assert batch.truncated.tolist() == [False, False, False, False, True, False]
    assert batch.obs_next.tolist() == [1, 2, 3, 11, 12, 51]


# -- managers -------------------------------------------------------------------------------------------------------


def test_manager_of_four() -> None:
    buffer = ReplayBufferManager([ReplayBuffer(5) for _ in range(4)])

    def add(values: list[int], done: list[int], ids: list[int]) -> tuple[np.ndarray, ...]:
        return buffer.add(
            Batch(obs=values, act=values, rew=values, terminated=done, truncated=[0] * len(done)),
            buffer_ids=ids,
        )

    ptr, ep_rew, ep_len, ep_start = add([1, 2, 3], [0, 0, 1], [0, 1, 2])
    assert (ptr.tolist(), ep_rew.tolist(), ep_len.tolist(), ep_start.tolist()) == (
        [0, 5, 10],
        [0, 0, 3],
        [0, 0, 1],
        [0, 5, 10],
    )
    with pytest.raises(NotImplementedError):
        buffer.update(buffer)
    assert np.bincount(buffer.sample_indices(11000))[[0, 5, 10]].min() >= 3000
    assert buffer.unfinished_index().tolist() == [0, 5]
    add([4], [1], [3])
    for done in ([0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]):
        add([0, 0, 0, 0], done, [0, 1, 2, 3])
    assert len(buffer) == 20
    every = buffer.sample_indices(0)
    assert every.tolist() == list(range(20))
    assert buffer.done.astype(int).tolist() == [0, 0, 1, 0, 0, 0, 0, 1, 0, 1, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1]
    assert buffer.prev(every).tolist() == [
        0,
        0,
        1,
        3,
        3,
        5,
        5,
        6,
        8,
        8,
        10,
        11,
        11,
        13,
        13,
        15,
        16,
        16,
        18,
        18,
    ]
    assert buffer.next(every).tolist() == [
        1,
        2,
        2,
        4,
        4,
        6,
        7,
        7,
        9,
        9,
        10,
        12,
        12,
        14,
        14,
        15,
        17,
        17,
        19,
        19,
    ]
    ptr, ep_rew, ep_len, ep_start = add([1], [1], [2])
    assert (ptr.tolist(), ep_rew.tolist(), ep_len.tolist(), ep_start.tolist()) == ([10], [1], [3], [13])
    assert buffer.unfinished_index().tolist() == [4]
    assert buffer.prev(every)[10] == 14
    assert buffer.next(every)[14] == 10
    assert buffer.prev(-1) == buffer.prev([19])[0]
    assert buffer.next(-1) == buffer.next([19])[0]
    assert buffer.sample_indices(None).tolist() == [*range(10), *range(11, 15), 10, *range(15, 20)]
    assert buffer.sample_indices(-1).tolist() == []
    with pytest.raises(ValueError, match="buffer_ids"):
        add([1], [1], [4])
    with pytest.raises(ValueError, match=r"2 transition\(s\) for 3"):
        add([1, 1], [1, 1], [0, 1, 2])
    add([7, 8], [0, 0], [0, 0])  # one environment twice: in the order given
    assert buffer.obs[[0, 1]].tolist() == [7, 8]


def test_vector_buffer_rounds_up_and_shares_its_rows() -> None:
    buffer = VectorReplayBuffer(10, buffer_num=3)
    assert buffer.maxsize == 12
    assert [b.maxsize for b in buffer.buffers] == [4, 4, 4]
    fill(buffer, 2)
    buffer.act[4] = 77
    assert buffer.buffers[1].act[0] == 77
    assert len(buffer.buffers[1]) == 2
    assert buffer.buffers[1][:].act.tolist() == [77, 1]
    buffer.add(Batch.stack([transition(0, late={"x": 1.0})] * 3))
    assert buffer.buffers[2].late.x.tolist() == [0, 0, 1, 0]


def test_cached_buffer_moves_finished_episodes() -> None:
    buffer = CachedReplayBuffer(ReplayBuffer(10), 4, 5)

    def add(values: list[int], done: list[int], ids: list[int]) -> list[list[float]]:
        batch = Batch(obs=values, act=values, rew=values, terminated=done, truncated=[0] * len(done))
        return [r.tolist() for r in buffer.add(batch, buffer_ids=ids)]

    assert add([1], [0], [1]) == [[15], [0], [0], [15]]
    assert add([2], [1], [3]) == [[0], [2], [1], [0]]
    assert buffer.unfinished_index().tolist() == [15]
    assert add([3, 4], [0, 1], [3, 1]) == [[25, 2], [0, 5], [0, 2], [25, 1]]
    rows = buffer.sample_indices(0)
    assert rows.tolist() == [0, 1, 2, 25]
    assert buffer.obs[rows].tolist() == [2, 1, 4, 3]
    assert buffer.prev(rows).tolist() == [0, 1, 1, 25]
    assert buffer.next(rows).tolist() == [0, 2, 2, 25]
    assert np.bincount(buffer.sample_indices(10000))[[0, 1, 2, 25]].min() > 2000
    nowhere = CachedReplayBuffer(ReplayBuffer(0, sample_avail=True), 4, 5)
    zero = np.zeros(4)
    for done in ([0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]):
        nowhere.add(Batch(obs=zero, act=zero, rew=np.ones((4, 4)), terminated=done, truncated=[0] * 4))
    ptr, ep_rew, ep_len, start = nowhere.add(
        Batch(obs=zero, act=zero, rew=np.ones((4, 4)), terminated=[0, 1, 0, 1], truncated=[0] * 4)
    )
    assert (ptr.tolist(), ep_len.tolist(), start.tolist()) == ([1, -1, 11, -1], [0, 2, 0, 2], [0, -1, 10, -1])
    np.testing.assert_array_equal(ep_rew, np.outer([0, 2, 0, 2], np.ones(4)))
    assert nowhere.sample_indices(0).tolist() == [0, 1, 10, 11]


# -- priorities -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["prio", "prio_vector"])
def test_priorities_weights_and_annealing(kind: str) -> None:
    buffer = BUFFERS[kind]()
    fill(buffer, 4)
    n = len(buffer)
    rows = buffer.sample_indices(0)
    errors = np.linspace(0.1, 2.0, n)
    buffer.update_weight(rows, torch.as_tensor(-errors))
    stored = errors**0.6
    np.testing.assert_allclose(buffer.weight[rows], stored, rtol=1e-5)
    counts = np.bincount(buffer.sample_indices(200_000), minlength=buffer.maxsize)[rows]
    np.testing.assert_allclose(counts / 200_000, stored / stored.sum(), atol=0.01)
    weight = (stored / 0.1) ** -0.4
    np.testing.assert_allclose(buffer[rows].weight, weight / weight.max(), rtol=1e-5)
    buffer.set_beta(1.0)
    weight = (stored / 0.1) ** -1.0
    np.testing.assert_allclose(buffer[rows].weight, weight / weight.max(), rtol=1e-5)
    buffer.add(
        Batch.stack([transition(0)] * getattr(buffer, "buffer_num", 1)),
        buffer_ids=np.arange(getattr(buffer, "buffer_num", 1)),
    )
    newest = buffer.unfinished_index()[-1]
    assert buffer.weight[newest] == pytest.approx(2.0**0.6)
    with pytest.raises(ValueError, match="finite"):
        buffer.update_weight(rows[:1], np.array([np.nan]))


def test_every_kind_of_index_has_its_weights() -> None:
    buffer = PrioritizedReplayBuffer(12, 0.6, 0.4, weight_norm=False)
    fill(buffer, 6)
    buffer.update_weight(np.arange(6), np.arange(1.0, 7.0))
    every = buffer[:].weight
    assert len(np.unique(every)) == 6
    assert buffer[2].weight == every[2]
    np.testing.assert_array_equal(buffer[1:3].weight, every[1:3])
    np.testing.assert_array_equal(buffer[[4, 0]].weight, every[[4, 0]])
    np.testing.assert_array_equal(buffer[np.arange(12) == 3].weight, every[[3]])


def test_weight_norm_off_reaches_the_vector_buffer() -> None:
    buffer = PrioritizedVectorReplayBuffer(24, 2, alpha=0.6, beta=0.4, weight_norm=False)
    fill(buffer, 4)
    rows = buffer.sample_indices(0)
    buffer.update_weight(rows, np.full(len(rows), 0.25))
    np.testing.assert_allclose(buffer[rows].weight, (0.25**0.6 / 0.25) ** -0.4, rtol=1e-5)


# -- hindsight ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ignore_obs_next", [False, True])
@pytest.mark.parametrize("kind", ["her", "her_vector"])
def test_hindsight_relabels_and_restores(kind: str, ignore_obs_next: bool) -> None:
    buffer = BUFFERS[kind](seed=0, ignore_obs_next=ignore_obs_next)
    fill(buffer, 8)
    original = buffer[np.arange(4)]
    seen_new = 0
    for _ in range(50):
        batch, indices = buffer.sample(16)
        goals, achieved = batch.obs.desired_goal[:, 0], batch.obs_next.achieved_goal[:, 0]
        np.testing.assert_array_equal(batch.obs_next.desired_goal[:, 0], goals)
        relabelled = reward(batch.obs_next.achieved_goal, batch.obs.desired_goal)
        np.testing.assert_array_equal(batch.rew, np.where(goals == 99, -1, relabelled))
        new = goals != 99
        seen_new += int(new.sum())
        for episode in np.unique(indices // 4):  # one goal per episode, reached at or after its earliest sampled step
            here = indices // 4 == episode
            assert len(np.unique(goals[here])) == 1
            assert goals[here][0] == 99 or achieved[here].min() <= goals[here][0] <= 4
    assert 0.5 < seen_new / (50 * 16) < 1.0
    buffer._settle()
    assert equal(buffer[np.arange(4)], original)


def test_hindsight_needs_goal_observations() -> None:
    buffer = HERReplayBuffer(4, reward, horizon=3)
    buffer.add(Batch(obs=np.zeros(2), obs_next=np.zeros(2), act=0, rew=0, terminated=False, truncated=False))
    with pytest.raises(ValueError, match="achieved_goal"):
        buffer.sample(1)


@pytest.mark.parametrize("how", ["save", "save_hdf5"])
def test_objects_come_back_as_they_were_or_are_refused(how: str, tmp_path: Path) -> None:
    def stored(info: Any) -> Any:
        buffer = ReplayBuffer(2)
        column = np.empty(1, object)
        column[0] = info
        row = Batch(obs=[[0.0]], act=[0], rew=[0.0], terminated=[False], truncated=[False], info=Batch(x=column))
        buffer.add(row, buffer_ids=[0])
        getattr(buffer, how)(tmp_path / "file")
        return getattr(ReplayBuffer, how.replace("save", "load"))(tmp_path / "file").info.x[0]

    for info in ("text", None, 3, 2.5, True, [1, [2.0, "a"]], [], [{"a": [1, None], "b": {"c": "d"}}], [{}]):
        loaded = stored(info)
        assert type(loaded) is type(info)
        assert loaded == info
    nested = stored({"a": ["some", None]})  # a column of a column, two objects wide
    assert isinstance(nested, Batch)
    assert nested.a.tolist() == ["some", None]
    for info in ((1, 2), [{1: 2}], {3}, [(1,)], object()):
        with pytest.raises(ValueError, match=r"columns\.info\.x holds objects"):
            stored(info)


def test_names_that_files_need_for_themselves_are_refused(tmp_path: Path) -> None:
    buffer = ReplayBuffer(3)
    info = {"@array": np.zeros(1)}
    buffer.add(Batch(obs=[[0.0]], act=[0], rew=[0.0], terminated=[False], truncated=[False], info=info), buffer_ids=[0])
    with pytest.raises(ValueError, match="@array"):
        buffer.save(tmp_path / "file")
    assert not list(tmp_path.iterdir())
