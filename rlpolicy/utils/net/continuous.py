"""Networks for continuous actions."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.common import MLP, BaseActor, TLinearLayer, get_output_dim
from rlpolicy.utils.net.inputs import (
    ArrayLike,
    DeviceLike,
    DeviceModule,
    ObsKey,
    State,
    TActionShape,
    as_input,
    flat,
    lstm_state,
    output_and_state,
    pick_obs,
    size_of,
    stored_state,
    takes_state,
)

SIGMA_MIN = -20
"""Smallest logarithm of a standard deviation."""
SIGMA_MAX = 2
"""Largest logarithm of a standard deviation."""


class Actor(BaseActor):
    """A deterministic actor: ``max_action * tanh(last(preprocess(obs)))``.

    :param preprocess_net: maps (obs, state) to (features, state), or obs to features.
    :param action_shape: A.
    :param hidden_sizes: hidden layers between the features and the output.
    :param max_action: the output lies in [-max_action, max_action].
    :param preprocess_net_output_dim: number of features, when ``preprocess_net`` has no ``output_dim``.
    :param obs_key: for observations with keys: the entry, or the entries to join, that the actor sees.
    """

    def __init__(
        self,
        preprocess_net: nn.Module,
        action_shape: TActionShape,
        hidden_sizes: Sequence[int] = (),
        max_action: float = 1.0,
        device: DeviceLike = "cpu",
        preprocess_net_output_dim: int | None = None,
        *,
        obs_key: ObsKey = None,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess_net
        self.output_dim = size_of(action_shape)
        features = get_output_dim(preprocess_net, preprocess_net_output_dim)
        self.last = MLP(features, self.output_dim, hidden_sizes, device=device)
        self.max_action = max_action
        self.obs_key = obs_key
        self._takes_state = takes_state(preprocess_net)
        self.place(device)

    def get_preprocess_net(self) -> nn.Module:
        """The network that turns observations into features."""
        return self.preprocess

    def get_output_dim(self) -> int:
        """A."""
        return self.output_dim

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> tuple[Tensor, Any]:
        """(B, O) -> actions (B, A), and the preprocess network's next state."""
        if self.obs_key is not None:
            obs = pick_obs(obs, self.obs_key, self.device)
        result = self.preprocess(obs, state) if self._takes_state else self.preprocess(obs)
        features, state = output_and_state(result, state)
        return self.max_action * torch.tanh(self.last(features)), state


