"""Buffers in checkpoints: whatever was saved in whatever steps comes back as it was."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer import segments
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.cached import CachedReplayBuffer
from rlpolicy.data.buffer.segments import load_buffer, save_buffer
from rlpolicy.data.buffer.vecbuf import HERVectorReplayBuffer, PrioritizedVectorReplayBuffer, VectorReplayBuffer
from rlpolicy.data.utils.state_tree import read_tree, write_tree
from rlpolicy.utils.errors import DamagedFile
from rlpolicy.utils.folder import NewFolder, WholeFolder

N = 3


def seeded(buffer: Any) -> Any:
    buffer.seed(1)
    return buffer


KINDS: dict[str, Any] = {
    "vector": lambda: VectorReplayBuffer(30, N, seed=1),
    "stacked": lambda: VectorReplayBuffer(30, N, seed=1, stack_num=2, ignore_obs_next=True),
    "next": lambda: VectorReplayBuffer(30, N, seed=1, ignore_obs_next=True, obs_dtype="float32"),
    "prio": lambda: PrioritizedVectorReplayBuffer(30, N, alpha=0.6, beta=0.4, seed=1),
    "her": lambda: HERVectorReplayBuffer(30, N, compute_reward_fn=lambda a, d: -abs(a - d).sum(1), horizon=8, seed=1),
    "cached": lambda: seeded(CachedReplayBuffer(ReplayBuffer(20), N, 9)),
    "cached-next": lambda: seeded(CachedReplayBuffer(ReplayBuffer(20, ignore_obs_next=True), N, 9)),
}


class Source:
    """Endless transitions of N environments: images, vectors, tensors, goals and objects."""

    def __init__(self, seed: int, goals: bool) -> None:
        self.rng, self.goals = np.random.default_rng(seed), goals
        self.obs = [self._obs() for _ in range(N)]
        self.length = [0] * N

    def _obs(self) -> Any:
        if self.goals:
            return {k: self.rng.normal(size=2) for k in ("observation", "achieved_goal", "desired_goal")}
        return {"image": self.rng.integers(0, 255, (20, 60), np.uint8), "vector": self.rng.normal(size=2)}

    def step(self, ids: np.ndarray) -> Batch:
        rows = []
        for i in ids:
            after = self._obs()
            if self.goals:
                after["desired_goal"] = self.obs[i]["desired_goal"]
            self.length[i] += 1
            done = bool(self.rng.random() < 0.2) or self.length[i] >= 8
            cut = bool(self.rng.random() < 0.5)
            info = {"name": f"step {self.length[i]}", "env_id": int(i)}
            rows.append(
                Batch(
                    obs=self.obs[i], act=self.rng.normal(size=1), rew=self.rng.normal(), obs_next=after, info=info,
                    terminated=done and not cut, truncated=done and cut, policy=Batch(),
                )
            )  # fmt: skip
            self.obs[i] = self._obs() if done else after
            self.length[i] = 0 if done else self.length[i]
        return Batch.stack(rows)


def save(buffer: ReplayBuffer, path: Path) -> int:
    """Bytes that were written (not taken over)."""
    folder = NewFolder(path)
    state, commit = save_buffer(buffer, folder, "b")
    write_tree(folder, "state", state)
    sizes = [(folder.path / n).stat() for n in folder.entries]
    folder.publish({"format": 1})
    commit()
    return sum(s.st_size for s in sizes if s.st_nlink == 1)


def load(buffer: ReplayBuffer, path: Path) -> None:
    folder = WholeFolder(path, 1)
    load_buffer(buffer, read_tree(folder.read, "state"), folder)()


def assert_same(ours: ReplayBuffer, theirs: ReplayBuffer) -> None:
    assert len(ours) == len(theirs)
    stored = ours._rings.indices()
    np.testing.assert_array_equal(stored, theirs._rings.indices())
    for name in ("cursor", "size", "ep_start", "ep_len", "ep_rew"):
        np.testing.assert_array_equal(getattr(ours._rings, name), getattr(theirs._rings, name))
    if len(stored):
        assert same(ours[stored], theirs[stored])
        for _ in range(3):
            assert same(*(b.sample(7)[0] for b in (ours, theirs)))


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Batch):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a.keys())
    return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_history_comes_back(kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("saves")
    source, buffer = Source(data.draw(st.integers(0, 99)), kind == "her"), KINDS[kind]()
    for k in range(data.draw(st.integers(1, 5))):
        for _ in range(data.draw(st.integers(0, 14))):
            ids = np.flatnonzero(source.rng.random(N) < 0.8)
            if len(ids):
                buffer.add(source.step(ids), ids)
        if len(buffer) and data.draw(st.booleans()):
            _, indices = buffer.sample(4)
            if kind == "prio":
                buffer.update_weight(indices, source.rng.random(4))
                buffer.set_beta(0.5)
        if kind != "her" and data.draw(st.integers(0, 4)) == 0:
            buffer.end_episodes([0, 2])
        if data.draw(st.integers(0, 9)) == 0:
            buffer.reset()
        save(buffer, folder / str(k))
        if data.draw(st.integers(0, 3)) == 0:  # the process dies and another one goes on
            fresh = KINDS[kind]()
            load(fresh, folder / str(k))
            buffer = fresh
    fresh = KINDS[kind]()
    load(fresh, folder / str(k))
    assert_same(fresh, buffer)
    for _ in range(12):
        step = source.step(np.arange(N))
        for each in (fresh, buffer):
            each.add(step, np.arange(N))
    assert_same(fresh, buffer)


def test_a_save_costs_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 100_000)
    buffer, source = VectorReplayBuffer(1200, N), Source(0, False)
    everything = np.arange(N)
    for _ in range(400):
        buffer.add(source.step(everything), everything)
    first = save(buffer, tmp_path / "0")
    for _ in range(5):
        buffer.add(source.step(everything), everything)
    second = save(buffer, tmp_path / "1")
    assert second < first / 30
    for k in range(2, 6):  # the whole ring once more: old segments are dropped
        for _ in range(100):
            buffer.add(source.step(everything), everything)
        save(buffer, tmp_path / str(k))
    held = sum(path.stat().st_size for path in (tmp_path / "5").iterdir())
    assert held < 1.2 * first
    fresh = VectorReplayBuffer(1200, N)
    load(fresh, tmp_path / "5")
    assert same(fresh[fresh._rings.indices()], buffer[buffer._rings.indices()])


def test_removed_files_are_written_again(tmp_path: Path) -> None:
    buffer, source = VectorReplayBuffer(30, N), Source(0, False)
    buffer.add(source.step(np.arange(N)))
    save(buffer, tmp_path / "0")
    for path in (tmp_path / "0").iterdir():
        path.unlink()
    buffer.add(source.step(np.arange(N)))
    save(buffer, tmp_path / "1")
    fresh = VectorReplayBuffer(30, N)
    load(fresh, tmp_path / "1")
    assert same(fresh[:], buffer[:])


def test_a_save_that_failed_changes_nothing(tmp_path: Path) -> None:
    buffer, source = VectorReplayBuffer(30, N), Source(0, False)
    buffer.add(source.step(np.arange(N)))
    save(buffer, tmp_path / "0")
    buffer.add(source.step(np.arange(N)))
    failed = NewFolder(tmp_path / "failed")
    save_buffer(buffer, failed, "b")
    failed.discard()
    save(buffer, tmp_path / "1")
    fresh = VectorReplayBuffer(30, N)
    load(fresh, tmp_path / "1")
    assert same(fresh[:], buffer[:])


def test_columns_that_came_later_or_grew(tmp_path: Path) -> None:
    def row(act: Any, **more: Any) -> Batch:
        return Batch(obs=np.zeros(2), act=act, rew=0.0, terminated=False, truncated=False, **more)

    buffer = ReplayBuffer(10)
    buffer.add(row(np.int32(1)))
    save(buffer, tmp_path / "0")
    buffer.add(row(np.float64(0.5), extra=np.float32(3.0)))
    save(buffer, tmp_path / "1")
    fresh = ReplayBuffer(10)
    load(fresh, tmp_path / "1")
    assert same(fresh[:], buffer[:])
    assert fresh.act.dtype == np.float64
    assert fresh.extra.tolist()[:2] == [0.0, 3.0]


@pytest.mark.parametrize("kind", KINDS)
def test_another_buffer_is_refused(kind: str, tmp_path: Path) -> None:
    buffer, source = KINDS[kind](), Source(0, kind == "her")
    buffer.add(source.step(np.arange(N)), np.arange(N))
    save(buffer, tmp_path / "0")
    other = VectorReplayBuffer(33, N)
    with pytest.raises(ValueError, match="the checkpoint holds a"):
        load(other, tmp_path / "0")
    assert len(other) == 0


def test_impossible_states_are_refused(tmp_path: Path) -> None:
    buffer, source = VectorReplayBuffer(30, N), Source(0, False)
    buffer.add(source.step(np.arange(N)))
    save(buffer, tmp_path / "0")
    folder = WholeFolder(tmp_path / "0", 1)

    def refuses(**changes: Any) -> None:
        fresh = VectorReplayBuffer(30, N)
        with pytest.raises(DamagedFile):
            load_buffer(fresh, {**read_tree(folder.read, "state"), **changes}, folder)
        assert not fresh._storage.columns.__dict__

    rings = buffer._rings.state()
    refuses(rings={**rings, "cursor": np.array([1, 1, 10])})
    refuses(rings={**rings, "size": np.array([1, 1, 2])})  # a row that no file holds
    refuses(rings={**rings, "ep_rew": np.zeros(2)})
    refuses(segments=["../b-rows-000001"])
    refuses(segments=["state"])
    refuses(segments=[])
    refuses(layout={**read_tree(folder.read, "state")["layout"], "act": np.zeros((0, 1), np.float32)})
