"""Configs of the algorithms with an actor and critics."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from gymnasium import spaces
from torch import nn

from rlpolicy.experiment.config import ExperimentConfig, adam, falling
from rlpolicy.experiment.schema import one_of, within
from rlpolicy.exploration.random import BaseNoise, GaussianNoise, OUNoise, PinkNoise
from rlpolicy.policy.modelfree.crossq import CrossQPolicy
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy
from rlpolicy.policy.modelfree.discrete_sac import DiscreteSACPolicy
from rlpolicy.policy.modelfree.droq import DroQPolicy
from rlpolicy.policy.modelfree.redq import REDQPolicy
from rlpolicy.policy.modelfree.sac import SACPolicy
from rlpolicy.policy.modelfree.td3 import TD3Policy
from rlpolicy.policy.modelfree.tqc import TQCPolicy
from rlpolicy.policy.options import require_box, require_discrete
from rlpolicy.policy.temperature import auto_alpha
from rlpolicy.utils.net import continuous, discrete
from rlpolicy.utils.net.common import EnsembleLinear, Net

_NOISES: dict[str, type[Any]] = {"gaussian": GaussianNoise, "ou": OUNoise, "pink": PinkNoise}


@dataclass(kw_only=True)
class ActorCriticConfig(ExperimentConfig):
    """What the algorithms for continuous actions share."""

    actor_lr: float = within(1e-3, "(0, inf)")
    """learning rate of the actor (Adam)"""
    critic_lr: float = within(1e-3, "(0, inf)")
    """learning rate of the critics (Adam)"""
    critic_hidden_sizes: tuple[int, ...] | None = within(None, "[1, inf)")
    """units of the critics' hidden layers; None: hidden_sizes"""
    tau: float = within(0.005, "[0, 1]")
    """part of the way that the target networks follow per gradient step"""
    gamma: float = within(0.99, "[0, 1]")
    """discount factor"""

    adam_beta1: ClassVar[float] = 0.9

    def make_policy(self, obs_space: spaces.Box, action_space: spaces.Space[Any]) -> Any:
        """The policy, for observations of one axis and continuous actions."""
        require_box(self.algorithm, action_space)
        actor, critic = (
            self.actor(obs_space.shape, action_space.shape),
            self.critic(obs_space.shape, action_space.shape),
        )
        actor_optim = adam(actor, self.actor_lr, self.adam_beta1)
        critic_optim = adam(critic, self.critic_lr, self.adam_beta1)
        learners = {"actor": actor, "actor_optim": actor_optim, "critic": critic, "critic_optim": critic_optim}
        options = self.policy_options(obs_space, action_space) | {"gamma": self.gamma}
        options["lr_scheduler"] = self.lr_scheduler(actor_optim, critic_optim)
        return self.algorithm_policy(**learners, **options)

    @abstractmethod
    def actor(self, obs: Any, act: Any) -> nn.Module:
        """The actor, for observations and actions of these shapes."""

    def critic_sizes(self) -> tuple[int, ...]:
        """Units of the critics' hidden layers."""
        return self.critic_hidden_sizes or self.hidden_sizes

    def critic(self, obs: Any, act: Any, **options: Any) -> nn.Module:
        """A critic; ``options`` of its network."""
        return continuous.Critic(Net(obs, act, hidden_sizes=self.critic_sizes(), concat=True, **options))

    @abstractmethod
    def algorithm_policy(self, **shared: Any) -> Any:
        """The policy, from the arguments that all of them take."""


@dataclass(kw_only=True)
class DDPGConfig(ActorCriticConfig):
    """Deep Deterministic Policy Gradient (Lillicrap et al., arXiv:1509.02971)."""

    algorithm: ClassVar[str] = "ddpg"

    noise: str = one_of("gaussian", "gaussian", "ou", "pink", "none")
    """what is added to actions to explore"""
    noise_sigma: float = within(0.1, "[0, inf)")
    """its standard deviation, in units of half the action range"""
    noise_sigma_final: float | None = within(None, "[0, inf)")
    """its standard deviation after noise_decay_steps; None: it stays"""
    noise_decay_steps: int = within(10_000, "[1, inf)")
    """environment steps from noise_sigma to noise_sigma_final"""

    def exploration_noise(self) -> BaseNoise | None:
        """The noise; None for "none"."""
        if self.noise == "none":
            return None
        sigma = falling(self.noise_sigma, self.noise_sigma_final, self.noise_decay_steps)
        noise: BaseNoise = _NOISES[self.noise](sigma=sigma)
        return noise

    def actor(self, obs: Any, act: Any) -> nn.Module:
        """A deterministic actor."""
        return continuous.Actor(Net(obs, hidden_sizes=self.hidden_sizes), act)

    def algorithm_policy(self, **shared: Any) -> Any:
        """DDPGPolicy."""
        return DDPGPolicy(**shared, tau=self.tau, exploration_noise=self.exploration_noise())


