"""Settings that are known to work, by algorithm and environment: those of the scripts in ``examples/``."""

from typing import Any

Settings = dict[str, Any]

_PENDULUM: Settings = {
    "hidden_sizes": [64, 64],
    "batch_size": 128,
    "buffer_size": 20_000,
    "train_envs": 1,
    "max_epoch": 20,
    "step_per_epoch": 1_000,
    "random_steps": 400,
    "learning_starts": 400,
    "stop_reward": -180.0,
}
"""Of examples/actor_critic_pendulum.py."""
_CARTPOLE: Settings = {
    "hidden_sizes": [128, 128],
    "batch_size": 64,
    "buffer_size": 50_000,
    "train_envs": 4,
    "max_epoch": 25,
    "step_per_epoch": 2_000,
    "learning_starts": 1_000,
    "update_per_step": 0.5,
    "max_grad_norm": 10.0,
    "stop_reward": 475.0,
}
"""Of examples/value_based_cartpole.py and examples/discrete_sac_cartpole.py."""
_VALUES: Settings = {
    **_CARTPOLE,
    "lr": 2.3e-3,
    "tau": 0.02,
    "epsilon": 1.0,
    "epsilon_final": 0.04,
    "epsilon_decay_steps": 4_000,
}
_MUJOCO: Settings = {
    "hidden_sizes": [256, 256],
    "batch_size": 256,
    "buffer_size": 1_000_000,
    "train_envs": 1,
    "max_epoch": 200,
    "step_per_epoch": 5_000,
    "checkpoint_every": 50_000,
}
"""Of examples/ddpg_mujoco.py and examples/actor_critic_mujoco.py."""
_MUJOCO_TASKS = (
    *("Ant-v5", "HalfCheetah-v5", "Hopper-v5", "Humanoid-v5", "Swimmer-v5", "Walker2d-v5"),
    *("InvertedPendulum-v5", "InvertedDoublePendulum-v5", "Reacher-v5"),
)


def _mujoco(random_steps: int, **settings: Any) -> dict[str, Settings]:
    first = {"random_steps": random_steps, "learning_starts": random_steps}
    return {task: {**_MUJOCO, **first, **settings} for task in _MUJOCO_TASKS}


_RETURNS = {"v_min": 0.0, "v_max": 100.0}  # discounted by 0.99, CartPole's are between these

PRESETS: dict[str, dict[str, Settings]] = {
    "ddpg": {
        "Pendulum-v1": {
            **_PENDULUM,
            "train_envs": 4,
            "max_epoch": 10,
            "step_per_epoch": 2_000,
            "random_steps": 0,
            "learning_starts": 0,
        },
        **_mujoco(25_000),
    },
    "td3": {"Pendulum-v1": _PENDULUM, **_mujoco(25_000, actor_lr=3e-4, critic_lr=3e-4)},
    "sac": {"Pendulum-v1": _PENDULUM, **_mujoco(10_000, alpha=0.2)},
    "redq": {"Pendulum-v1": {**_PENDULUM, "update_per_step": 5.0, "ensemble_size": 5, "actor_delay": 5}},
    "tqc": {"Pendulum-v1": {**_PENDULUM, "ensemble_size": 3}},
    "crossq": {"Pendulum-v1": _PENDULUM, **_mujoco(5_000, critic_hidden_sizes=[512, 512])},
    "droq": {"Pendulum-v1": {**_PENDULUM, "update_per_step": 5.0, "actor_delay": 5}},
    "discrete_sac": {
        "CartPole-v1": {**_CARTPOLE, "critic_lr": 2.3e-3, "tau": 0.02, "alpha": 1.0, "random_steps": 1_000}
    },
    "dqn": {
        "CartPole-v1": _VALUES,
        "LunarLander-v3": {
            "hidden_sizes": [128, 128],
            "dueling": True,
            "batch_size": 128,
            "buffer_size": 100_000,
            "train_envs": 4,
            "max_epoch": 40,
            "step_per_epoch": 5_000,
            "episode_per_test": 20,
            "update_per_step": 0.5,
            "learning_starts": 2_000,
            "lr": 6e-4,
            "tau": None,
            "target_update_freq": 250,
            "max_grad_norm": 10.0,
            "epsilon_final": 0.05,
            "epsilon_decay_steps": 25_000,
            "stop_reward": 200.0,
        },
    },
    "c51": {"CartPole-v1": {**_VALUES, **_RETURNS}},
    "rainbow": {"CartPole-v1": {**_VALUES, **_RETURNS, "epsilon": 0.0, "epsilon_final": 0.0}},
    "qrdqn": {"CartPole-v1": {**_VALUES, "num_quantiles": 20}},
    "iqn": {"CartPole-v1": _VALUES},
    "fqf": {"CartPole-v1": _VALUES},
}
