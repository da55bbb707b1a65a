"""Networks for discrete actions."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlpolicy.utils.net.common import MLP, BaseActor, get_output_dim
from rlpolicy.utils.net.inputs import (
    ArrayLike,
    DeviceLike,
    DeviceModule,
    ObsKey,
    State,
    TActionShape,
    output_and_state,
    pick_obs,
    size_of,
    takes_state,
)


class Actor(BaseActor):
    """An actor that gives the probabilities of actions, or their logits, or their Q values.

    :param preprocess_net: maps (obs, state) to (features, state), or obs to features.
    :param action_shape: A, the number of actions.
    :param hidden_sizes: hidden layers between the features and the output.
    :param softmax_output: True: probabilities; False: the last layer's output as it is.
    :param preprocess_net_output_dim: number of features, when ``preprocess_net`` has no ``output_dim``.
    :param obs_key: for observations with keys: the entry, or the entries to join, that the actor sees.
    """

    def __init__(
        self,
        preprocess_net: nn.Module,
        action_shape: TActionShape,
        hidden_sizes: Sequence[int] = (),
        softmax_output: bool = True,
        preprocess_net_output_dim: int | None = None,
        device: DeviceLike = "cpu",
        *,
        obs_key: ObsKey = None,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess_net
        self.output_dim = size_of(action_shape)
        features = get_output_dim(preprocess_net, preprocess_net_output_dim)
        self.last = MLP(features, self.output_dim, hidden_sizes, device=device)
        self.softmax_output = softmax_output
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
        """(B, O) -> (B, A), and the preprocess network's next state."""
        if self.obs_key is not None:
            obs = pick_obs(obs, self.obs_key, self.device)
        result = self.preprocess(obs, state) if self._takes_state else self.preprocess(obs)
        features, state = output_and_state(result, state)
        logits = self.last(features)
        return (F.softmax(logits, dim=-1) if self.softmax_output else logits), state


