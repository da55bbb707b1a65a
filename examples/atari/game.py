"""Atari games as Machado et al. (arXiv:1709.06009) advise: sticky actions, all lives, no fixed start."""

from typing import Any

import ale_py
import gymnasium as gym
from gymnasium.wrappers import AtariPreprocessing, ClipReward, FrameStackObservation


def make_game(task: str, max_frames: int, clip_reward: bool = False) -> gym.Env[Any, Any]:
    """A game whose observations are its last four grey frames of 84 x 84 bytes, four frames apart.

    :param task: a game of ale-py, e.g. "ALE/Pong-v5".
    :param max_frames: a game that lasts longer is truncated; 60 frames are a second.
    :param clip_reward: rewards lie in [-1, 1], for training.
    """
    gym.register_envs(ale_py)
    game = gym.make(task, frameskip=1, max_num_frames_per_episode=max_frames)  # the next wrapper skips frames
    env: gym.Env[Any, Any] = AtariPreprocessing(game)
    return FrameStackObservation(ClipReward(env, -1.0, 1.0) if clip_reward else env, 4)
