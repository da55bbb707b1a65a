"""Buffers on a disk hold, sample and save what buffers in memory do, and say what is wrong where they cannot."""

import copy
import errno
import gc
import mmap
import os
import pickle
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer import mapped
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.cached import CachedReplayBuffer
from rlpolicy.data.buffer.her import HERReplayBuffer
from rlpolicy.data.buffer.mapped import Disk
from rlpolicy.data.buffer.segments import load_buffer, save_buffer
from rlpolicy.data.buffer.storage import Storage, leaves
from rlpolicy.data.buffer.vecbuf import HERVectorReplayBuffer, PrioritizedVectorReplayBuffer, VectorReplayBuffer
from rlpolicy.data.utils.state_tree import read_tree, write_tree
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.folder import NewFolder, WholeFolder

ENVS = 3
Make = Callable[..., Any]


def reach(achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
    return -np.abs(achieved - desired).sum(-1)


def cached(memmap: Any = None, seed: int = 0, **options: Any) -> CachedReplayBuffer:
    buffer = CachedReplayBuffer(ReplayBuffer(40, memmap=memmap, **options), ENVS, 12)
    buffer.seed(seed)
    return buffer


HER: dict[str, Any] = {"compute_reward_fn": reach, "horizon": 12}
KINDS: dict[str, Make] = {
    "vector": partial(VectorReplayBuffer, 60, ENVS, seed=0),
    "prioritized": partial(PrioritizedVectorReplayBuffer, 60, ENVS, alpha=0.6, beta=0.4, seed=0),
    "hindsight": partial(HERVectorReplayBuffer, 60, ENVS, **HER, seed=0),
    "cached": cached,
    "stacked": partial(VectorReplayBuffer, 60, ENVS, stack_num=3, ignore_obs_next=True, seed=0),
    "narrow": partial(VectorReplayBuffer, 60, ENVS, obs_dtype="float32", seed=0),
}


def fill(buffer: Any, steps: int, seed: int = 1) -> None:
    """Episodes of 9 steps with observations of small and large arrays, each continuing in the next step."""
    rng = np.random.default_rng(seed)
    walk = rng.normal(size=(steps + 1, ENVS, 4))
    images = rng.integers(0, 255, (steps + 1, ENVS, 40, 40), dtype=np.uint8)

    def seen(t: int) -> dict[str, Any]:
        parts = {"observation": walk[t], "achieved_goal": walk[t, :, :2], "desired_goal": walk[t, :, 2:]}
        return {**parts, "image": images[t]}

    for t in range(steps):
        buffer.add(
            Batch(
                obs=seen(t), act=rng.normal(size=(ENVS, 2)).astype(np.float32), rew=rng.normal(size=ENVS),
                terminated=np.zeros(ENVS, bool), truncated=np.full(ENVS, t % 9 == 8), obs_next=seen(t + 1),
                info={"speed": rng.normal(size=ENVS)}, policy={"logits": torch.from_numpy(rng.normal(size=(ENVS, 5)))},
            )
        )  # fmt: skip


def assert_equal(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    if isinstance(ours, Batch):
        assert ours.keys() == theirs.keys()
        for key in ours.keys():
            assert_equal(ours[key], theirs[key])
    else:
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def assert_alike(ours: Any, theirs: Any) -> None:
    """Same rows, same columns, same minibatches from here on."""
    assert len(ours) == len(theirs) > 0
    assert_equal(ours[:], theirs[:])
    for _ in range(3):
        (a, rows), (b, expected) = ours.sample(32), theirs.sample(32)
        np.testing.assert_array_equal(rows, expected)
        assert_equal(a, b)


def memory_of(column: np.ndarray) -> Any:
    """What an array's numbers lie in."""
    base: Any = column
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base


def columns_on_disk(storage: Storage) -> set[str]:
    """The names of the columns that lie in files."""
    files = [] if storage.disk is None else [array.memory() for array in storage.disk.arrays]
    return {".".join(path) for path, column in leaves(storage.columns) if memory_of(column) in files}


def columns(storage: Storage) -> set[str]:
    return {".".join(path) for path, _ in leaves(storage.columns)}


@pytest.mark.parametrize("steps", [5, 17, 100], ids=["part", "less than full", "several laps"])
@pytest.mark.parametrize("kind", KINDS)
def test_holds_and_samples_what_memory_does(kind: str, steps: int, tmp_path: Path) -> None:
    ours, theirs = KINDS[kind](memmap=tmp_path / "rows"), KINDS[kind]()
    for buffer in (ours, theirs):
        fill(buffer, steps)
    assert_alike(ours, theirs)
    assert columns_on_disk(ours._storage) == columns(ours._storage) - {"done"}
    assert not columns_on_disk(theirs._storage)
    if ours._final is not None:
        assert columns_on_disk(ours._final.table) == columns(ours._final.table)


def test_one_environment_and_its_other_ways_of_writing(tmp_path: Path) -> None:
    ours, theirs = ReplayBuffer(50, seed=0, memmap=tmp_path), ReplayBuffer(50, seed=0)
    for buffer in (ours, theirs):
        for t in range(70):
            step = {"obs": np.full(3, t), "act": t % 2, "rew": float(t), "terminated": t % 10 == 9, "truncated": False}
            buffer.add(Batch(step, obs_next=np.full(3, t + 1)))
        buffer.add(Batch(step, obs_next=np.full(3, 0.5), late=np.ones(300)))  # a wider dtype, and a new column
        buffer.rew[3] = -1.0
    assert ours.obs_next.dtype == np.float64
    assert columns_on_disk(ours._storage) >= {"obs_next", "late"}
    assert_alike(ours, theirs)
    more = ReplayBuffer(80, memmap=tmp_path)
    more.update(ours)
    assert_equal(more[:].obs, theirs[:].obs)
    ours.reset()
    assert len(ours) == 0


def test_a_column_that_is_replaced_gives_its_space_back(tmp_path: Path) -> None:
    buffer = ReplayBuffer(10, memmap=tmp_path)
    step = Batch(obs=np.zeros(2000, np.int16), act=0, rew=0.0, terminated=False, truncated=False)
    buffer.add(step)
    narrow, disk = weakref.ref(memory_of(buffer.obs)), buffer._storage.disk
    step.obs = step.obs.astype(float)
    buffer.add(step)
    assert buffer.obs.dtype == float
    gc.collect()  # functions for forms of transitions are cycles
    assert narrow() is None
    assert disk is not None
    disk.ask_for(np.arange(3), "", {"obs"})


def test_rows_that_were_never_written_are_zero(tmp_path: Path) -> None:
    buffer = VectorReplayBuffer(60, ENVS, memmap=tmp_path)
    fill(buffer, 2)
    assert not buffer.obs.image[2:20].any()
    again = VectorReplayBuffer(60, ENVS, memmap=tmp_path)  # two buffers may share a folder
    fill(again, 1, seed=2)
    assert not again.obs.image[1:20].any()


def test_columns_that_are_set_as_a_whole_are_copied(tmp_path: Path) -> None:
    buffer = ReplayBuffer(4, memmap=tmp_path)
    buffer.set_batch(Batch(obs=np.arange(4.0), rew=np.ones(4)))
    assert columns_on_disk(buffer._storage) == {"obs", "rew"}
    np.testing.assert_array_equal(buffer.obs, np.arange(4.0))


# -- the disk is asked -------------------------------------------------------------------------------------------------


class Asked:
    """Stands for a file's memory, and notes which bytes of it are asked for."""

    def __init__(self, size: int) -> None:
        self.size, self.bytes = size, set[int]()

    def __len__(self) -> int:
        return self.size

    def madvise(self, option: int, begin: int, count: int) -> None:
        assert option == mmap.MADV_WILLNEED
        assert begin % mmap.PAGESIZE == 0
        assert 0 <= begin < begin + count <= self.size
        self.bytes.update(range(begin, begin + count, 64))


@pytest.mark.parametrize("width", [1, 40, 4096, 5000, 12288])
def test_asks_for_the_pages_of_the_rows_and_no_others(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, asked, other = Disk(tmp_path), Asked(width * 10_000), Asked(width * 10_000)
    pairs = {"obs": asked, "act": other}
    disk.arrays += [mapped.MappedArray(key, weakref.ref(file), width) for key, file in pairs.items()]  # type: ignore[arg-type]
    rows = np.array([[0, 7], [9_999, 4_321]])
    read = 0
    monkeypatch.setattr(mapped, "_blocks_read", lambda: read)
    disk.ask_for(rows, "obs", {"obs"})
    disk.ask_for(rows, "obs", {"obs"})
    assert not asked.bytes, "nothing had to be read"
    read = 4 * mmap.PAGESIZE // mapped.BLOCK
    disk.ask_for(rows, "obs", {"obs"})
    pages = {at // mmap.PAGESIZE for row in rows.flat for at in (row * width, (row + 1) * width - 1)}
    inner = {page for row in rows.flat for page in range(row * width // 4096, ((row + 1) * width - 1) // 4096 + 1)}
    assert {at // mmap.PAGESIZE for at in asked.bytes} == pages | inner
    assert not other.bytes
    asked.bytes.clear()
    disk.ask_for(rows, "obs", {"obs"})
    assert not asked.bytes, "all was in memory the last time"


@pytest.mark.parametrize("kind", ["vector", "stacked"])
def test_cold_reads_give_the_same(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = KINDS[kind](memmap=tmp_path), KINDS[kind]()
    for buffer in (ours, theirs):
        fill(buffer, 50)
    counter = iter(range(0, 10**9, 10**6))
    monkeypatch.setattr(mapped, "_blocks_read", lambda: next(counter))
    assert_alike(ours, theirs)
    assert any(ours._storage.disk._is_cold.values())
    part, whole = ours.buffers[1], theirs.buffers[1]
    assert_equal(part.get(np.arange(5), "obs"), whole.get(np.arange(5), "obs"))
    rows: list[Any] = [np.array([-1, 3, -60]), -2, [4, -4]]
    for index in rows:
        assert_equal(ours.get(index, "obs_next"), theirs.get(index, "obs_next"))
    for index in [*rows, slice(3, 9), np.arange(60) % 7 == 0]:
        assert_equal(ours.get(index, "act", stack_num=1), theirs.get(index, "act", stack_num=1))
    with pytest.raises(IndexError):
        ours.get(np.array([0, 61]), "act", stack_num=1)


# -- checkpoints -------------------------------------------------------------------------------------------------------


def save(buffer: Any, path: Path) -> None:
    folder = NewFolder(path)
    state, commit = save_buffer(buffer, folder, "buffer")
    write_tree(folder, "state", state)
    folder.publish({"format": 1})
    commit()


def load(buffer: Any, path: Path) -> None:
    folder = WholeFolder(path, 1)
    load_buffer(buffer, read_tree(folder.read, "state"), folder)()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to_disk", [True, False], ids=["to disk", "to memory"])
def test_checkpoint_holds_what_was_there_then(kind: str, to_disk: bool, tmp_path: Path) -> None:
    ours, theirs = KINDS[kind](memmap=tmp_path / "rows"), KINDS[kind]()
    for buffer in (ours, theirs):
        fill(buffer, 30)
    save(ours, tmp_path / "first")
    for buffer in (ours, theirs):
        fill(buffer, 7, seed=2)
    save(ours, tmp_path / "second")
    fill(ours, 50, seed=3)  # newer rows in the files: all that was saved is overwritten
    fresh = KINDS[kind](memmap=tmp_path / "rows" if to_disk else None)
    for buffer in (fresh, ours):  # a new process, and one that goes back
        load(buffer, tmp_path / "second")
        assert_alike(buffer, copy_of(theirs, kind))
    assert columns_on_disk(fresh._storage) == (columns(fresh._storage) - {"done"} if to_disk else set())


def copy_of(buffer: Any, kind: str) -> Any:
    """So that each comparison begins with the same generator."""
    same = KINDS[kind]()
    same.__dict__.update(copy.deepcopy(buffer.__dict__))
    return same


KILLED = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[2])
from test_mapped import fill, save
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer

path = Path(sys.argv[1])
buffer = VectorReplayBuffer(60, 3, seed=0, memmap=path / "rows")
fill(buffer, 30)
save(buffer, path / "saved")
fill(buffer, 40, seed=5)
print("ready", flush=True)
while True:
    fill(buffer, 1)
"""


@pytest.mark.slow
def test_kill_loses_nothing_that_was_saved_and_leaves_no_files(tmp_path: Path) -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(here)]
    env = {**os.environ, "PYTHONPATH": str(here.parents[2])}
    run = subprocess.Popen(command, stdout=subprocess.PIPE, env=env)
    assert run.stdout is not None
    assert run.stdout.readline() == b"ready\n"
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    run.stdout.close()
    assert not list((tmp_path / "rows").iterdir())
    ours = VectorReplayBuffer(60, 3, memmap=tmp_path / "rows")
    load(ours, tmp_path / "saved")
    theirs = VectorReplayBuffer(60, 3, seed=0)
    fill(theirs, 30)
    assert_alike(ours, theirs)


def test_own_files_go_to_any_place(tmp_path: Path) -> None:
    ours = VectorReplayBuffer(60, ENVS, seed=0, memmap=tmp_path / "rows")
    fill(ours, 30)
    ours.save(tmp_path / "buffer.npz")
    in_memory = VectorReplayBuffer.load(tmp_path / "buffer.npz")
    on_disk = VectorReplayBuffer.load(tmp_path / "buffer.npz", memmap=tmp_path / "other")
    assert not columns_on_disk(in_memory._storage)
    assert "act" in columns_on_disk(on_disk._storage)
    assert_alike(on_disk, in_memory)


# -- what can go wrong -------------------------------------------------------------------------------------------------


def test_the_folder_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InvalidArgument, match=r"memmap=.* must be a folder that can be written to"):
            VectorReplayBuffer(60, ENVS, memmap=path)


def test_read_only_is_told_at_the_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(mapped.tempfile, "TemporaryFile", refuse)
    with pytest.raises(InvalidArgument, match="can be written to: Read-only file system"):
        ReplayBuffer(10, memmap=tmp_path)


def test_a_full_disk_is_told_before_anything_is_stored(tmp_path: Path) -> None:
    buffer = ReplayBuffer(10, memmap=tmp_path)
    buffer._storage.size = 2**46
    step = Batch(obs=np.zeros(100), act=0, rew=0.0, terminated=False, truncated=False, obs_next=np.zeros(100))
    with pytest.raises(OSError, match=r"has no room for small columns: .* GB are needed, .* GB are free") as caught:
        buffer.add(step)
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG, errno.EINVAL)
    assert len(buffer) == 0
    buffer._storage.size = 10  # somebody has made room
    buffer.add(step)
    assert len(buffer) == 1


def test_objects_have_no_place_in_a_file(tmp_path: Path) -> None:
    buffer = VectorReplayBuffer(60, 1, memmap=tmp_path)
    step = {"obs": np.zeros((1, 2)), "act": np.zeros(1), "rew": np.zeros(1), "terminated": np.zeros(1, bool)}
    step["truncated"] = np.zeros(1, bool)
    with pytest.raises(InvalidArgument, match=r"info\.name holds objects .* leave memmap out"):
        buffer.add(Batch(step, info={"name": np.array(["a"], object)}))
    assert len(buffer) == 0
    buffer.add(Batch(step, info={"speed": np.ones(1)}))
    with pytest.raises(InvalidArgument, match=r"info\.speed holds objects"):
        buffer.add(Batch(step, info={"speed": np.array(["fast"], object)}))
    buffer.add(Batch(step, info={"speed": np.full(1, 2.0)}))
    assert len(buffer) == 2
    np.testing.assert_array_equal(buffer[:].info.speed, [1.0, 2.0])


def test_cannot_be_copied_or_pickled(tmp_path: Path) -> None:
    buffer = ReplayBuffer(10, memmap=tmp_path)
    for duplicate in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            duplicate(buffer)


def test_sizes_of_nothing(tmp_path: Path) -> None:
    assert Disk(tmp_path).zeros(0, np.dtype(np.float32), (3,), "obs").shape == (0, 3)
    assert len(CachedReplayBuffer(ReplayBuffer(0, memmap=tmp_path), 2, 5)) == 0


def test_hindsight_puts_the_originals_back(tmp_path: Path) -> None:
    buffer = HERReplayBuffer(40, **HER, memmap=tmp_path, seed=0)
    goal = np.arange(2.0)
    for t in range(20):
        seen = {"observation": np.full(3, t), "achieved_goal": np.full(2, float(t)), "desired_goal": goal}
        buffer.add(Batch(obs=seen, act=0.0, rew=0.5, terminated=False, truncated=t % 10 == 9, obs_next=seen))
    batch, _ = buffer.sample(20)
    assert (batch.obs.desired_goal != goal).any()
    buffer._settle()
    assert (buffer.obs.desired_goal[:20] == goal).all()
    assert (buffer.rew[:20] == 0.5).all()