class Critic(DeviceModule):
    """A critic Q(s, a), or V(s) without an action.

    Observation and action are flattened and joined before they enter ``preprocess_net``.

    :param preprocess_net: maps the joined input to (features, state), or to features.
    :param hidden_sizes: hidden layers between the features and the output.
    :param preprocess_net_output_dim: number of features, when ``preprocess_net`` has no ``output_dim``.
    :param linear_layer: makes a linear layer of the last part from its two sizes, e.g. an ensemble's.
    :param flatten_input: whether the last part flattens the features; False for ensembles.
    :param apply_preprocess_net_to_obs_only: the observation alone enters ``preprocess_net``, unflattened, and
        the action is joined with its features; so an actor's preprocess network can be shared.
    :param obs_key: for observations with keys: the entry, or the entries to join, that the critic sees.
    :param num_quantiles: M, how many quantiles of the return are given in place of its mean, e.g. for TQC.
    :param action_shape: with ``apply_preprocess_net_to_obs_only``: A, if the number of features of ``preprocess_net``
        does not count the action.
    """

    def __init__(
        self,
        preprocess_net: nn.Module,
        hidden_sizes: Sequence[int] = (),
        device: DeviceLike = "cpu",
        preprocess_net_output_dim: int | None = None,
        linear_layer: TLinearLayer = nn.Linear,
        flatten_input: bool = True,
        apply_preprocess_net_to_obs_only: bool = False,
        *,
        obs_key: ObsKey = None,
        num_quantiles: int = 1,
        action_shape: TActionShape = 0,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess_net
        self.output_dim = num_quantiles
        n_actions = size_of(action_shape)
        if n_actions and not apply_preprocess_net_to_obs_only:
            raise InvalidArgument("action_shape is for apply_preprocess_net_to_obs_only=True: Net(..., concat=True)")
        self.last = MLP(
            get_output_dim(preprocess_net, preprocess_net_output_dim) + n_actions,
            num_quantiles,
            hidden_sizes,
            device=device,
            linear_layer=linear_layer,
            flatten_input=flatten_input,
        )
        self.apply_preprocess_net_to_obs_only = apply_preprocess_net_to_obs_only
        self.obs_key = obs_key
        self.place(device)

    def forward(self, obs: Any, act: ArrayLike | None = None, info: Any = None) -> Tensor:
        """(B, O), (B, A) -> (B, 1); an ensemble gives (E, B, 1). With quantiles (B, M) and (E, B, M)."""
        if self.obs_key is not None:
            obs = pick_obs(obs, self.obs_key, self.device)
        if self.apply_preprocess_net_to_obs_only:
            x = flat(output_and_state(self.preprocess(obs), None)[0])
            if act is not None:
                x = torch.cat([x, flat(as_input(act, self.device, self.dtype))], dim=1)
            return self.last(x)  # type: ignore[no-any-return]
        x = flat(as_input(obs, self.device, self.dtype))
        if act is not None:
            x = torch.cat([x, flat(as_input(act, self.device, self.dtype))], dim=1)
        return self.last(output_and_state(self.preprocess(x), None)[0])  # type: ignore[no-any-return]


class BatchRenorm(nn.BatchNorm1d):
    """Batch normalisation whose training agrees with its evaluation (Ioffe, arXiv:1702.03275, eq. 2 to 5).

    The statistics of the batch, μ and σ, are corrected towards the running ones, μ' and σ', without gradient::

        y = γ ((x - μ) / σ r + d) + β        r = clip(σ / σ', 1/r_max, r_max),  d = clip((μ - μ') / σ', -d_max, d_max)

    Departs from the paper: the corrections start at once, with their full range, when ``warmup`` forward passes are
    over, as in CrossQ (arXiv:1902.05605); until then r = 1 and d = 0, which is batch normalisation.

    :param num_features: F.
    :param eps: added to variances.
    :param momentum: how far the running statistics move per forward pass.
    :param warmup: forward passes in training mode without corrections.
    :param r_max: limit of r, at least 1.
    :param d_max: limit of d, at least 0.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-3,
        momentum: float = 0.01,
        *,
        warmup: int = 100_000,
        r_max: float = 3.0,
        d_max: float = 5.0,
    ) -> None:
        if warmup < 0 or r_max < 1.0 or d_max < 0.0:
            raise InvalidArgument(f"needs warmup >= 0, r_max >= 1, d_max >= 0, got {warmup}, {r_max} and {d_max}")
        super().__init__(num_features, eps, momentum)
        self.warmup, self.r_max, self.d_max = warmup, r_max, d_max

    def forward(self, x: Tensor) -> Tensor:
        """(B, F) -> (B, F)."""
        if x.dtype is torch.bfloat16 or x.dtype is torch.float16:
            x = x.float()  # the statistics need the digits
        count = self.num_batches_tracked
        if not self.training or (count.is_cpu and count < self.warmup):  # of a GPU, asking would mean to wait for it
            return super().forward(x)
        with torch.no_grad():
            var, mean = torch.var_mean(x, dim=0, correction=0)
            std, running_std = (var + self.eps).sqrt(), (self.running_var + self.eps).sqrt()
            warm = count >= self.warmup
            r = torch.where(warm, (std / running_std).clamp(1.0 / self.r_max, self.r_max), 1.0)
            d = torch.where(warm, ((mean - self.running_mean) / running_std).clamp(-self.d_max, self.d_max), 0.0)
        count += 1
        scale, shift = self.weight * r, self.weight * d + self.bias  # γ (n r + d) + β with n = (x - μ) / σ
        return F.batch_norm(x, self.running_mean, self.running_var, scale, shift, True, self.momentum or 0.0, self.eps)


class ActorProb(BaseActor):
    """An actor that gives mean and standard deviation of a normal distribution.

    :param preprocess_net: maps (obs, state) to (features, state), or obs to features.
    :param action_shape: A.
    :param hidden_sizes: hidden layers between the features and each output.
    :param max_action: the mean lies in [-max_action, max_action]; without effect when ``unbounded``.
    :param unbounded: no tanh on the mean.
    :param conditioned_sigma: the standard deviation is computed from the observation; False: it is a free parameter.
    :param preprocess_net_output_dim: number of features, when ``preprocess_net`` has no ``output_dim``.
    :param obs_key: for observations with keys: the entry, or the entries to join, that the actor sees.
    """

    def __init__(
        self,
        preprocess_net: nn.Module,
        action_shape: TActionShape,
        hidden_sizes: Sequence[int] = (),
        max_action: float = 1.0,
        device: DeviceLike = "cpu",
        unbounded: bool = False,
        conditioned_sigma: bool = False,
        preprocess_net_output_dim: int | None = None,
        *,
        obs_key: ObsKey = None,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess_net
        self.output_dim = size_of(action_shape)
        features = get_output_dim(preprocess_net, preprocess_net_output_dim)
        self.mu = MLP(features, self.output_dim, hidden_sizes, device=device)
        self._c_sigma = conditioned_sigma
        if conditioned_sigma:
            self.sigma = MLP(features, self.output_dim, hidden_sizes, device=device)
        else:
            self.sigma_param = nn.Parameter(torch.zeros(self.output_dim, 1))
        self.max_action = _max_action(max_action, unbounded)
        self._unbounded = unbounded
        self.obs_key = obs_key
        self._takes_state = takes_state(preprocess_net)
        self.place(device)

    def get_preprocess_net(self) -> nn.Module:
        """The network that turns observations into features."""
        return self.preprocess

    def get_output_dim(self) -> int:
        """A."""
        return self.output_dim

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> tuple[tuple[Tensor, Tensor], Any]:
        """(B, O) -> mean (B, A) and standard deviation (B, A), and the preprocess network's next state."""
        if self.obs_key is not None:
            obs = pick_obs(obs, self.obs_key, self.device)
        result = self.preprocess(obs, state) if self._takes_state else self.preprocess(obs)
        features, state = output_and_state(result, state)
        mu = self.mu(features)
        if not self._unbounded:
            mu = self.max_action * torch.tanh(mu)
        if self._c_sigma:
            sigma = self.sigma(features).clamp(SIGMA_MIN, SIGMA_MAX).exp()
        else:
            sigma = self.sigma_param.flatten().exp().expand_as(mu)
        return (mu, sigma), state


class RecurrentActorProb(DeviceModule):
    """An LSTM that gives mean and standard deviation of a normal distribution.

    :param layer_num: number of LSTM layers.
    :param state_shape: O.
    :param action_shape: A.
    :param hidden_layer_size: H.
    :param max_action: the mean lies in [-max_action, max_action]; without effect when ``unbounded``.
    :param unbounded: no tanh on the mean.
    :param conditioned_sigma: the standard deviation is computed from the observation; False: it is a free parameter.
    """

    def __init__(
        self,
        layer_num: int,
        state_shape: Sequence[int] | int,
        action_shape: TActionShape,
        hidden_layer_size: int = 128,
        max_action: float = 1.0,
        device: DeviceLike = "cpu",
        unbounded: bool = False,
        conditioned_sigma: bool = False,
    ) -> None:
        super().__init__()
        self.nn = nn.LSTM(size_of(state_shape), hidden_layer_size, num_layers=layer_num, batch_first=True)
        self.output_dim = size_of(action_shape)
        self.mu = nn.Linear(hidden_layer_size, self.output_dim)
        self._c_sigma = conditioned_sigma
        if conditioned_sigma:
            self.sigma = nn.Linear(hidden_layer_size, self.output_dim)
        else:
            self.sigma_param = nn.Parameter(torch.zeros(self.output_dim, 1))
        self.max_action = _max_action(max_action, unbounded)
        self._unbounded = unbounded
        self.place(device)

    @property
    def output_layers(self) -> list[nn.Module]:
        """What mixed precision leaves in float32."""
        return [self.mu, self.sigma] if self._c_sigma else [self.mu]

    def forward(self, obs: ArrayLike, state: Any = None, info: Any = None) -> tuple[tuple[Tensor, Tensor], State]:
        """(B, O) or (B, T, O) -> mean and standard deviation (B, A) at the last step, and the state after it.

        :param state: ``hidden`` and ``cell``, each (B, layers, H), in a dict or Batch; None: zeros.
        """
        x = as_input(obs, self.device, self.dtype)
        if x.dim() == 2:
            x = x.unsqueeze(1)
        out, (hidden, cell) = self.nn(x, lstm_state(state, self.device))
        features = out[:, -1]
        mu = self.mu(features)
        if not self._unbounded:
            mu = self.max_action * torch.tanh(mu)
        if self._c_sigma:
            sigma = self.sigma(features).clamp(SIGMA_MIN, SIGMA_MAX).exp()
        else:
            sigma = self.sigma_param.flatten().exp().expand_as(mu)
        return (mu, sigma), stored_state(hidden, cell)


class RecurrentCritic(DeviceModule):
    """An LSTM over observations whose last output, joined with an action, gives Q(s, a); or V(s) without one.

    :param layer_num: number of LSTM layers.
    :param state_shape: O.
    :param action_shape: A; [0] for a critic of states.
    :param hidden_layer_size: H.
    """

    def __init__(
        self,
        layer_num: int,
        state_shape: Sequence[int] | int,
        action_shape: TActionShape = (0,),
        device: DeviceLike = "cpu",
        hidden_layer_size: int = 128,
    ) -> None:
        super().__init__()
        self.nn = nn.LSTM(size_of(state_shape), hidden_layer_size, num_layers=layer_num, batch_first=True)
        self.fc2 = nn.Linear(hidden_layer_size + size_of(action_shape), 1)
        self.output_dim = 1
        self.place(device)

    @property
    def output_layers(self) -> list[nn.Module]:
        """What mixed precision leaves in float32."""
        return [self.fc2]

    def forward(self, obs: ArrayLike, act: ArrayLike | None = None, info: Any = None) -> Tensor:
        """(B, T, O), (B, A) -> (B, 1)."""
        x = as_input(obs, self.device, self.dtype)
        if x.dim() != 3:
            raise InvalidArgument(
                f"observations must have shape (batch, time, features), got {tuple(x.shape)}: "
                "sample stacked frames (stack_num > 1)"
            )
        features = self.nn(x)[0][:, -1]
        if act is not None:
            features = torch.cat([features, flat(as_input(act, self.device, self.dtype))], dim=1)
        return self.fc2(features)  # type: ignore[no-any-return]


class Perturbation(DeviceModule):
    """BCQ's perturbation of an action by at most ``phi * max_action`` (Fujimoto et al., arXiv:1812.02900).

    :param preprocess_net: maps the joined state and action to an output of the action's size.
    :param max_action: the result lies in [-max_action, max_action].
    :param phi: largest perturbation, as a share of ``max_action``.
    """

    def __init__(
        self, preprocess_net: nn.Module, max_action: float, device: DeviceLike = "cpu", phi: float = 0.05
    ) -> None:
        super().__init__()
        self.preprocess_net = preprocess_net
        self.max_action = max_action
        self.phi = phi
        self.place(device)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """(B, O), (B, A) -> (B, A)."""
        logits = output_and_state(self.preprocess_net(torch.cat([state, action], dim=-1)), None)[0]
        noise = self.phi * self.max_action * torch.tanh(logits)
        return (noise + action).clamp(-self.max_action, self.max_action)


class VAE(DeviceModule):
    """BCQ's generative model of actions given states (Fujimoto et al., arXiv:1812.02900).

    :param encoder: (B, O + A) -> (B, hidden_dim).
    :param decoder: (B, O + latent_dim) -> (B, A).
    :param hidden_dim: size of the encoder's output.
    :param latent_dim: size of the latent vector.
    :param max_action: actions lie in [-max_action, max_action].
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        hidden_dim: int,
        latent_dim: int,
        max_action: float,
        device: DeviceLike = "cpu",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.mean = nn.Linear(hidden_dim, latent_dim)
        self.log_std = nn.Linear(hidden_dim, latent_dim)
        self.decoder = decoder
        self.max_action = max_action
        self.latent_dim = latent_dim
        self.place(device)

    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, O), (B, A) -> reconstructed action (B, A), mean and standard deviation of the latent (B, latent_dim)."""
        hidden = self.encoder(torch.cat([state, action], dim=-1))
        mean = self.mean(hidden)
        std = self.log_std(hidden).clamp(-4, 15).exp()  # for numerical stability
        return self.decode(state, mean + std * torch.randn_like(std)), mean, std

    def decode(self, state: Tensor, latent_z: Tensor | None = None) -> Tensor:
        """(B, O) -> (B, A).

        :param latent_z: (B, latent_dim); None: standard normal, clipped to [-0.5, 0.5].
        """
        if latent_z is None:
            shape = (*state.shape[:-1], self.latent_dim)
            latent_z = torch.randn(shape, device=state.device).clamp(-0.5, 0.5)
        decoded = self.decoder(torch.cat([state, latent_z], dim=-1))
        return self.max_action * torch.tanh(decoded)


def _max_action(max_action: float, unbounded: bool) -> float:
    if unbounded and not torch.isclose(torch.tensor(max_action), torch.tensor(1.0)):
        warnings.warn("max_action has no effect when unbounded is True", stacklevel=3)
        return 1.0
    return max_action
