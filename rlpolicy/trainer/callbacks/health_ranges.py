"""What is healthy, and what to say about what is not; see HealthMonitor for reasons and sources."""

import math

RANGES: dict[str, tuple[float, float]] = {
    "update_ratio": (6e-8, 0.3),
    "grad_jump": (0.0, 1_000.0),
    "overestimation": (-math.inf, 1.2),
    "return_size": (1e-4, 1e4),
    "saturation": (0.0, 0.98),
    "dormant": (0.0, 0.6),
    "target_age": (0.0, 2.0),
    "target_lag": (0.0, 1.0),
    "replay_ratio": (1e-3, 32.0),
    "draws": (1.0, math.inf),
    "replay_kept": (0.75, 1.33),
}
"""Healthy from the first to the second number, both included."""
PATIENCE = {"update_ratio": 1, "return_size": 2, "target_age": 1, "replay_ratio": 1, "draws": 1}
"""So many samples in a row must be outside; three for the others, which may stray for a moment."""

TOO_HIGH = {
    "update_ratio": (
        "one update moved {net} by {value:.0%} of its weights, usual is 0.1 %: the learning rate is too high. Lower it "
        "by a factor of 10, or limit gradients with max_grad_norm."
    ),
    "grad_jump": (
        "the gradient of {net} is {value:.0f} times as large as it used to be: training diverges. Lower the learning "
        "rate, scale the rewards, or set max_grad_norm."
    ),
    "overestimation": (
        "the critic overestimates: it says {q:.4g} where {observed:.4g} was observed. Take the smaller of two critics "
        "(TD3, SAC, double DQN), a lower learning rate, or a slower target (tau)."
    ),
    "return_size": (
        "returns are of size {value:.2g}, and networks begin near 0: they hardly learn such numbers. Scale rewards "
        "down, with reward_shaper of the collector or a wrapper, so that returns are between 1 and 1000."
    ),
    "saturation": (
        "{value:.0%} of the policy's actions are at the limits of the action space, where no gradient gets through: "
        "the actor is saturated. Lower its learning rate, check the action bounds (scaled twice?), normalise "
        "observations, or start with smaller last weights."
    ),
    "dormant": (
        "{value:.0%} of the hidden units of {net} are dormant: they put out nothing, whatever it sees. Lower the "
        "learning rate or the replay ratio, add LayerNorm, or use another activation."
    ),
    "target_age": (
        "the target network {net} is stale: it has not moved while its network has. Check tau, target_update_freq, and "
        "that sync_weight is called."
    ),
    "target_lag": (
        "the target network {net} is {value:.1f} times the network's own size away from it: it cannot follow. Raise "
        "tau, lower target_update_freq, or lower the learning rate."
    ),
    "replay_ratio": (
        "{value:.3g} gradient steps per environment step: networks fit their first data too well and learn nothing "
        "later. Lower update_per_step, or use an algorithm made for it (REDQ, DroQ)."
    ),
    "replay_kept": (
        "{value:.2f} times as many gradient steps per environment step as was asked for: collecting does not keep up."
    ),
}
"""By figure."""
TOO_LOW = {
    "update_ratio": (
        "{net} does not learn: updates move it by {value:.1g} of its weights. Is its learning rate 0 or tiny, and does "
        "its optimiser have the parameters of this very network (not of a copy)?"
    ),
    "return_size": (
        "returns are of size {value:.2g}, less than the noise of new networks: scale rewards up, with reward_shaper of "
        "the collector or a wrapper, so that returns are between 1 and 1000."
    ),
    "replay_ratio": (
        "{value:.2g} gradient steps per environment step: hardly anything is learned from the data. Raise "
        "update_per_step."
    ),
    "draws": (
        "each transition is drawn {value:.2g} times for a minibatch: most are never learned from. Raise "
        "update_per_step or batch_size."
    ),
    "replay_kept": (
        "{value:.2f} times as many gradient steps per environment step as was asked for: learning does not keep up, or "
        "updates are skipped."
    ),
}
"""By figure."""
ELSE = "it is {value:.3g}, outside of the range that it was given."
