"""Configs of the algorithms that learn the values of discrete actions, of one agent or of a team."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import gymnasium as gym
from gymnasium import spaces
from torch import nn
from torch.optim import Optimizer, RMSprop

from rlpolicy.experiment.config import ExperimentConfig, adam, falling
from rlpolicy.experiment.envs import make_env
from rlpolicy.experiment.schema import one_of, within
from rlpolicy.experiment.team import team_policy
from rlpolicy.exploration.random import EpsilonGreedy
from rlpolicy.policy.modelfree.c51 import C51Policy
from rlpolicy.policy.modelfree.dqn import DQNPolicy
from rlpolicy.policy.modelfree.fqf import FQFPolicy
from rlpolicy.policy.modelfree.iqn import IQNPolicy
from rlpolicy.policy.modelfree.qrdqn import QRDQNPolicy
from rlpolicy.policy.modelfree.rainbow import RainbowPolicy
from rlpolicy.policy.options import require_discrete
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net import discrete
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.conv import ConvNet


@dataclass(kw_only=True)
class ValueConfig(ExperimentConfig):
    """What the value-based algorithms share."""

    policy_class: ClassVar[type[Any]]

    env: str = "CartPole-v1"
    """id of a gymnasium environment with discrete actions"""
    update_per_step: float = within(0.5, "(0, inf)")
    """gradient steps per environment step"""
    frame_stack: int = within(0, "[0, inf)")
    """newest pictures that the network sees together, through convolutions; 0: observations are vectors"""
    clip_rewards: bool = False
    """learn from rewards cut to [-1, 1]; tests count them as they are"""
    lr: float = within(1e-3, "(0, inf)")
    """learning rate (Adam)"""
    adam_eps: float = within(1e-8, "(0, inf)")
    """what Adam adds to the root of the mean squared gradient"""
    discount_factor: float = within(0.99, "[0, 1]")
    """of the return, gamma in the papers"""
    tau: float | None = within(0.02, "[0, 1]")
    """part of the way that the target network follows per gradient step; None with a target_update_freq"""
    target_update_freq: int = within(0, "[0, inf)")
    """gradient steps between two copies to the target network; needs tau = None"""
    is_double: bool = True
    """choose the target's action by the online network"""
    dueling: bool = False
    """values and advantages apart (Wang et al., arXiv:1511.06581)"""
    epsilon: float = within(1.0, "[0, 1]")
    """probability of a random action while collecting, at first"""
    epsilon_final: float = within(0.05, "[0, 1]")
    """probability of a random action after epsilon_decay_steps"""
    epsilon_decay_steps: int = within(10_000, "[1, inf)")
    """environment steps from epsilon to epsilon_final"""

    def validate(self) -> None:
        """Check all fields, each and together."""
        super().validate()
        if self.tau is not None and self.target_update_freq:
            raise InvalidArgument("give either tau or target_update_freq: with the latter set tau to None")
        if self.frame_stack and self.normalize_obs:
            raise InvalidArgument("normalize_obs is for vectors, pictures are divided by 255: leave it False")

    def make_env(self, **kwargs: Any) -> gym.Env[Any, Any]:
        """One environment, with flat observations, or with frame_stack stacked pictures.

        :param kwargs: more arguments for gymnasium.make, such as render_mode.
        """
        return make_env(self.env, self.env_kwargs | kwargs, self.frame_stack)

    def make_train_env(self) -> gym.Env[Any, Any]:
        """One environment to collect from, with clip_rewards if so."""
        env = self.make_env()
        return gym.wrappers.ClipReward(env, -1.0, 1.0) if self.clip_rewards else env

    def buffer_options(self) -> dict[str, Any]:
        """Each picture is stored once."""
        if not self.frame_stack:
            return {}
        last = {"stack_num": self.frame_stack, "save_only_last_obs": True} if self.frame_stack > 1 else {}
        return {"ignore_obs_next": True, **last}

    def make_policy(self, obs_space: spaces.Box, action_space: spaces.Space[Any]) -> Any:
        """The policy, for observations of one axis, or stacked pictures, and discrete actions."""
        require_discrete(self.algorithm, action_space)
        model = self.model(obs_space.shape, action_space.n)  # type: ignore[attr-defined]
        options = self.options(model) | self.policy_options(obs_space, action_space)
        return self.value_policy(self.policy_class, model, **options)

    def value_policy(self, policy_class: type[Any], model: Any, **options: Any) -> Any:
        """A policy with the arguments that all of them have.

        :param model: the network, or a list of them.
        """
        optim = adam(nn.ModuleList(model) if isinstance(model, list) else model, self.lr, eps=self.adam_eps)
        optims = (optim, *(part for part in options.values() if isinstance(part, Optimizer)))
        return policy_class(
            model=model,
            optim=optim,
            lr_scheduler=self.lr_scheduler(*optims),
            discount_factor=self.discount_factor,
            tau=self.tau,
            target_update_freq=self.target_update_freq,
            is_double=self.is_double,
            exploration_noise=EpsilonGreedy(falling(self.epsilon, self.epsilon_final, self.epsilon_decay_steps)),
            **options,
        )

    def net(self, obs: Any, n: int, *, linear: Any = nn.Linear, **options: Any) -> nn.Module:
        """The network, with outputs for n actions; dueling if wanted.

        Streams of a dueling network for pictures have hidden layers of their own, and share the convolutions (Wang et
        al.); those for vectors share the hidden layers.

        :param linear: makes the layers behind the features, see Net.
        """
        streams = {"linear_layer": linear, "hidden_sizes": self.hidden_sizes if self.frame_stack else ()}
        if self.dueling:
            options |= {"dueling_param": (streams, streams)}
        else:
            options |= {"linear_layer": linear}
        hidden = () if self.dueling and self.frame_stack else self.hidden_sizes

        def head(features: Any) -> Net:
            return Net(features, n, hidden_sizes=hidden, **options)

        return ConvNet(obs, head) if self.frame_stack else head(obs)

    def features(self, obs: Any) -> nn.Module:
        """The network up to its features: the convolutions, or the hidden layers for vectors."""
        return ConvNet(obs) if self.frame_stack else Net(obs, hidden_sizes=self.hidden_sizes)

    def behind_features(self) -> tuple[int, ...]:
        """Hidden layers behind the features."""
        return self.hidden_sizes if self.frame_stack else ()

    def model(self, obs: Any, n: int) -> nn.Module:
        """The policy's network for observations of that shape and n actions."""
        return self.net(obs, n)

    def options(self, model: Any) -> dict[str, Any]:
        """The policy's arguments beside the shared ones.

        :param model: the policy's network.
        """
        return {}


