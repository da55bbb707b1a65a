"""Random episodes of a team, and what QMIX, VDN and independent learners make of them, worked out step by step."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.optim import SGD

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.policy.multiagent.mixed_q import MixedQPolicy
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.recurrent import Memory, MemoryNet

AGENTS, ACTIONS, OBS, STATE = 3, 4, 5, 6
GAMMA, LR = 0.9, 0.05
DEFAULTS = {"target_update_freq": 1_000_000, "state_shape": STATE}
Episode = list[dict[str, Any]]


def episode(rng: np.random.Generator, length: int, ends: str, early: str | None) -> Episode:
    """Steps of an episode.

    :param ends: "terminated" or "truncated".
    :param early: what happens to agent 1 after the second step: "terminated", "truncated", or None: nothing.
    """
    steps: Episode = []
    seen = [_observation(rng) for _ in range(length + 1)]
    for t in range(length + 1):
        if early is not None and t >= 2:
            seen[t]["alive"][1] = False
    for t in range(length):
        last = t == length - 1
        gone = np.zeros(AGENTS, bool)
        if early == "terminated" and t >= 1:
            gone[1] = True
        if last and ends == "terminated":
            gone |= seen[t]["alive"]
        act = np.array([rng.choice(np.flatnonzero(row)) for row in seen[t]["mask"]])
        steps.append(
            {
                "obs": seen[t],
                "act": act,
                "rew": rng.standard_normal(AGENTS),
                "terminated": last and ends == "terminated",
                "truncated": last and ends == "truncated",
                "obs_next": seen[t + 1],
                "info": {"agent_terminated": gone},
            }
        )
    return steps


def _observation(rng: np.random.Generator) -> dict[str, Any]:
    mask = rng.random((AGENTS, ACTIONS)) < 0.6
    mask[np.arange(AGENTS), rng.integers(ACTIONS, size=AGENTS)] = True
    return {
        "obs": rng.standard_normal((AGENTS, OBS)),
        "mask": mask,
        "alive": np.ones(AGENTS, bool),
        "state": rng.standard_normal(STATE),
    }


def stored(episodes: list[Episode]) -> ReplayBuffer:
    buffer = ReplayBuffer(100, seed=0)
    for steps in episodes:
        for step in steps:
            buffer.add(Batch(step))
    return buffer


def make(mixer: Any, *, seed: int = 0, recurrent: bool = False, share: bool = True, **options: Any) -> MixedQPolicy:
    """A small team in float64, with plain gradient descent."""
    torch.manual_seed(seed)
    nets: list[Any] = []
    for _ in range(1 if share else AGENTS):
        n_in = OBS + AGENTS
        if recurrent:
            nets.append(MemoryNet(Memory(Net(n_in, hidden_sizes=[6]), "gru", 5), Net(5, ACTIONS)).double())
        else:
            nets.append(Net(n_in, ACTIONS, hidden_sizes=[7]).double())
    if recurrent:
        options = {"sequence_length": 10, **options}
    policy = MixedQPolicy(
        model=nets[0] if share else nets,
        share_parameters=share,
        optim=SGD([p for net in nets for p in net.parameters()], lr=LR),
        action_space=spaces.MultiDiscrete([ACTIONS] * AGENTS),
        mixer=mixer,
        append_agent_id=True,
        mixing_embed_dim=3,
        mixing_hyper_hidden=None,
        discount_factor=GAMMA,
        **{**DEFAULTS, "aggregate_rewards": None if mixer == "iql" else "sum", **options},
    ).double()
    with torch.no_grad():  # the lagging copy is another one than the network
        for p in policy.model_old.parameters():
            p.add_(0.3 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(1)))
    policy._iter = 1  # so that it stays another one
    return policy


def expected_update(policy: MixedQPolicy, episodes: list[Episode], n_step: int) -> tuple[float, dict[str, Tensor]]:
    """Loss of an update with all steps, and the parameters after it, by loops over steps and agents."""
    params = {name: p.detach().clone().requires_grad_() for name, p in policy.model.named_parameters()}
    old = {name: p.detach().clone() for name, p in policy.model_old.named_parameters()}
    losses, count = torch.zeros((), dtype=torch.float64), 0
    own = policy.model.mixer.__class__.__name__ == "NoMixer"
    for steps in episodes:
        now = agent_values(policy, params, [step["obs"] for step in steps])
        seen = [*(step["obs"] for step in steps), steps[-1]["obs_next"]]
        later, later_old = agent_values(policy, params, seen), agent_values(policy, old, seen)
        for t, step in enumerate(steps):
            taken = [now[t][a, step["act"][a]] for a in range(AGENTS)]
            alive = step["obs"]["alive"]
            if own:
                for a in np.flatnonzero(alive):
                    y = _own_target(steps, t, a, n_step, later, later_old)
                    losses, count = losses + (y - taken[a]) ** 2, count + 1
            else:
                y = _team_target(policy, old, steps, t, n_step, later, later_old)
                q = mix(
                    params, [taken[a] if alive[a] else torch.zeros_like(taken[a]) for a in range(AGENTS)], step["obs"]
                )
                losses, count = losses + (y - q) ** 2, count + 1
    loss = losses / count
    grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
    after = {
        name: (p if grad is None else p - LR * grad).detach()
        for (name, p), grad in zip(params.items(), grads, strict=True)
    }
    return loss.item(), after


def _own_target(steps: Episode, t: int, a: int, n_step: int, later: Any, later_old: Any) -> Tensor:
    y, factor = torch.zeros((), dtype=torch.float64), 1.0
    for k in range(t, len(steps)):
        y = y + factor * steps[k]["rew"][a]
        factor *= GAMMA
        gone = steps[k]["info"]["agent_terminated"][a] or steps[k]["terminated"]
        cut = k + 1 == len(steps) or not steps[k + 1]["obs"]["alive"][a] or k + 1 == t + n_step
        if gone:
            return y
        if cut:
            return y + factor * later_old[k + 1][a, _best(later, steps[k], k, a)].detach()
    raise AssertionError("an episode ends")


def _team_target(policy: Any, old: Any, steps: Episode, t: int, n_step: int, later: Any, later_old: Any) -> Tensor:
    y, factor = torch.zeros((), dtype=torch.float64), 1.0
    for k in range(t, len(steps)):
        step = steps[k]
        y = y + factor * step["rew"][step["obs"]["alive"]].sum()
        factor *= GAMMA
        if step["terminated"]:
            return y
        if k + 1 == len(steps) or k + 1 == t + n_step:
            zero = torch.zeros((), dtype=torch.float64)
            counts = step["obs"]["alive"] & ~step["info"]["agent_terminated"]
            q = [later_old[k + 1][a, _best(later, step, k, a)] if counts[a] else zero for a in range(AGENTS)]
            return y + factor * mix(old, q, step["obs_next"]).detach()
    raise AssertionError("an episode ends")


def _best(later: Any, step: dict[str, Any], k: int, a: int) -> int:
    allowed = np.flatnonzero(step["obs_next"]["mask"][a])
    return int(allowed[np.argmax([later[k + 1][a, u].item() for u in allowed])])


def agent_values(policy: MixedQPolicy, params: dict[str, Tensor], seen: list[dict[str, Any]]) -> list[Tensor]:
    """Values of all agents and actions, (AGENTS, ACTIONS), at each step of an episode."""
    values = []
    nets = len(policy.model.agents.nets)
    memories = [torch.zeros(5, dtype=torch.float64) for _ in range(AGENTS)]
    for observation in seen:
        rows = []
        for a in range(AGENTS):
            p = f"agents.nets.{a if nets > 1 else 0}."
            x = torch.cat((torch.as_tensor(observation["obs"][a]), torch.eye(AGENTS, dtype=torch.float64)[a]))
            if not policy.is_recurrent:
                hidden = torch.relu(params[p + "model.model.0.weight"] @ x + params[p + "model.model.0.bias"])
                rows.append(params[p + "model.model.2.weight"] @ hidden + params[p + "model.model.2.bias"])
                continue
            m, c = p + "memory.preprocess.model.model.0.", p + "memory.core."
            x = torch.relu(params[m + "weight"] @ x + params[m + "bias"])
            gates_x = (params[c + "weight_ih_l0"] @ x + params[c + "bias_ih_l0"]).chunk(3)
            gates_h = (params[c + "weight_hh_l0"] @ memories[a] + params[c + "bias_hh_l0"]).chunk(3)
            r, z = torch.sigmoid(gates_x[0] + gates_h[0]), torch.sigmoid(gates_x[1] + gates_h[1])
            new = torch.tanh(gates_x[2] + r * gates_h[2])
            memories[a] = (1 - z) * new + z * memories[a]
            h = p + "head.model.model.0."
            rows.append(params[h + "weight"] @ memories[a] + params[h + "bias"])
        values.append(torch.stack(rows))
    return values


def mix(params: dict[str, Tensor], q: list[Tensor], observation: dict[str, Any]) -> Tensor:
    """Q_tot of the paper, figure 2 (c); a sum where there are no hypernetworks."""
    if "mixer.hyper_w1.weight" not in params:
        return torch.stack(q).sum()
    s = torch.as_tensor(observation["state"])

    def linear(name: str, x: Tensor) -> Tensor:
        return params[f"mixer.{name}.weight"] @ x + params[f"mixer.{name}.bias"]

    w1, w2 = linear("hyper_w1", s).abs().view(AGENTS, 3), linear("hyper_w2", s).abs()
    total = linear("value.2", torch.relu(linear("value.0", s)))[0]
    b1 = linear("hyper_b1", s)
    for e in range(3):
        inner = sum(q[a] * w1[a, e] for a in range(AGENTS)) + b1[e]
        total = total + w2[e] * (inner if inner > 0 else torch.exp(inner) - 1)
    return total
