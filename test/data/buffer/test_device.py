"""Buffers on a device against the same buffers in host memory: same transitions in, same rows and samples out."""

import copy
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.cached import CachedReplayBuffer
from rlpolicy.data.buffer.her import HERReplayBuffer
from rlpolicy.data.buffer.manager import ReplayBufferManager
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.data.buffer.segments import load_buffer, save_buffer
from rlpolicy.data.buffer.vecbuf import PrioritizedVectorReplayBuffer, VectorReplayBuffer
from rlpolicy.data.utils.state_tree import read_tree, write_tree
from rlpolicy.policy.returns import follow_steps, steps_ahead
from rlpolicy.utils.folder import NewFolder, WholeFolder

KEYS = ("obs.x", "obs.y", "act", "rew", "terminated", "truncated", "done", "obs_next.x", "obs_next.y")


def step(rng: np.random.Generator, n: int, ends: float = 0.3) -> dict[str, Any]:
    """One random transition of each of n environments."""
    done = rng.random(n) < ends
    terminated = done & (rng.random(n) < 0.5)
    return {
        "obs": {"x": rng.random((n, 3), np.float32), "y": rng.integers(0, 9, (n, 2))},
        "act": rng.random((n, 2), np.float32),
        "rew": rng.standard_normal(n),
        "terminated": terminated,
        "truncated": done & ~terminated,
        "obs_next": {"x": rng.random((n, 3), np.float32), "y": rng.integers(0, 9, (n, 2))},
    }


def as_tensors(values: Any) -> Any:
    return {k: as_tensors(v) for k, v in values.items()} if isinstance(values, dict) else torch.as_tensor(values)


def rows_of(values: Any, rows: Any) -> Any:
    return {k: rows_of(v, rows) for k, v in values.items()} if isinstance(values, dict) else values[rows]


def assert_same(left: Any, right: Any) -> None:
    """A host's values and a device's: equal, of equal dtypes."""
    if isinstance(left, Batch):
        assert isinstance(right, Batch)
        for key in left.keys() | right.keys():
            assert_same(left[key], right[key])
        return
    assert isinstance(right, torch.Tensor)
    np.testing.assert_array_equal(left, right.numpy())
    assert left.dtype == right.numpy().dtype


def assert_alike(host: ReplayBuffer, device: ReplayBuffer, n_step: int) -> None:
    """Everything that is read of two buffers with the same seed and history."""
    assert len(host) == len(device)
    np.testing.assert_array_equal(host.unfinished_index(), device.unfinished_index())
    for name, value in host._rings.state().items():
        np.testing.assert_array_equal(value, device._rings.state()[name])
    if not len(host):
        return
    rows = host.sample_indices(0)
    np.testing.assert_array_equal(rows, device.sample_indices(0))
    for name in ("prev", "next"):
        np.testing.assert_array_equal(getattr(host, name)(rows), getattr(device, name)(rows))
    (ours, at), (theirs, there) = host.sample(13), device.sample(13)
    assert isinstance(there, torch.Tensor)
    np.testing.assert_array_equal(at, there.numpy())
    assert_same(ours, theirs)
    assert_same(host.get(at, "obs_next"), device.get(there, "obs_next"))
    for theirs, ours in zip(follow_steps(device, there, 0.9, n_step), follow_steps(host, at, 0.9, n_step), strict=True):
        np.testing.assert_allclose(theirs.numpy(), ours, rtol=1e-14)


BUFFERS = {
    "plain": (1, lambda **kw: ReplayBuffer(5, **kw)),
    "vector": (3, lambda **kw: VectorReplayBuffer(12, 3, **kw)),
    "uneven": (3, lambda device=None, seed=None, **kw: ReplayBufferManager(
        [ReplayBuffer(k, device=device, **kw) for k in (1, 6, 3)], seed=seed)),
}  # fmt: skip


