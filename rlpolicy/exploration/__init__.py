"""Exploration: noise on continuous actions, epsilon-greedy choice of discrete ones."""

from rlpolicy.exploration.random import BaseNoise, EpsilonGreedy, GaussianNoise, OUNoise, PinkNoise

__all__ = ["BaseNoise", "EpsilonGreedy", "GaussianNoise", "OUNoise", "PinkNoise"]
