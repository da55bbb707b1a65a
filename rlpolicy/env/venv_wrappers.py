"""Wrappers of vector environments."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlpolicy.env.adapt import as_vector_env
from rlpolicy.env.utils import Ids, Seeds
from rlpolicy.env.venv_base import BaseVectorEnv

if TYPE_CHECKING:
    from rlpolicy.utils.statistics import RunningMeanStd


class VectorEnvWrapper(BaseVectorEnv):
    """Forwards everything to the vector environment inside; subclasses change what they need.

    :param venv: anything that :func:`~rlpolicy.env.adapt.as_vector_env` takes.
    """

    def __init__(self, venv: Any) -> None:
        self.venv: Any = as_vector_env(venv)

    def __getattr__(self, name: str) -> Any:
        # Only what is not found here or in BaseVectorEnv: workers, env_num, is_async, ready_id, ...
        if name == "venv":  # not yet set, e.g. while unpickling
            raise AttributeError(name)
        return getattr(self.venv, name)

    def __len__(self) -> int:
        return len(self.venv)

    @property
    def stack_dicts(self) -> bool:
        """See :class:`~rlpolicy.env.utils.VectorEnvLike`."""
        return bool(getattr(self.venv, "stack_dicts", False))

    @stack_dicts.setter
    def stack_dicts(self, value: bool) -> None:
        self.venv.stack_dicts = value

    @property
    def reset_rows(self) -> NDArray[np.bool_] | None:  # type: ignore[override]
        """See :class:`~rlpolicy.env.utils.VectorEnvLike`."""
        rows: NDArray[np.bool_] | None = getattr(self.venv, "reset_rows", None)
        return rows

    def _attribute(self, key: str) -> Any:
        return getattr(self.venv, key)

    def get_env_attr(self, key: str, id: Ids | None = None) -> Any:
        """See the vector environment inside."""
        return self.venv.get_env_attr(key, id)

    def set_env_attr(self, key: str, value: Any, id: Ids | None = None) -> None:
        """See the vector environment inside."""
        self.venv.set_env_attr(key, value, id)

    def reset(self, id: Ids | None = None, *, env_id: Ids | None = None, **kwargs: Any) -> Any:
        """See the vector environment inside."""
        return self.venv.reset(env_id if id is None else id, **kwargs)

    def step(self, action: Any, id: Ids | None = None, **how: Any) -> Any:
        """See the vector environment inside."""
        return self.venv.step(action, id, **how)

    def seed(self, seed: Seeds | None = None) -> Any:
        """See the vector environment inside."""
        return self.venv.seed(seed)

    def state_dict(self) -> Any:
        """See the vector environment inside; nothing when that has no state to give."""
        inside = getattr(self.venv, "state_dict", None)
        return {"envs": [None] * len(self)} if inside is None else inside()

    def load_state_dict(self, state: dict[str, Any], actions: Any) -> Any:
        """See the vector environment inside."""
        if not hasattr(self.venv, "load_state_dict"):
            return [f"{type(self.venv).__name__} cannot be restored"] * len(self)
        return self.venv.load_state_dict(state, actions)

    def render(self, **kwargs: Any) -> Any:
        """See the vector environment inside."""
        return self.venv.render(**kwargs)

    def close(self) -> None:
        """See the vector environment inside."""
        self.venv.close()


class VectorEnvNormObs(VectorEnvWrapper):
    """Normalises observations with their running mean and variance: (obs - mean) / sqrt(var + eps), clipped.

    Statistics take in each new observation before it is normalised. For evaluation::

        test_envs = VectorEnvNormObs(test_envs, update_obs_rms=False)
        test_envs.set_obs_rms(train_envs.get_obs_rms())

    :param venv: vector environment with array observations.
    :param update_obs_rms: False leaves the statistics as they are.
    """

    def __init__(self, venv: Any, update_obs_rms: bool = True) -> None:
        super().__init__(venv)
        self.update_obs_rms = update_obs_rms
        # Imported here because it brings torch, which worker processes started with "spawn" would load in vain.
        from rlpolicy.utils.statistics import RunningMeanStd

        self.obs_rms = RunningMeanStd()

    def reset(self, id: Ids | None = None, *, env_id: Ids | None = None, **kwargs: Any) -> Any:
        """As the vector environment inside, observations normalised."""
        obs, infos = super().reset(id, env_id=env_id, **kwargs)
        # A row without its first observation yet holds the last one of the old episode, which has been counted.
        return self._take_in(obs, getattr(self.venv, "placeholder_rows", None)), infos

    def step(self, action: Any, id: Ids | None = None, **how: Any) -> Any:
        """As the vector environment inside, observations normalised."""
        obs, *rest = super().step(action, id, **how)
        return self._take_in(obs, None), *rest

    def _take_in(self, obs: Any, known: NDArray[np.bool_] | None) -> Any:
        if not isinstance(obs, np.ndarray) or obs.dtype == object:
            raise TypeError("VectorEnvNormObs needs array observations of one shape, got dicts or other objects")
        if self.update_obs_rms:
            self.obs_rms.update(obs if known is None else obs[~known])
        normed: Any = self.obs_rms.norm(obs)
        # float32 observations stay float32: half the memory, and the dtype of the observation space
        return normed.astype(obs.dtype, copy=False) if obs.dtype.kind == "f" else normed

    def state_dict(self) -> Any:
        """That of the vector environment inside, and the statistics."""
        rms = self.obs_rms
        return {"inside": super().state_dict(), "obs_rms": {"mean": rms.mean, "var": rms.var, "count": rms.count}}

    def load_state_dict(self, state: dict[str, Any], actions: Any) -> Any:
        """Restore both. What the environments say again cannot be compared, as it is not normalised."""
        rms = state["obs_rms"]
        self.obs_rms.mean, self.obs_rms.var, self.obs_rms.count = rms["mean"], rms["var"], rms["count"]
        replays = super().load_state_dict(state["inside"], actions)
        return [r if isinstance(r, str) else r._replace(obs=None) for r in replays]

    def set_obs_rms(self, obs_rms: "RunningMeanStd") -> None:
        """Use these statistics (shared, not copied)."""
        self.obs_rms = obs_rms

    def get_obs_rms(self) -> "RunningMeanStd":
        """The statistics."""
        return self.obs_rms
