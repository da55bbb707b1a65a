"""Shared memory columns and the server of a worker process, here without processes."""

import multiprocessing
import pickle
import threading
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rlpolicy.env.worker.failures import Failure
from rlpolicy.env.worker.server import Server
from rlpolicy.env.worker.shared import SharedColumns

CONTEXT = multiprocessing.get_context()
BOX = spaces.Box(-1, 1, (2, 3), np.float32)
NESTED = spaces.Dict({"img": spaces.Box(0, 255, (2, 2), np.uint8), "t": spaces.Tuple((spaces.Discrete(9), BOX))})


def obs_of(i: int) -> Any:
    return {"img": np.full((2, 2), i, np.uint8), "t": (i, np.full((2, 3), i / 10, np.float32))}


def test_round_trip() -> None:
    columns = SharedColumns(3, BOX, spaces.Discrete(4), CONTEXT)
    for i in range(3):
        obs = np.full((2, 3), i, np.float32)
        assert columns.write_step(i, obs, i + 0.5, i == 1, i == 2)
    obs, rew, terminated, truncated = columns.results(None, False)
    assert obs[:, 0, 0].tolist() == [0, 1, 2]
    assert rew.tolist() == [0.5, 1.5, 2.5]
    assert terminated.tolist() == [False, True, False]
    assert truncated.tolist() == [False, False, True]
    for ids in ([2, 0], None):
        columns.write_obs(0, np.full((2, 3), 7, np.float32))
        columns.results(ids, False)[0][:] = -1  # a copy
        assert columns.obs_row(0)[0, 0] == 7
    assert columns.row(2)[1:] == (2.5, False, True)
    assert columns.results([2, 0], False)[1].tolist() == [2.5, 0.5]


def test_nested_spaces() -> None:
    columns = SharedColumns(2, NESTED, BOX, CONTEXT)
    for i in range(2):
        assert columns.write_obs(i, obs_of(i))
    rows = columns.results(None, False)[0]
    assert rows.dtype == object
    assert rows[1]["img"].tolist() == obs_of(1)["img"].tolist()
    assert rows[1]["t"][0] == 1
    stacked = columns.results([1, 0], True)[0]
    assert stacked["t"][0].tolist() == [1, 0]
    assert stacked["img"].dtype == np.uint8


@pytest.mark.parametrize(
    ("space", "obs"),
    [
        (BOX, np.zeros((2, 3))),
        (BOX, np.zeros((3, 2), np.float32)),
        (BOX, [[0.0] * 3] * 2),
        (spaces.Discrete(3), np.int32(1)),
        (spaces.Discrete(3), np.array([1])),
        (spaces.Discrete(3), 1.0),
        (NESTED, {**obs_of(1), "more": 1}),
        (NESTED, {**obs_of(1), "t": [1, np.zeros((2, 3), np.float32)]}),
        (NESTED, {**obs_of(1), "img": np.zeros((2, 2), np.float32)}),
        (spaces.Text(5), "x"),
        (spaces.Dict({"a": BOX, "b": spaces.Text(5)}), {"a": np.zeros((2, 3), np.float32), "b": "x"}),
        (None, np.zeros(2)),
    ],
)
def test_what_does_not_fit(space: Any, obs: Any) -> None:
    columns = SharedColumns(2, space, None, CONTEXT)
    assert not columns.write_obs(0, obs)
    assert not columns.write_step(0, obs, 1.0, False, False)


def test_actions() -> None:
    columns = SharedColumns(3, BOX, BOX, CONTEXT)
    actions = np.arange(18, dtype=np.float32).reshape(3, 2, 3)
    assert columns.put_actions(None, actions)
    held = columns.action(1)
    assert columns.put_actions([1], actions[:1])
    assert held.tolist() == actions[1].tolist()
    assert columns.action(1).tolist() == actions[0].tolist()
    assert columns.action(2).tolist() == actions[2].tolist()
    for wrong in (actions.astype(float), actions[:, :1], actions.tolist()):
        assert not columns.put_actions(None, wrong)
    assert not SharedColumns(3, BOX, spaces.Text(3), CONTEXT).put_actions(None, np.zeros(3))
    assert not columns.write_step(0, np.zeros((2, 3), np.float32), [1.0, 2.0], False, False)  # rewards of two agents


def test_large_environment_counts_do_not_overlap() -> None:
    """Columns of odd sizes, filled with different bytes."""
    columns = SharedColumns(7, spaces.Box(0, 255, (5,), np.uint8), spaces.MultiBinary(3), CONTEXT)
    for i in range(7):
        columns.write_step(i, np.full(5, i, np.uint8), float(i), i % 2 == 0, i % 3 == 0)
    columns.put_actions(None, np.ones((7, 3), np.int8))
    obs, rew, terminated, truncated = columns.results(None, False)
    assert obs.tolist() == [[i] * 5 for i in range(7)]
    assert rew.tolist() == list(range(7))
    assert terminated.tolist() == [i % 2 == 0 for i in range(7)]
    assert truncated.tolist() == [i % 3 == 0 for i in range(7)]


@pytest.mark.parametrize("shared", [False, True])
def test_server(kit: Any, shared: bool) -> None:
    """Every request of the protocol, with environments 4 and 5 of six."""
    columns = SharedColumns(6, kit.CountingEnv.observation_space, spaces.Discrete(5), CONTEXT) if shared else None
    server = Server([4, 5], columns)
    here, there = CONTEXT.Pipe()
    thread = threading.Thread(target=server.run, args=(there, kit.fns(2, length=9)))
    thread.start()

    def ask(name: str, *args: Any) -> Any:
        here.send_bytes(pickle.dumps((name, args)))
        reply = here.recv_bytes()
        return None if reply == b"n" else pickle.loads(reply)

    spaces_of = pickle.loads(here.recv_bytes())
    assert spaces_of == [(kit.CountingEnv.observation_space, spaces.Discrete(5))] * 2
    assert ask("seed", [0, 1], [3, 4]) == [[3], [4]]
    replies = ask("reset", [1, 0], [{}, {"options": {"a": 1}}])
    assert [r[0] for r in replies] == [shared, shared]
    assert replies[0][2] == {"first": 1}
    assert replies[1][2]["options"] == "[('a', 1)]"
    sent, infos = ask("step", [1], [2])
    assert [d["t"] for d in infos] == [1]
    assert (columns.row(5) if columns else sent[5])[1] == 1.2
    if columns:
        columns.put_actions(None, np.arange(6) % 5)
        here.send_bytes(b"s")
        sent, infos = pickle.loads(here.recv_bytes())
        assert sent == {}
        assert columns.rew[4:].tolist() == [1.4, 2.0]
    assert ask("get", 0, "length") == 9
    assert ask("get", 0, "nothing") is None
    assert ask("set", 0, "length", 8) is None
    assert ask("get", 0, "length") == 8
    assert ask("render", 1, {}).shape == (2, 2, 3)
    failure = ask("step", [1], ["no action"])
    assert isinstance(failure, Failure)
    assert failure.env_id == 5
    assert isinstance(failure.exception(), ValueError)
    thread.join()
    server.close()
    assert all(env.closed for env in server.envs)
