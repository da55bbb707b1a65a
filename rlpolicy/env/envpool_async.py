"""EnvPools that answer for some of their environments at a time, behind the interface of rlpolicy's own."""

from typing import Any

import numpy as np

from rlpolicy.env.envpool import EnvPoolVectorEnv
from rlpolicy.env.gymnasium_vector import LOST, OVER, PENDING, READY, Row, split_info, take_rows
from rlpolicy.env.utils import Ids, Seeds, checked_actions, stack_obs, tag_infos
from rlpolicy.utils.errors import InvalidArgument


class AsyncEnvPoolVectorEnv(EnvPoolVectorEnv):
    """Makes an EnvPool with a ``batch_size`` below ``num_envs`` behave like a vector environment with ``wait_num``::

        envs = envpool.make_gymnasium("Pong-v5", num_envs=32, batch_size=16, seed=0)
        collector = AsyncCollector(policy, envs, VectorReplayBuffer(100_000, 32))

    ``step`` sends actions and returns what the first ``batch_size`` environments say that are done, whichever they
    are; each info says which by ``env_id``. An environment that has finished is reset by EnvPool in its next step:
    until then its last observation stands for the first one (see ``placeholder_rows`` and ``reset_rows``).

    :param env: made by ``envpool.make_gymnasium``.
    :raises TypeError: made for dm_env or for old gym.
    """

    is_async = True

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.wait_num = int(env.config["batch_size"])
        self._under_way: set[int] = set()
        """Environments that EnvPool has not answered for yet."""
        self._final: dict[int, Row] = {}
        """The last observation and info of environments that have finished."""

    def _require_batch_size(self, batch_size: int, env_num: int) -> None:
        """Any will do."""

    def step(self, action: Any, id: Ids | None = None) -> tuple[Any, ...]:
        """Start a step of the environments given, and return the results of ``wait_num`` that are under way.

        :param action: None: only wait.
        :raises InvalidArgument: one of these has not answered or must be reset first; fewer than ``wait_num`` would be
            under way, for which EnvPool would wait forever.
        """
        ids = [] if action is None else self._ids(id)
        busy = sorted(self._under_way.intersection(ids))
        if busy:
            raise InvalidArgument(f"environments {busy} are still stepping: give actions to those that have answered")
        self._check_ready(ids)
        if len(self._under_way) + len(ids) < self.wait_num:
            raise InvalidArgument(
                f"EnvPool answers for {self.wait_num} environments at a time, "
                f"{len(self._under_way) + len(ids)} would be stepping: give more actions"
            )
        if ids:
            actions = np.asarray(checked_actions(action, ids), dtype=self.action_space[0].dtype)
            self.env.send(actions, np.asarray(ids, dtype=np.int32))
            self._under_way.update(ids)
        return self._received(self.env.recv())

    def _check_ready(self, ids: Any) -> None:
        """One that was reset after its end may be stepped: EnvPool resets it then."""
        super()._check_ready([i for i in ids if self._status[i] != PENDING])

    def _received(self, result: tuple[Any, ...]) -> tuple[Any, ...]:
        obs, rew, terminated, truncated, info = self._five(result)
        ids = np.array(info["env_id"]).tolist()
        self._under_way.difference_update(ids)
        fresh = self._status[ids] == PENDING
        self.reset_rows = fresh if fresh.any() else None
        rew = np.where(fresh, 0.0, np.array(rew, np.float64))
        terminated, truncated = np.array(terminated, np.bool_), np.array(truncated, np.bool_)
        self._status[ids] = np.where(terminated | truncated, OVER, READY)
        infos = split_info(info, len(ids))
        for row in np.flatnonzero(terminated | truncated).tolist():
            self._final[ids[row]] = self._row(obs, row), infos[row]
        rows = take_rows(self.observation_space[0], obs, range(len(ids)), self.stack_dicts)
        return rows, rew, terminated, truncated, tag_infos(ids, infos)

    def _row(self, obs: Any, row: int) -> Any:
        return take_rows(self.observation_space[0], obs, [row], stack_dicts=False)[0]

    def reset(
        self,
        id: Ids | None = None,
        *,
        env_id: Ids | None = None,
        seed: Seeds | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, list[dict[str, Any]]]:
        """Start new episodes in all environments, or in those given that have finished.

        Steps that are under way are waited for when all are reset.

        :raises ValueError: some environments only, which have not finished; options are given.
        """
        ids = self._ids(env_id if id is None else id)
        self._refuse_options(options)
        if seed is not None:
            self._warn_of_seed()
        if len(ids) == self.env_num:
            self._bring_home()
            self.env.async_reset()
            self._under_way.update(ids)
            rows = self._bring_home()
            self._status[ids], self.placeholder_rows = READY, None
        else:
            running = [i for i in ids if self._status[i] in (READY, LOST) or i in self._under_way]
            if running:
                raise ValueError(
                    "an EnvPool with a batch_size below num_envs resets all environments, or those that have "
                    f"finished: {running} have not"
                )
            rows = self._final
            self._status[ids], self.placeholder_rows = PENDING, np.ones(len(ids), np.bool_)
        obs, infos = zip(*[rows[i] for i in ids], strict=True)
        return stack_obs(obs, self.stack_dicts), [dict(info) for info in infos]

    def _bring_home(self) -> dict[int, Row]:
        """Wait until no environment is under way; the newest observations and infos of those that answered.

        EnvPool only answers for ``wait_num`` at a time. Where fewer are left, others begin an episode to make up the
        number, so this is for those that are reset anyway.
        """
        rows: dict[int, Row] = {}
        while self._under_way:
            missing = self.wait_num - len(self._under_way)
            if missing > 0:
                others = [i for i in self._all if i not in self._under_way][:missing]
                self._under_way.update(others)
                result = self.env.reset(np.asarray(others, dtype=np.int32))
            else:
                result = self.env.recv()
            obs, info = result[0], result[-1]
            ids, infos = np.array(info["env_id"]).tolist(), split_info(info, len(info["env_id"]))
            self._under_way.difference_update(ids)
            rows.update({i: (self._row(obs, k), infos[k]) for k, i in enumerate(ids)})
        return rows
