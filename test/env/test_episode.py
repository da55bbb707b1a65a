"""An environment is put back into the middle of an episode, or it is known that it is not."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlpolicy.env.episode import Episode


class Drawn(gym.Env[Any, Any]):
    """Observations are numbers of a generator that is made, and made anew, in reset."""

    observation_space, action_space = spaces.Box(-9.0, 9.0, (1,)), spaces.Discrete(2)

    def __init__(self) -> None:
        self.own: Any = None
        self.legacy = np.random.RandomState(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        if self.own is None or (options or {}).get("new"):
            self.own = np.random.default_rng(5)
        self.obs = np.zeros(1)
        return self.obs, {}

    def step(self, action: Any) -> Any:
        self.obs[:] = self.own.normal() + self.legacy.normal() + self.np_random.normal()  # the same memory every time
        return self.obs, float(action), False, False, {}


def played(episode: Episode, steps: int) -> list[float]:
    return [float(episode.env.step(k % 2)[0][0]) for k in range(steps)]


@pytest.mark.parametrize("kwargs", [{}, {"seed": 3}, {"options": {"new": True}}])
def test_goes_on(kwargs: dict[str, Any]) -> None:
    episode, other = Episode(Drawn()), Episode(Drawn())
    for each in (episode, other):
        each.reset({"seed": 1})
    played(other, 3)
    episode.reset({})
    played(episode, 2)
    episode.reset(kwargs)
    seen = played(episode, 4)
    state = episode.state()
    assert state is not None
    replay = other.restore(state, [k % 2 for k in range(4)])
    assert replay.obs is not None
    assert [float(obs[0]) for obs in replay.obs] == [0.0, *seen]
    assert (replay.rew, replay.ended) == ([0.0, 1.0, 0.0, 1.0], False)
    assert played(other, 3) == played(episode, 3)
    assert episode.env.action_space.sample() == other.env.action_space.sample()


def test_a_generator_that_came_with_the_episode_is_not_known() -> None:
    episode = Episode(Drawn())
    episode.reset({})
    assert episode.state() is None
    episode.reset({})
    assert episode.state() is not None
    episode.forget()
    assert episode.state() is None


def test_another_way_of_random_numbers_is_noticed() -> None:
    episode, other = Episode(Drawn()), Episode(Drawn())
    for each in (episode, other):
        each.reset({})
        each.reset({})
    played(episode, 2)
    state = episode.state()
    assert state is not None
    with pytest.raises(ValueError, match="random numbers went another way"):
        other.restore(state, [0])
    with pytest.raises(ValueError, match="that this one lacks"):
        Episode(gym.make("CartPole-v1")).restore(state, [0, 1])


@pytest.mark.parametrize("task", ["Pendulum-v1", "CartPole-v1", "LunarLander-v3", "HalfCheetah-v5"])
def test_environments_of_gymnasium(task: str) -> None:
    pytest.importorskip({"LunarLander-v3": "Box2D", "HalfCheetah-v5": "mujoco"}.get(task, "gymnasium"))
    episode, other = Episode(gym.make(task)), Episode(gym.make(task))
    episode.reset({})
    episode.reset({})
    actions = [episode.env.action_space.sample() for _ in range(5)]
    seen = [np.copy(episode.env.step(action)[0]) for action in actions]
    state = episode.state()
    assert state is not None
    replay = other.restore(state, actions)
    assert replay.obs is not None
    np.testing.assert_array_equal(replay.obs[1:], seen)
    np.testing.assert_array_equal(other.env.step(actions[0])[0], episode.env.step(actions[0])[0])
    np.testing.assert_array_equal(other.reset({})[0], episode.reset({})[0])
