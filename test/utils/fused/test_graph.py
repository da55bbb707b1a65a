"""What is recorded and replayed, with a graph that works on a CPU; and in which order a CUDA graph is asked for."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from tape import CpuTape

from rlpolicy.utils.fused.graph import CudaTape, Recorded, Replayed, before_replay, send


class Walk:
    """x <- x + step length * given + noise, with everything that a recording must get right."""

    def __init__(self) -> None:
        self.x, self.length, self.count = torch.zeros(3), torch.zeros(1), 0
        self.calls = 0

    def prepare(self) -> None:
        self.count += 1
        send([1.0 / self.count], self.length)

    def __call__(self, given: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        self.calls += 1
        before_replay(self.prepare)
        self.x.add_(self.length * given)
        if noise is not None:
            self.x += torch.randn_like(self.x) * noise
        return {"sum": self.x.sum()}


def test_a_replay_sees_new_inputs_and_numbers_and_runs_no_python() -> None:
    walk = Walk()
    replayed, right = Replayed(walk, [walk.x], CpuTape), torch.zeros(3)
    for t in range(1, 6):
        given = torch.tensor([1.0, 2.0, t])
        result = replayed("kind", (given, None))
        right += given / t
        torch.testing.assert_close(walk.x, right)
        torch.testing.assert_close(result["sum"], right.sum())
    assert walk.count == 5
    assert walk.calls == 2  # one to rehearse, one to record


def test_random_numbers_are_those_of_plain_calls() -> None:
    walks = Walk(), Walk()
    replayed, noise = Replayed(walks[0], [walks[0].x], CpuTape), torch.ones(1)
    for call in (lambda *given: replayed((), given), walks[1]):
        torch.manual_seed(0)
        for _ in range(4):
            call(torch.ones(3), noise)
    torch.testing.assert_close(walks[0].x, walks[1].x, rtol=0, atol=0)


def test_recording_changes_nothing() -> None:
    walk = Walk()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    recorded = Recorded(walk, [torch.ones(3), torch.ones(1)], [walk.x], CpuTape())
    assert walk.count == 0
    assert torch.equal(walk.x, torch.zeros(3))
    assert torch.equal(torch.rand(1), expected)
    recorded([torch.ones(3), torch.zeros(1)])
    assert torch.equal(walk.x, torch.ones(3))


def test_numbers_of_the_host_stay_as_they_were() -> None:
    """So they belong to the kind of a call."""
    factor = 2.0
    replayed = Replayed(lambda x: x * factor, [], CpuTape)
    assert replayed(2.0, [torch.ones(1)]).item() == 2.0
    factor = 3.0
    assert replayed(2.0, [torch.ones(1)]).item() == 2.0
    assert replayed(3.0, [torch.ones(1)]).item() == 3.0


def test_shapes_dtypes_and_missing_inputs_are_kinds() -> None:
    tapes: list[CpuTape] = []

    def tape() -> CpuTape:
        tapes.append(CpuTape())
        return tapes[-1]

    replayed = Replayed(lambda x, y: x + (0 if y is None else y), [], tape)
    one = torch.ones(2)
    for x, y in [(one, one), (one, None), (torch.ones(3), None), (one.double(), None)] * 2:
        assert torch.equal(replayed((), (x, y)), x + (0 if y is None else y))
    assert [tape.replays for tape in tapes] == [2] * 4


@pytest.mark.parametrize(
    "reads",
    [Tensor.item, float, Tensor.tolist, Tensor.numpy, Tensor.nonzero, torch.tensor],
    ids=lambda reads: reads.__name__,
)
def test_the_graph_of_the_tests_refuses_what_a_real_one_would(reads: Callable[[Any], Any]) -> None:
    def function(x: Tensor) -> Tensor:
        reads(0.0 if reads is torch.tensor else x)
        return x

    with pytest.raises((RuntimeError, AssertionError)):
        Recorded(function, [torch.ones(1)], [], CpuTape())


def test_an_error_of_the_function_is_raised_and_changes_nothing() -> None:
    x = torch.zeros(2)

    def function(given: Tensor) -> None:
        x.add_(given)
        raise ValueError("of its own")

    replayed = Replayed(function, [x], CpuTape)
    with pytest.raises(ValueError, match="of its own"):
        replayed((), [torch.ones(2)])
    assert torch.equal(x, torch.zeros(2))


def test_what_fails_while_it_is_recorded_is_called_as_it_is() -> None:
    walk = Walk()

    class Refusing(CpuTape):
        def record(self, function: Callable[[], Any]) -> Any:
            super().record(function)
            raise RuntimeError("CUDA error: operation not permitted")

    replayed = Replayed(walk, [walk.x], Refusing)
    with pytest.warns(UserWarning, match="CUDA error: operation not permitted"):
        replayed((), [torch.ones(3)])
    replayed((), [torch.ones(3)])
    torch.testing.assert_close(walk.x, torch.full((3,), 1.5))
    assert walk.count == 2


def test_how_a_cuda_graph_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rehearsed on the stream on which it is recorded, with generators put back; other threads may use the device."""
    device, log = torch.device("cuda", 1), []

    class Stream:
        def __init__(self, name: Any) -> None:
            self.name = name

        def wait_stream(self, other: Any) -> None:
            log.append(f"{self.name} waits for {other.name}")

    class Graph:
        def replay(self) -> None:
            log.append("replay")

    def context(name: str) -> Any:
        @contextmanager
        def around(*args: Any, **options: Any) -> Iterator[None]:
            shown = [getattr(value, "name", value) for value in (*args, *options.values())]
            log.append(f"{name} {shown[1:] if name == 'graph' else shown[0]}")
            yield
            log.append(f"end of {name}")

        return around

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("side"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("main"))
    monkeypatch.setattr(torch.random, "fork_rng", context("generators"))
    for name in ("stream", "graph", "device"):
        monkeypatch.setattr(torch.cuda, name, context(name))
    tape = CudaTape(device)
    tape.rehearse(lambda: log.append("run"))
    assert tape.record(lambda: 3) == 3
    tape.replay()
    assert log == [
        "side waits for main", f"generators {[device]}", "stream side", "run", "end of stream", "end of generators",
        "main waits for side", f"device {device}", "graph ['side', 'thread_local']", "end of graph", "end of device",
        "replay",
    ]  # fmt: skip


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    walks = [Walk(), Walk()]
    for walk in walks:
        walk.x, walk.length = walk.x.to(device), walk.length.to(device)
    replayed = Replayed(walks[0], [walks[0].x], lambda: CudaTape(device))
    for call in (lambda *given: replayed((), given), walks[1]):
        torch.manual_seed(0)
        for t in range(4):
            call(torch.full((3,), float(t), device=device), torch.ones(1, device=device))
    torch.testing.assert_close(walks[0].x, walks[1].x)
    assert walks[0].calls == 2