@dataclass(kw_only=True)
class DQNConfig(ValueConfig):
    """Deep Q-Network (Mnih et al., Nature 518, 2015)."""

    algorithm: ClassVar[str] = "dqn"
    policy_class: ClassVar[type[Any]] = DQNPolicy

    clip_loss_grad: bool = True
    """the Huber loss in place of the squared error"""
    mixing_strategy: str = one_of("none", "none", "qmix", "vdn", "iql")
    """how the values of several agents make their team's, see docs/multi_agent.md; none: one agent"""
    aggregate_rewards: str = one_of("mean", "mean", "sum", "none")
    """how the agents' rewards make the team's; none: each learns from its own (iql), or the team has one"""
    share_parameters: bool = True
    """one network for all agents, which sees the agent's number, in place of one each; for a mixing_strategy"""

    def validate(self) -> None:
        """Check all fields, each and together."""
        super().validate()
        if self.mixing_strategy == "none" and (self.aggregate_rewards != "mean" or not self.share_parameters):
            raise InvalidArgument("aggregate_rewards and share_parameters are for a mixing_strategy: qmix, vdn or iql")
        if self.mixing_strategy != "none" and self.frame_stack:
            raise InvalidArgument("frame_stack is for one agent: leave it 0 with a mixing_strategy")

    def make_policy(self, obs_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> Any:
        """The policy, for discrete actions of one agent, or of each in a team."""
        if self.mixing_strategy == "none":
            if isinstance(action_space, spaces.MultiDiscrete):
                raise InvalidArgument(
                    f"{self.env} has actions {action_space}: a team needs a mixing_strategy, e.g. qmix"
                )
            return super().make_policy(obs_space, action_space)  # type: ignore[arg-type]
        return team_policy(self, obs_space, action_space)

    def options(self, model: Any) -> dict[str, Any]:
        """The loss."""
        return {"clip_loss_grad": self.clip_loss_grad}


@dataclass(kw_only=True)
class C51Config(ValueConfig):
    """Categorical DQN (Bellemare et al., arXiv:1707.06887)."""

    algorithm: ClassVar[str] = "c51"
    policy_class: ClassVar[type[Any]] = C51Policy

    num_atoms: int = within(51, "[2, inf)")
    """returns that are told apart"""
    v_min: float = -10.0
    """smallest of them"""
    v_max: float = 10.0
    """largest of them"""

    def validate(self) -> None:
        """Check all fields, each and together."""
        super().validate()
        if not self.v_min < self.v_max:
            raise InvalidArgument(f"v_min must be below v_max, got {self.v_min} and {self.v_max}")

    def model(self, obs: Any, n: int) -> nn.Module:
        """Probabilities of returns."""
        return self.net(obs, n, softmax=True, num_atoms=self.num_atoms)

    def options(self, model: Any) -> dict[str, Any]:
        """The returns."""
        return {"num_atoms": self.num_atoms, "v_min": self.v_min, "v_max": self.v_max}


@dataclass(kw_only=True)
class RainbowConfig(C51Config):
    """Rainbow (Hessel et al., arXiv:1710.02298): C51 with noisy dueling networks, priorities and n-step targets."""

    algorithm: ClassVar[str] = "rainbow"
    policy_class: ClassVar[type[Any]] = RainbowPolicy

    estimation_step: int = within(3, "[1, inf)")
    """steps of reward in a target before it bootstraps"""
    prioritized: bool = True
    """sample transitions by their TD error"""
    dueling: bool = True
    """values and advantages apart (Wang et al., arXiv:1511.06581)"""
    epsilon: float = within(0.0, "[0, 1]")
    """probability of a random action while collecting, at first; the noisy layers explore"""
    epsilon_final: float = within(0.0, "[0, 1]")
    """probability of a random action after epsilon_decay_steps"""
    noisy_std: float = within(0.1, "(0, inf)")
    """initial standard deviation of the noisy layers' weights, before the division by the root of their inputs"""

    def model(self, obs: Any, n: int) -> nn.Module:
        """Probabilities of returns, with noisy layers."""
        noisy = partial(discrete.NoisyLinear, noisy_std=self.noisy_std)
        return self.net(obs, n, linear=noisy, softmax=True, num_atoms=self.num_atoms)


@dataclass(kw_only=True)
class QRDQNConfig(ValueConfig):
    """Quantile regression DQN (Dabney et al., arXiv:1710.10044)."""

    algorithm: ClassVar[str] = "qrdqn"
    policy_class: ClassVar[type[Any]] = QRDQNPolicy

    num_quantiles: int = within(50, "[1, inf)")
    """quantiles of the return that the network predicts"""
    kappa: float = within(1.0, "(0, inf)")
    """error at which the Huber loss becomes linear"""

    def model(self, obs: Any, n: int) -> nn.Module:
        """Quantiles."""
        return self.net(obs, n, num_atoms=self.num_quantiles)

    def options(self, model: Any) -> dict[str, Any]:
        """The quantiles."""
        return {"num_quantiles": self.num_quantiles, "kappa": self.kappa}


@dataclass(kw_only=True)
class IQNConfig(ValueConfig):
    """Implicit Quantile Network (Dabney et al., arXiv:1806.06923)."""

    algorithm: ClassVar[str] = "iqn"
    policy_class: ClassVar[type[Any]] = IQNPolicy

    sample_size: int = within(32, "[1, inf)")
    """fractions per decision"""
    online_sample_size: int = within(8, "[1, inf)")
    """fractions of the prediction in the loss"""
    target_sample_size: int = within(8, "[1, inf)")
    """fractions of the target in the loss"""
    num_cosines: int = within(64, "[1, inf)")
    """cosines that a fraction is seen through"""
    kappa: float = within(1.0, "(0, inf)")
    """error at which the Huber loss becomes linear"""

    def model(self, obs: Any, n: int) -> nn.Module:
        """Quantiles of any fraction."""
        return discrete.ImplicitQuantileNetwork(self.features(obs), n, self.behind_features(), self.num_cosines)

    def validate(self) -> None:
        """Check all fields, each and together."""
        super().validate()
        _refuse_dueling(self)

    def options(self, model: Any) -> dict[str, Any]:
        """The fractions."""
        return {
            "sample_size": self.sample_size,
            "online_sample_size": self.online_sample_size,
            "target_sample_size": self.target_sample_size,
            "kappa": self.kappa,
        }


@dataclass(kw_only=True)
class FQFConfig(ValueConfig):
    """Fully parametrised Quantile Function (Yang et al., arXiv:1911.02140)."""

    algorithm: ClassVar[str] = "fqf"
    policy_class: ClassVar[type[Any]] = FQFPolicy

    num_fractions: int = within(16, "[1, inf)")
    """fractions that are proposed"""
    num_cosines: int = within(64, "[1, inf)")
    """cosines that a fraction is seen through"""
    fraction_lr: float = within(2.5e-9, "(0, inf)")
    """learning rate of the fractions' network (RMSprop)"""
    ent_coef: float = within(0.0, "[0, inf)")
    """weight of the fractions' entropy in their loss"""
    kappa: float = within(1.0, "(0, inf)")
    """error at which the Huber loss becomes linear"""

    def model(self, obs: Any, n: int) -> nn.Module:
        """Quantiles of proposed fractions."""
        return discrete.FullQuantileFunction(self.features(obs), n, self.behind_features(), self.num_cosines)

    def validate(self) -> None:
        """Check all fields, each and together."""
        super().validate()
        _refuse_dueling(self)

    def options(self, model: Any) -> dict[str, Any]:
        """The fractions and what proposes them."""
        proposals = discrete.FractionProposalNetwork(self.num_fractions, model.input_dim)
        return {
            "fraction_model": proposals,
            "fraction_optim": RMSprop(proposals.parameters(), lr=self.fraction_lr),
            "num_fractions": self.num_fractions,
            "ent_coef": self.ent_coef,
            "kappa": self.kappa,
        }


def _refuse_dueling(config: ValueConfig) -> None:
    if config.dueling:
        raise InvalidArgument(f"{config.algorithm} has no dueling network: leave dueling False")
    if not config.hidden_sizes:
        raise InvalidArgument(f"{config.algorithm} needs at least one hidden layer, hidden_sizes is empty")