@pytest.mark.parametrize("kind", BUFFERS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_same_history_same_buffer(kind: str, data: st.DataObject) -> None:
    n, make = BUFFERS[kind]
    seed = data.draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    host, device = make(seed=seed), make(seed=seed, device="cpu")
    for _ in range(data.draw(st.integers(1, 12))):
        what = data.draw(st.sampled_from(["all", "all", "all", "some", "kept", "cut", "clear"]))
        values = step(rng, n)
        ids = np.flatnonzero(rng.random(n) < 0.6)
        if what == "all":
            ours = host.add(Batch(values), buffer_ids=np.arange(n))
            theirs = device.add(Batch(as_tensors(values)), buffer_ids=np.arange(n))
            for left, right in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(left, right.numpy(), rtol=1e-12)
        elif what == "some" and len(ids):
            ours = host.add(Batch(rows_of(values, ids)), buffer_ids=ids)
            theirs = device.add(Batch(rows_of(values, ids)), buffer_ids=ids)
            for left, right in zip(ours, theirs, strict=True):
                assert isinstance(right, np.ndarray)
                np.testing.assert_allclose(left, right, rtol=1e-12)
        elif what == "kept" and len(ids):  # the others are not stored
            host.add(Batch(rows_of(values, ids)), buffer_ids=ids)
            kept = torch.zeros(n, dtype=torch.bool)
            kept[ids] = True
            _, ep_rew, ep_len, _ = device.add_step(as_tensors(values), kept)
            assert not ep_rew[~kept].any()
            assert not ep_len[~kept].any()
        elif what == "cut":
            host.end_episodes(ids)
            device.end_episodes(ids)
        elif what == "clear":
            host.reset(keep_statistics=True)
            device.reset(keep_statistics=True)
    assert_alike(host, device, n_step=data.draw(st.integers(1, 4)))


def filled(steps: int = 9, ends: float = 0.3, **options: Any) -> tuple[VectorReplayBuffer, VectorReplayBuffer]:
    rng = np.random.default_rng(5)
    host, device = (VectorReplayBuffer(12, 3, seed=1, device=d, **options) for d in (None, "cpu"))
    for _ in range(steps):
        values = step(rng, 3, ends)
        host.add(Batch(values))
        device.add(Batch(as_tensors(values)))
    return host, device


def test_columns_are_tensors_on_the_device_in_the_dtypes_of_the_host() -> None:
    host, device = filled(obs_dtype="float32")
    assert device.device == torch.device("cpu")
    assert host.device is None
    assert_same(host._storage.columns, device._storage.columns)
    assert device.obs.x.shape == (12, 3)
    assert isinstance(device[2].rew, torch.Tensor)
    assert device[[1, 2]].obs.x.shape == (2, 3)
    assert device[-1:].act.shape == host[-1:].act.shape


def test_what_was_read_is_not_the_storage() -> None:
    _, device = filled()
    batch, rows = device.sample(4)
    batch.rew[:] = 77.0
    device[:].rew[:] = 77.0
    assert not (device.rew == 77.0).any()
    assert rows.dtype == torch.int64


def test_a_single_transition_needs_no_batch_axis() -> None:
    host, device = ReplayBuffer(3), ReplayBuffer(3, device="cpu")
    for k in range(4):
        values = {
            "obs": np.float32(k), "act": k, "rew": 0.5 * k, "terminated": False, "truncated": k == 2,
            "obs_next": np.float32(k + 1),
        }  # fmt: skip
        assert [x.tolist() for x in host.add(Batch(values))] == [x.tolist() for x in device.add(Batch(values))]
    assert_same(host[:].obs, device[:].obs)
    assert_same(host[:].done, device[:].done)


def test_parts_of_a_vector_buffer_can_be_read() -> None:
    host, device = filled()
    for ours, theirs in zip(host.buffers, device.buffers, strict=True):
        assert len(ours) == len(theirs)
        assert_same(ours[:], theirs[:])
        np.testing.assert_array_equal(ours.next(np.arange(4)), theirs.next(np.arange(4)))
        ours.seed(3), theirs.seed(3)
        assert_same(ours.sample(5)[0], theirs.sample(5)[0])
    with pytest.raises(ValueError, match="through the whole"):
        device.buffers[0].add(Batch(rows_of(as_tensors(step(np.random.default_rng(0), 3)), 0)))


def test_parts_of_a_vector_buffer_can_be_emptied_and_their_episodes_cut() -> None:
    host, device = filled()
    for buffer in (host, device):
        buffer.buffers[0].reset()
        buffer.buffers[2].end_episodes()
    for twin in (device, copy.deepcopy(device)):
        values = step(np.random.default_rng(1), 3)
        whole = copy.deepcopy(host)
        for ours, theirs in zip(whole.add(Batch(values)), twin.add(Batch(values)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        np.testing.assert_array_equal(whole._rings.newest(), twin._rings.newest())
        twin.reset()
        assert twin.buffers[1]._rings.earlier == twin._rings.earlier[1]  # the same memory in a copy, too


def test_rewards_of_rows_that_are_not_kept_count_for_nothing() -> None:
    _, device = filled(ends=0.0)
    kept = torch.tensor([True, True, False])
    values = as_tensors(step(np.random.default_rng(1), 3, ends=0.0))
    device.add_step({**values, "rew": torch.tensor([1.0, 1.0, torch.nan])}, kept)
    assert np.isfinite(device._rings.ep_rew).all()


def test_rows_as_callers_write_them() -> None:
    host, device = filled(steps=5)
    for rows in (-1, [-1, -12], np.array([[0, -2]]), slice(2, 4)):
        assert_same(host[rows].rew, device[rows].rew)
    assert_same(host[host.done].rew, device[device.done].rew)
    assert_same(host[host.done].rew, device[host.done].rew)
    for wrong in ([12], [0, -13]):
        with pytest.raises(IndexError, match="12"):
            device[wrong]


def test_copies_and_pickles_go_their_own_way() -> None:
    host, device = filled()
    for twin in (copy.deepcopy(device), pickle.loads(pickle.dumps(device))):
        values = step(np.random.default_rng(1), 3)
        host.add(Batch(values))
        twin.add(Batch(as_tensors(values)))
        assert_alike(copy.deepcopy(host), twin, 2)
        host, _ = filled()
    host.sample(13)  # as above
    host, _ = filled()
    assert_alike(host, device, 2)


def test_files_know_nothing_of_devices(tmp_path: Path) -> None:
    host, device = filled()
    device.save(tmp_path / "buffer.npz")
    assert_alike(VectorReplayBuffer.load(tmp_path / "buffer.npz"), device, 3)
    host.save(tmp_path / "host.npz")
    assert_alike(host, VectorReplayBuffer.load(tmp_path / "host.npz", device="cpu"), 3)


@pytest.mark.parametrize("to", [None, "cpu"])
def test_a_checkpoint_goes_on_on_either_side(tmp_path: Path, to: str | None) -> None:
    rng = np.random.default_rng(2)
    host, device = filled()
    for k in range(3):  # the second and third write what is new
        folder = NewFolder(tmp_path / f"{k}")
        state, commit = save_buffer(device, folder, "b")
        write_tree(folder, "state", state)
        folder.publish({"format": 1})
        commit()
        if k < 2:
            values = step(rng, 3)
            host.add(Batch(values))
            device.add_step(as_tensors(values), torch.ones(3, dtype=torch.bool))
    loaded = VectorReplayBuffer(12, 3, device=to)
    whole = WholeFolder(tmp_path / "2", 1)
    load_buffer(loaded, read_tree(whole.read, "state"), whole)()
    if to is None:
        assert_alike(loaded, device, 3)
    else:
        assert_alike(host, loaded, 3)


def test_rows_of_other_buffers_can_be_taken_over_in_both_directions() -> None:
    host, device = filled()
    ours, theirs, back = ReplayBuffer(40), ReplayBuffer(40, device="cpu"), ReplayBuffer(40)
    np.testing.assert_array_equal(ours.update(host), theirs.update(device))
    assert_same(ours[:], theirs[:])
    np.testing.assert_array_equal(back.update(device), np.arange(len(device)))
    assert_same(back[:], theirs[:])


def test_new_rows_and_replaced_columns() -> None:
    host, device = filled()
    (ours, mark), (theirs, other) = host.new_rows(), device.new_rows()
    np.testing.assert_array_equal(ours, theirs)
    values = step(np.random.default_rng(4), 3)
    host.add(Batch(values)), device.add_step(as_tensors(values), torch.tensor([True, False, True]))
    assert len(device.new_rows(other)[0]) == 2
    assert len(host.new_rows(mark)[0]) == 3
    plain = ReplayBuffer(4, device="cpu")
    plain.set_batch(Batch(obs=np.arange(4), rew=np.ones(4)))
    assert plain.obs.tolist() == [0, 1, 2, 3]


def test_columns_that_come_later_or_grow() -> None:
    buffer = ReplayBuffer(4, device="cpu")
    first = {"obs": torch.tensor([1]), "act": torch.tensor([0]), "rew": torch.ones(1)}
    flags = {name: torch.zeros(1, dtype=torch.bool) for name in ("terminated", "truncated")}
    buffer.add_step({**first, **flags})
    buffer.add_step({**first, **flags, "policy": {"log_prob": torch.tensor([0.5])}, "obs": torch.tensor([1.5])})
    buffer.add_step({**first, **flags})
    assert buffer.obs.tolist() == [1.0, 1.5, 1.0, 0.0]  # has become a float column
    assert buffer.policy.log_prob.tolist() == [0.0, 0.5, 0.0, 0.0]


def test_columns_of_small_numbers_grow_for_negative_ones() -> None:
    for device in (None, "cpu"):
        buffer = VectorReplayBuffer(4, 2, device=device)
        values = step(np.random.default_rng(0), 2)
        buffer.add(Batch({**values, "act": np.array([1, 2], np.uint8)}))
        buffer.add(Batch({**values, "act": np.array([-3, 400])}))
        assert buffer.act.tolist() == [1, -3, 2, 400]


def bad(**changes: Any) -> Batch:
    return Batch({**as_tensors(step(np.random.default_rng(0), 3)), **changes})


@pytest.mark.parametrize(
    ("batch", "error", "match"),
    [
        (bad(act=torch.zeros(3, 5)), ValueError, "act of one transition has shape"),
        (bad(rew=torch.zeros(2)), ValueError, "rewards of shape"),
        (bad(obs=torch.zeros(3, 3)), ValueError, "was a Batch"),
        (bad(act=Batch(a=torch.zeros(3))), ValueError, "was a tensor"),
        (bad(act=torch.zeros(3, 5)), ValueError, r"holds \(2,\)"),
        (bad(name=np.array(["a", "b", "c"], object)), TypeError, "numbers only"),
        (bad(extra=torch.zeros(2)), ValueError, "3 transitions"),
    ],
)
def test_what_does_not_fit_changes_nothing(batch: Batch, error: type[Exception], match: str) -> None:
    host, device = filled()
    with pytest.raises(error, match=match):
        device.add(batch)
    assert_alike(host, device, 2)


def test_what_is_refused() -> None:
    _, device = filled()
    with pytest.raises(TypeError, match=r"info\.text is a .*numbers only"):
        ReplayBuffer(3, device="cpu").add(
            Batch({**rows_of(step(np.random.default_rng(0), 1), 0), "info": {"text": "a"}})
        )
    with pytest.raises(ValueError, match="missing: rew"):
        device.add_step({"obs": 1, "act": 1, "terminated": 1, "truncated": 1})
    with pytest.raises(ValueError, match="at most once"):
        device.add(bad(), buffer_ids=[0, 1, 1])
    with pytest.raises(ValueError, match=r"in 0\.\.2"):
        device.add(bad(), buffer_ids=[0, 1, 3])
    with pytest.raises(ValueError, match="host memory"):
        ReplayBuffer(3).add_step({})
    with pytest.raises(ValueError, match="follows steps on the host"):
        steps_ahead(ReplayBuffer(3, device="meta"), np.zeros(1, np.int64), 2)
    with pytest.raises(RuntimeError, match="nonsense"):
        ReplayBuffer(3, device="nonsense")
    with pytest.raises(ValueError, match="collect before sampling"):
        ReplayBuffer(3, device="cpu").sample(2)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: ReplayBuffer(4, stack_num=2, device="cpu"), "stack_num"),
        (lambda: ReplayBuffer(4, ignore_obs_next=True, device="cpu"), "ignore_obs_next"),
        (lambda: VectorReplayBuffer(4, 2, save_only_last_obs=True, device="cpu"), "save_only_last_obs"),
        (lambda: ReplayBuffer(4, device="cpu", memmap=tempfile.gettempdir()), "memmap"),
        (lambda: PrioritizedReplayBuffer(4, 0.6, 0.4, device="cpu"), "PrioritizedReplayBuffer"),
        (lambda: PrioritizedVectorReplayBuffer(4, 2, alpha=0.6, beta=0.4, device="cpu"), "PrioritizedReplayBuffer"),
        (lambda: HERReplayBuffer(4, lambda a, b: a, 3, device="cpu"), "HERReplayBuffer"),
        (lambda: CachedReplayBuffer(ReplayBuffer(4, device="cpu"), 2, 5), "CachedReplayBuffer"),
    ],
)
def test_what_works_in_host_memory_only(make: Any, what: str) -> None:
    with pytest.raises(ValueError, match=f"{what} works in host memory only"):
        make()