@dataclass(kw_only=True)
class TD3Config(DDPGConfig):
    """Twin Delayed DDPG (Fujimoto et al., arXiv:1802.09477)."""

    algorithm: ClassVar[str] = "td3"

    policy_noise: float = within(0.2, "[0, inf)")
    """standard deviation of the noise on target actions, in units of half the action range"""
    noise_clip: float = within(0.5, "[0, inf)")
    """largest noise on target actions; 0: not limited"""
    update_actor_freq: int = within(2, "[1, inf)")
    """critic updates per actor update"""

    def algorithm_policy(self, **shared: Any) -> Any:
        """TD3Policy."""
        return TD3Policy(
            **shared,
            tau=self.tau,
            exploration_noise=self.exploration_noise(),
            policy_noise=self.policy_noise,
            noise_clip=self.noise_clip,
            update_actor_freq=self.update_actor_freq,
        )


@dataclass(kw_only=True)
class _SoftConfig(ActorCriticConfig):
    """What the maximum-entropy algorithms for continuous actions share."""

    alpha: float | None = within(None, "[0, inf)")
    """temperature: worth of a nat of entropy, in units of reward; None: learned"""
    alpha_lr: float = within(1e-3, "(0, inf)")
    """learning rate of a learned temperature (Adam)"""
    alpha_initial: float = within(1.0, "(0, inf)")
    """a learned temperature at the start"""
    target_entropy: float | None = None
    """entropy that a learned temperature aims at, in nats; None: minus the number of action dimensions"""
    deterministic_eval: bool = True
    """no randomness in tests"""

    def actor(self, obs: Any, act: Any) -> nn.Module:
        """A squashed Gaussian actor."""
        net = Net(obs, hidden_sizes=self.hidden_sizes)
        return continuous.ActorProb(net, act, unbounded=True, conditioned_sigma=True)

    def policy_options(self, obs_space: spaces.Box, action_space: spaces.Space[Any]) -> dict[str, Any]:
        """The shared arguments and the temperature."""
        alpha: Any = self.alpha
        if alpha is None:
            learned: dict[str, Any] = {
                "target_entropy": self.target_entropy,
                "lr": self.alpha_lr,
                "initial": self.alpha_initial,
            }
            alpha = auto_alpha(action_space, **learned)
        shared = {"alpha": alpha, "deterministic_eval": self.deterministic_eval}
        return super().policy_options(obs_space, action_space) | shared


@dataclass(kw_only=True)
class SACConfig(_SoftConfig):
    """Soft Actor-Critic (Haarnoja et al., arXiv:1812.05905)."""

    algorithm: ClassVar[str] = "sac"

    def algorithm_policy(self, **shared: Any) -> Any:
        """SACPolicy."""
        return SACPolicy(**shared, tau=self.tau)


@dataclass(kw_only=True)
class REDQConfig(_SoftConfig):
    """Randomized Ensembled Double Q-Learning (Chen et al., arXiv:2101.05982)."""

    algorithm: ClassVar[str] = "redq"

    ensemble_size: int = within(10, "[1, inf)")
    """number of critics"""
    subset_size: int = within(2, "[1, inf)")
    """critics that a target is taken from"""
    actor_delay: int = within(20, "[1, inf)")
    """critic updates per actor update"""
    target_mode: str = one_of("min", "min", "mean")
    """how the critics of a subset make a target"""

    def critic(self, obs: Any, act: Any, **options: Any) -> nn.Module:
        """All critics as one network."""
        return _ensemble(self, obs, act, self.ensemble_size)

    def algorithm_policy(self, **shared: Any) -> Any:
        """REDQPolicy."""
        return REDQPolicy(
            **shared,
            tau=self.tau,
            ensemble_size=self.ensemble_size,
            subset_size=self.subset_size,
            actor_delay=self.actor_delay,
            target_mode=self.target_mode,  # type: ignore[arg-type]  # one of its choices
        )


