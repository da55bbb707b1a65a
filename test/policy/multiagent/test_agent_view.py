"""What one agent sees of a buffer of a game in turns, against plain lists."""

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.policy.base import BasePolicy
from rlpolicy.policy.multiagent.agent_view import AgentView

AGENTS = ("a", "b", "c")
GAMMA = 0.5


class Game:
    """Steps of a game in which the agents come in any order, and die at any time."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.serial = 0
        self.begin()

    def begin(self) -> None:
        self.dead = np.zeros(len(AGENTS), bool)
        self.seen = self.observe()

    def observe(self) -> dict[str, Any]:
        self.serial += 1
        agent = int(self.rng.choice(np.flatnonzero(~self.dead)))
        return {"agent_id": AGENTS[agent], "obs": np.array([float(self.serial)]), "mask": self.rng.random(4) < 0.5}

    def step(self) -> dict[str, Any]:
        before, ends = self.seen, self.rng.random() < 0.15
        if not ends and self.dead.sum() < len(AGENTS) - 1 and self.rng.random() < 0.15:
            self.dead[self.rng.choice(np.flatnonzero(~self.dead))] = True
        terminated = bool(ends and self.rng.random() < 0.5)
        self.seen = self.observe()
        step = {
            "obs": before,
            "act": self.serial,
            "rew": self.rng.standard_normal(len(AGENTS)),
            "terminated": terminated,
            "truncated": bool(ends) and not terminated,
            "obs_next": self.seen,
            "info": {"agent_terminated": self.dead | terminated},
        }
        if ends:
            self.begin()
        return step


def decisions(steps: list[dict[str, Any]], rows: list[int], agent: int) -> list[dict[str, Any]]:
    """An agent's own transitions of one environment, as a player would write them down, if known to the end."""
    found: list[dict[str, Any]] = []
    for i, step in enumerate(steps):
        if step["obs"]["agent_id"] != AGENTS[agent]:
            continue
        rew, k = 0.0, i
        while True:
            rew += steps[k]["rew"][agent]
            over = steps[k]["terminated"] or steps[k]["info"]["agent_terminated"][agent]
            own = steps[k]["obs_next"]["agent_id"] == AGENTS[agent]
            cut = steps[k]["truncated"]
            if over or own or cut or k + 1 == len(steps):
                break
            k += 1
        # death shows at the step it comes with; rewards go on to the end of the episode or of what is recorded
        while over and not (steps[k]["terminated"] or steps[k]["truncated"]) and k + 1 < len(steps):
            k += 1
            rew += steps[k]["rew"][agent]
        if own or over:
            found.append(
                {
                    "row": rows[i],
                    "rew": rew,
                    "over": over,
                    "cut": cut and not over,
                    "next": steps[k]["obs_next"],
                    "ends": k,
                }
            )
    return found


def nstep(own: list[dict[str, Any]], steps: list[dict[str, Any]], i: int, n: int) -> float:
    """The n-step target of the i-th decision, where the value of an observation is its number."""
    y, factor = 0.0, 1.0
    for k in range(i, min(i + n, len(own))):
        y += factor * own[k]["rew"]
        factor *= GAMMA
        if own[k]["over"]:
            return y
        if own[k]["cut"] or k + 1 == min(i + n, len(own)):
            break
        later = own[k + 1]["row"]
        if own[k]["next"] is not steps_by_row(steps, own, later)["obs"]:
            break  # the next one belongs to another episode
    return y + factor * float(own[k]["next"]["obs"][0])


def steps_by_row(steps: list[dict[str, Any]], own: list[dict[str, Any]], row: int) -> dict[str, Any]:
    return next(step for step, at in zip(steps, steps_rows(steps), strict=True) if at == row)


def steps_rows(steps: list[dict[str, Any]]) -> list[int]:
    return [step["row"] for step in steps]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 100_000), n_steps=st.integers(1, 40), n=st.integers(1, 3), compact=st.booleans())
