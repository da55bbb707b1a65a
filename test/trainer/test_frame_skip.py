"""``frame_skip``: everything that counts environment steps counts frames."""

import inspect
from typing import Any

import pytest

from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.trainer import OfflineTrainer, OffpolicyTrainer, OnpolicyTrainer, offpolicy_trainer


def test_counters_count_frames_and_updates_count_decisions(parts: Any, make_constant: Any, recorder: Any) -> None:
    policy = make_constant()
    seen: list[tuple[int, int]] = []
    trainer = OffpolicyTrainer(
        **parts(
            policy,
            frame_skip=5,
            step_per_epoch=60,
            learning_starts=40,
            callbacks=[recorder],
            train_fn=lambda epoch, env_step: seen.append((epoch, env_step)),
        )
    )
    info = trainer.run()
    # 2 environments, 4 steps per collect: 20 frames, 3 collects per epoch
    assert seen == [(1, 0), (1, 20), (1, 40), (2, 60), (2, 80), (2, 100)]
    assert policy.stepped_to == [0, 20, 40, 60, 80, 100]
    assert info.train_step == trainer.env_step == 120
    assert trainer.train_collector.collect_step == 24  # type: ignore[union-attr]
    assert info.gradient_step == 5 * 2  # none after the first collect; then half of the 4 decisions of each collect
    assert [call for call in recorder.calls if call == "collect"] == ["collect"] * 6


def test_total_steps_and_random_steps_are_frames(parts: Any, make_constant: Any) -> None:
    policy = make_constant()
    trainer = OffpolicyTrainer(
        **parts(policy, test=False, frame_skip=4, max_epoch=None, total_steps=64, step_per_epoch=64, random_steps=32)
    )
    trainer.run()
    assert (trainer.env_step, trainer.stop_reason) == (64, "total_steps reached")
    buffer = trainer.train_collector.buffer  # type: ignore[union-attr]
    acts = buffer[:].act.reshape(2, 8)  # of each environment 8 decisions, the first half of them random
    assert (acts[:, 4:] == policy.level).all()
    assert not (acts[:, :4] == policy.level).any()


def test_one_is_no_change(parts: Any) -> None:
    counts = [OffpolicyTrainer(**parts(), **options).run().train_step for options in ({}, {"frame_skip": 1})]
    assert counts == [40, 40]
    assert inspect.signature(offpolicy_trainer).parameters["frame_skip"].default == 1


def test_onpolicy(parts: Any) -> None:
    given = parts(frame_skip=3, step_per_epoch=24, repeat_per_collect=1)
    del given["update_per_step"]
    assert OnpolicyTrainer(**given).run().train_step == 48


def test_contradictions_raise(parts: Any, make_constant: Any) -> None:
    with pytest.raises(ValueError, match="frame_skip must be positive, got 0"):
        OffpolicyTrainer(**parts(frame_skip=0))
    buffer = ReplayBuffer(4)
    buffer.add({"obs": 0.0, "act": 0.0, "rew": 0.0, "terminated": False, "truncated": False})
    with pytest.raises(ValueError, match="frame_skip=2: OfflineTrainer steps no environments"):
        OfflineTrainer(make_constant(), 1, 4, buffer=buffer, step_per_epoch=1, frame_skip=2)