class Critic(DeviceModule):
    """A critic V(s), or Q(s, .) for all actions.

    :param preprocess_net: maps (obs, state) to (features, state), or obs to features.
    :param hidden_sizes: hidden layers between the features and the output.
    :param last_size: number of outputs: 1 for V, the number of actions for Q.
    :param preprocess_net_output_dim: number of features, when ``preprocess_net`` has no ``output_dim``.
    :param obs_key: for observations with keys: the entry, or the entries to join, that the critic sees.
    """

    def __init__(
        self,
        preprocess_net: nn.Module,
        hidden_sizes: Sequence[int] = (),
        last_size: int = 1,
        preprocess_net_output_dim: int | None = None,
        device: DeviceLike = "cpu",
        *,
        obs_key: ObsKey = None,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess_net
        self.output_dim = last_size
        features = get_output_dim(preprocess_net, preprocess_net_output_dim)
        self.last = MLP(features, last_size, hidden_sizes, device=device)
        self.obs_key = obs_key
        self._takes_state = takes_state(preprocess_net)
        self.place(device)

    def features(self, obs: Any, state: Any = None) -> tuple[Tensor, Any]:
        """The preprocess network's output and next state."""
        if self.obs_key is not None:
            obs = pick_obs(obs, self.obs_key, self.device)
        result = self.preprocess(obs, state) if self._takes_state else self.preprocess(obs)
        return output_and_state(result, state)

    def forward(self, obs: Any, state: Any = None, **kwargs: Any) -> Any:
        """(B, O) -> (B, last_size)."""
        return self.last(self.features(obs, state)[0])


class CosineEmbeddingNetwork(nn.Module):
    """Embeds quantile fractions by cosines: relu(sum_i cos(pi i tau) w_ij + b_j), i = 1..n (IQN, eq. 4).

    :param num_cosines: n (64 in the paper, where i runs from 0).
    :param embedding_dim: size of the embedding.
    """

    def __init__(self, num_cosines: int, embedding_dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(num_cosines, embedding_dim), nn.ReLU())
        self.num_cosines = num_cosines
        self.embedding_dim = embedding_dim

    def forward(self, taus: Tensor) -> Tensor:
        """(B, N) -> (B, N, embedding_dim)."""
        i_pi = torch.pi * torch.arange(1, self.num_cosines + 1, dtype=taus.dtype, device=taus.device)
        return self.net(torch.cos(taus.unsqueeze(-1) * i_pi))  # type: ignore[no-any-return]


class ImplicitQuantileNetwork(Critic):
    """Quantiles of the return at random fractions (Dabney et al., arXiv:1806.06923).

    :param num_cosines: number of cosines of the fractions' embedding.

    The other arguments are those of :class:`Critic`, with ``action_shape`` for its ``last_size``.
    """

    midpoints = False
    """Ask at the midpoints of equal parts of [0, 1] instead of at random, so that equal inputs get equal outputs."""

    def __init__(
        self,
        preprocess_net: nn.Module,
        action_shape: TActionShape,
        hidden_sizes: Sequence[int] = (),
        num_cosines: int = 64,
        preprocess_net_output_dim: int | None = None,
        device: DeviceLike = "cpu",
        *,
        obs_key: ObsKey = None,
    ) -> None:
        n_actions = size_of(action_shape)
        super().__init__(preprocess_net, hidden_sizes, n_actions, preprocess_net_output_dim, device, obs_key=obs_key)
        self.input_dim = get_output_dim(preprocess_net, preprocess_net_output_dim)
        self.embed_model = CosineEmbeddingNetwork(num_cosines, self.input_dim)
        self.place(device)

    def quantiles(self, features: Tensor, taus: Tensor) -> Tensor:
        """(B, F) and fractions (B, N) -> quantiles (B, A, N)."""
        joined = features.unsqueeze(1) * self.embed_model(taus)  # (B, N, F)
        values: Tensor = self.last(joined.flatten(0, 1))  # (B N, A)
        return values.view(*taus.shape, -1).transpose(1, 2)

    def forward(self, obs: Any, sample_size: int, state: Any = None, **kwargs: Any) -> tuple[Any, Any]:  # type: ignore[override]
        """(B, O) -> ((quantiles (B, A, sample_size), fractions (B, sample_size)), next state)."""
        features, state = self.features(obs, state)
        taus = self._fractions(features, sample_size)
        return (self.quantiles(features, taus), taus), state

    def _fractions(self, features: Tensor, count: int) -> Tensor:
        if self.midpoints:
            even = (torch.arange(count, dtype=features.dtype, device=features.device) + 0.5) / count
            return even.expand(features.shape[0], count)
        return torch.rand(features.shape[0], count, dtype=features.dtype, device=features.device)


class FractionProposalNetwork(nn.Module):
    """Proposes quantile fractions for given features (FQF: Yang et al., arXiv:1911.02140).

    :param num_fractions: N.
    :param embedding_dim: F, number of features.
    """

    def __init__(self, num_fractions: int, embedding_dim: int) -> None:
        super().__init__()
        self.net = nn.Linear(embedding_dim, num_fractions)
        nn.init.xavier_uniform_(self.net.weight, gain=0.01)  # starts near equal fractions
        nn.init.constant_(self.net.bias, 0)
        self.num_fractions = num_fractions
        self.embedding_dim = embedding_dim

    @property
    def output_layers(self) -> list[nn.Module]:
        """What mixed precision leaves in float32."""
        return [self.net]

    def forward(self, obs_embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, F) -> fractions (B, N + 1) from 0 to 1, their midpoints (B, N) without gradient, entropies (B,)."""
        log_probs = F.log_softmax(self.net(obs_embeddings), dim=1)
        probs = log_probs.exp()
        taus = F.pad(probs.cumsum(dim=1), (1, 0))
        tau_hats = (taus[:, :-1] + taus[:, 1:]).detach() / 2.0
        return taus, tau_hats, -(log_probs * probs).sum(dim=1)


class FullQuantileFunction(ImplicitQuantileNetwork):
    """Quantiles of the return at proposed fractions (FQF: Yang et al., arXiv:1911.02140).

    The arguments are those of :class:`ImplicitQuantileNetwork`.
    """

    def forward(  # type: ignore[override]
        self,
        obs: Any,
        propose_model: FractionProposalNetwork,
        fractions: Any = None,
        state: Any = None,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        """(B, O) -> ((quantiles (B, A, N), fractions, quantiles_tau (B, A, N - 1)), next state).

        :param fractions: ``taus``, ``tau_hats`` and ``entropies`` as attributes; None: ask ``propose_model``.
            The returned ones give their entries by key as well.

        ``quantiles`` are at ``tau_hats``; ``quantiles_tau``, at the inner ``taus``, have no gradient and are
        None when not training.
        """
        features, state = self.features(obs, state)
        if fractions is None:
            taus, tau_hats, entropies = propose_model(features.detach())
            fractions = State(taus=taus, tau_hats=tau_hats, entropies=entropies)
        quantiles = self.quantiles(features, fractions.tau_hats)
        quantiles_tau = None
        if self.training:
            with torch.no_grad():
                quantiles_tau = self.quantiles(features, fractions.taus[:, 1:-1])
        return (quantiles, fractions, quantiles_tau), state


class NoisyLinear(nn.Module):
    """A linear layer with factorised Gaussian noise on its weights (Fortunato et al., arXiv:1706.10295).

    :param noisy_std: initial standard deviation, before the division by sqrt(in_features).
    """

    def __init__(self, in_features: int, out_features: int, noisy_std: float = 0.5) -> None:
        super().__init__()
        self.mu_W = nn.Parameter(torch.empty(out_features, in_features))
        self.sigma_W = nn.Parameter(torch.empty(out_features, in_features))
        self.mu_bias = nn.Parameter(torch.empty(out_features))
        self.sigma_bias = nn.Parameter(torch.empty(out_features))
        self.register_buffer("eps_p", torch.empty(in_features))
        self.register_buffer("eps_q", torch.empty(out_features))
        self.in_features = in_features
        self.out_features = out_features
        self.sigma = noisy_std
        self.reset()
        self.sample()

    eps_p: Tensor
    eps_q: Tensor

    def reset(self) -> None:
        """Draw the means anew and set the deviations back."""
        bound = self.in_features**-0.5
        self.mu_W.data.uniform_(-bound, bound)
        self.mu_bias.data.uniform_(-bound, bound)
        self.sigma_W.data.fill_(self.sigma * bound)
        self.sigma_bias.data.fill_(self.sigma * bound)

    def f(self, x: Tensor) -> Tensor:
        """sgn(x) sqrt(|x|) of standard normal numbers of x's shape; the values of x are not used."""
        x = torch.randn(x.size(0), device=x.device)
        return x.sign() * x.abs().sqrt()

    def sample(self) -> None:
        """Draw new noise."""
        self.eps_p.copy_(self.f(self.eps_p))
        self.eps_q.copy_(self.f(self.eps_q))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), with the noise drawn last when training, without noise otherwise."""
        if not self.training:
            return F.linear(x, self.mu_W, self.mu_bias)
        weight = self.mu_W + self.sigma_W * self.eps_q.outer(self.eps_p)
        return F.linear(x, weight, self.mu_bias + self.sigma_bias * self.eps_q)


class IntrinsicCuriosityModule(DeviceModule):
    """Predicts the next features and the action taken; its surprise is a reward (Pathak et al.,
    arXiv:1705.05363).

    :param feature_net: (B, O) -> (B, feature_dim).
    :param feature_dim: number of features.
    :param action_dim: A, the number of actions.
    :param hidden_sizes: hidden layers of the two models.
    """

    def __init__(
        self,
        feature_net: nn.Module,
        feature_dim: int,
        action_dim: int,
        hidden_sizes: Sequence[int] = (),
        device: DeviceLike = "cpu",
    ) -> None:
        super().__init__()
        self.feature_net = feature_net
        self.forward_model = MLP(feature_dim + action_dim, feature_dim, hidden_sizes, device=device)
        self.inverse_model = MLP(2 * feature_dim, action_dim, hidden_sizes, device=device)
        self.feature_dim = feature_dim
        self.action_dim = action_dim
        self.place(device)

    def forward(self, s1: ArrayLike, act: ArrayLike, s2: ArrayLike, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """States, actions (B,) and next states -> half the squared error of the features (B,), action logits (B, A)."""
        phi1 = output_and_state(self.feature_net(s1), None)[0]
        phi2 = output_and_state(self.feature_net(s2), None)[0]
        one_hot = F.one_hot(torch.as_tensor(act, dtype=torch.long, device=phi1.device), self.action_dim)
        phi2_hat = self.forward_model(torch.cat([phi1, one_hot], dim=1))
        mse_loss = 0.5 * F.mse_loss(phi2_hat, phi2, reduction="none").sum(dim=1)
        return mse_loss, self.inverse_model(torch.cat([phi1, phi2], dim=1))