@dataclass(kw_only=True)
class TQCConfig(_SoftConfig):
    """Truncated Quantile Critics (Kuznetsov et al., arXiv:2005.04269)."""

    algorithm: ClassVar[str] = "tqc"

    ensemble_size: int = within(5, "[1, inf)")
    """number of critics"""
    num_quantiles: int = within(25, "[1, inf)")
    """quantiles of the return that each critic predicts"""
    top_quantiles_to_drop_per_net: int = within(2, "[0, inf)")
    """largest quantiles that the target leaves out, per critic"""

    def critic(self, obs: Any, act: Any, **options: Any) -> nn.Module:
        """All critics as one network."""
        return _ensemble(self, obs, act, self.ensemble_size, num_quantiles=self.num_quantiles)

    def algorithm_policy(self, **shared: Any) -> Any:
        """TQCPolicy."""
        return TQCPolicy(**shared, tau=self.tau, top_quantiles_to_drop_per_net=self.top_quantiles_to_drop_per_net)


@dataclass(kw_only=True)
class CrossQConfig(_SoftConfig):
    """CrossQ (Bhatt et al., arXiv:1902.05605): batch normalisation in place of target networks."""

    algorithm: ClassVar[str] = "crossq"
    adam_beta1: ClassVar[float] = 0.5  # the paper's, table 2

    actor_delay: int = within(3, "[1, inf)")
    """critic updates per actor update"""

    def critic(self, obs: Any, act: Any, **options: Any) -> nn.Module:
        """A critic that normalises the input of each layer."""
        return super().critic(obs, act, linear_layer=_renormed_linear)

    def algorithm_policy(self, **shared: Any) -> Any:
        """CrossQPolicy, which has no target networks and so no tau."""
        return CrossQPolicy(**shared, actor_delay=self.actor_delay)


@dataclass(kw_only=True)
class DroQConfig(_SoftConfig):
    """DroQ (Hiraoka et al., arXiv:2110.02034): dropout in place of an ensemble."""

    algorithm: ClassVar[str] = "droq"

    actor_delay: int = within(20, "[1, inf)")
    """critic updates per actor update"""
    dropout: float = within(0.01, "[0, 1)")
    """probability that a unit of a critic is dropped"""
    target_dropout: bool = False
    """drop units in the targets, too"""

    def critic(self, obs: Any, act: Any, **options: Any) -> nn.Module:
        """A critic with dropout and layer normalisation."""
        return super().critic(obs, act, norm_layer=partial(_dropped, self.dropout))

    def algorithm_policy(self, **shared: Any) -> Any:
        """DroQPolicy."""
        return DroQPolicy(**shared, tau=self.tau, actor_delay=self.actor_delay, target_dropout=self.target_dropout)


@dataclass(kw_only=True)
class DiscreteSACConfig(_SoftConfig):
    """SAC for discrete actions (Christodoulou, arXiv:1910.07207); entropies aim at 0.98 log n by default."""

    algorithm: ClassVar[str] = "discrete_sac"

    env: str = "CartPole-v1"
    """id of a gymnasium environment with discrete actions"""

    def make_policy(self, obs_space: spaces.Box, action_space: spaces.Space[Any]) -> Any:
        """The policy, for observations of one axis and discrete actions."""
        require_discrete(self.algorithm, action_space)
        n = action_space.n  # type: ignore[attr-defined]
        actor = discrete.Actor(Net(obs_space.shape, hidden_sizes=self.hidden_sizes), n, softmax_output=False)
        critic = discrete.Critic(Net(obs_space.shape, hidden_sizes=self.critic_sizes()), last_size=n)
        actor_optim, critic_optim = adam(actor, self.actor_lr), adam(critic, self.critic_lr)
        return DiscreteSACPolicy(
            actor=actor,
            actor_optim=actor_optim,
            critic=critic,
            critic_optim=critic_optim,
            tau=self.tau,
            gamma=self.gamma,
            lr_scheduler=self.lr_scheduler(actor_optim, critic_optim),
            **self.policy_options(obs_space, action_space),
        )

    def algorithm_policy(self, **shared: Any) -> Any:
        """Made by :meth:`make_policy`."""
        raise NotImplementedError


def _ensemble(config: ActorCriticConfig, obs: Any, act: Any, size: int, **options: Any) -> nn.Module:
    linear = partial(EnsembleLinear, size)
    net = Net(obs, act, hidden_sizes=config.critic_sizes(), concat=True, linear_layer=linear)
    return continuous.Critic(net, linear_layer=linear, flatten_input=False, **options)


def _renormed_linear(n_in: int, n_out: int) -> nn.Module:
    return nn.Sequential(continuous.BatchRenorm(n_in), nn.Linear(n_in, n_out))


def _dropped(probability: float, units: int) -> nn.Module:
    return nn.Sequential(nn.Dropout(probability), nn.LayerNorm(units))