def test_an_agents_transitions(seed: int, n_steps: int, n: int, compact: bool) -> None:
    buffer = VectorReplayBuffer(100, 2, ignore_obs_next=compact)
    games, steps = [Game(seed), Game(seed + 1)], [[], []]  # type: ignore[var-annotated]
    for _ in range(n_steps):
        for i, game in enumerate(games):
            step = game.step()
            rows, _, _, _ = buffer.add(Batch.stack([Batch(step)]), buffer_ids=[i])
            steps[i].append({**step, "row": int(rows[0])})
    for agent, name in enumerate(AGENTS):
        view: Any = AgentView(buffer, name, agent)
        found = view.own_rows(buffer.sample_indices(0))
        expected = [own for game in steps for own in decisions(game, steps_rows(game), agent)]
        assert sorted(found.tolist()) == sorted(own["row"] for own in expected)
        assert len(view) == len(expected)
        if not expected:
            continue
        order = np.array([own["row"] for own in expected])
        batch = view[order]
        np.testing.assert_allclose(batch.rew, [own["rew"] for own in expected])
        np.testing.assert_array_equal(batch.terminated, [own["over"] for own in expected])
        np.testing.assert_array_equal(batch.truncated, [own["cut"] for own in expected])
        np.testing.assert_array_equal(batch.done, view.done[order])
        assert set(batch.obs.agent_id.tolist()) == {name}
        alive = ~batch.terminated
        np.testing.assert_array_equal(
            batch.obs_next.obs[alive, 0], [own["next"]["obs"][0] for own in expected if not own["over"]]
        )
        np.testing.assert_array_equal(
            batch.obs_next.mask[alive], np.array([own["next"]["mask"] for own in expected])[alive]
        )
        assert set(batch.obs_next.agent_id[alive].tolist()) <= {name}

        def value(view: Any, rows: Any) -> torch.Tensor:
            obs_next = view.get(rows, "obs_next")
            assert (view.terminated[rows] | (obs_next.agent_id == name)).all()  # noqa: B023 - called at once
            return torch.as_tensor(obs_next.obs[:, 0])

        returns = BasePolicy.compute_nstep_return(batch, view, order, value, GAMMA, n).returns[:, 0].numpy()
        of_games = [(decisions(game, steps_rows(game), agent), game) for game in steps]
        wanted = [nstep(own, game, i, n) for own, game in of_games for i in range(len(own))]
        np.testing.assert_allclose(returns, wanted, rtol=1e-12)


def test_gae_of_one_agent_stops_where_its_own_sequence_does() -> None:
    buffer = VectorReplayBuffer(40, 1)
    game, steps = Game(5), []
    for _ in range(25):
        step = game.step()
        rows, *_ = buffer.add(Batch.stack([Batch(step)]), buffer_ids=[0])
        steps.append({**step, "row": int(rows[0])})
    view: Any = AgentView(buffer, "a", 0)
    own = decisions(steps, steps_rows(steps), 0)
    rows = np.array([entry["row"] for entry in own])
    batch = view[rows]
    v_next = np.array([float(entry["next"]["obs"][0]) for entry in own])
    v = np.array([float(steps_by_row(steps, own, entry["row"])["obs"]["obs"][0]) for entry in own])
    _, advantage = BasePolicy.compute_episodic_return(batch, view, rows, v_next, v, gamma=0.9, gae_lambda=0.8)
    expected, later = np.zeros(len(own)), 0.0
    for i in reversed(range(len(own))):
        follows = i + 1 < len(own) and own[i]["next"] is steps_by_row(steps, own, own[i + 1]["row"])["obs"]
        delta = own[i]["rew"] + 0.9 * v_next[i] * (not own[i]["over"]) - v[i]
        later = delta + 0.9 * 0.8 * later * follows
        expected[i] = later
    np.testing.assert_allclose(advantage, expected, rtol=1e-12)
