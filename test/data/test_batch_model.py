"""Batch against a slow, obvious model: a nested dict whose leaves are lists, one item per row.

Random trees go through random operations in both; after each of them both must hold the same, in value, in kind of
number and in the order of the keys.
"""

import copy
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlpolicy.data.batch import Batch, stack_dicts
from rlpolicy.data.utils.converter import to_numpy, to_torch

KEYS = ("a", "b", "c", "d")
KINDS = ("float", "int", "bool", "object", "vector", "tensor")
COUNT = {"operations": 0}


class Leaf:
    """A column: a list of rows, and what kind of values they are."""

    def __init__(self, kind: str, rows: list[Any]) -> None:
        self.kind, self.rows = kind, rows

    def blank(self) -> Any:
        return {"float": 0.0, "int": 0, "bool": False, "object": None, "vector": [0.0, 0.0], "tensor": 0.0}[self.kind]

    def to_value(self) -> Any:
        if self.kind == "object":
            array = np.empty(len(self.rows), object)
            array[:] = self.rows
            return array
        if self.kind == "tensor":
            return torch.tensor(self.rows, dtype=torch.float32)
        dtype = {"float": np.float32, "int": np.int64, "bool": bool, "vector": np.float64}[self.kind]
        return np.array(self.rows, dtype).reshape(len(self.rows), *([2] if self.kind == "vector" else []))


Model = dict[str, Any]  # of Leaf and Model; {} is a reserved key


def random_row(kind: str, rng: np.random.Generator) -> Any:
    number = int(rng.integers(1, 100))
    return {
        "float": number / 4,
        "int": number,
        "bool": bool(number % 2),
        "object": [None, "x", f"s{number}"][number % 3],
        "vector": [float(number), -float(number)],
        "tensor": number / 2,
    }[kind]


def random_model(rows: int, rng: np.random.Generator, depth: int = 0, kinds: dict[str, str] | None = None) -> Model:
    """Columns of ``rows`` rows. Keys have the same kind wherever they appear, so that any two models can be joined."""
    kinds = {} if kinds is None else kinds
    model: Model = {}
    for key in rng.permutation(KEYS)[: rng.integers(1, 5)].tolist():
        path = f"{depth}{key}"
        if key == "d":
            model[key] = random_model(rows, rng, depth + 1) if depth < 2 and rng.random() < 0.8 else {}
        else:
            kind = KINDS[(ord(key) + 2 * depth) % len(KINDS)] if path else ""
            model[key] = Leaf(kind, [random_row(kind, rng) for _ in range(rows)])
    return model


def to_batch(model: Model) -> Batch:
    return Batch({key: to_batch(v) if isinstance(v, dict) else v.to_value() for key, v in model.items()})


def check(batch: Batch, model: Model) -> None:
    assert list(batch.__dict__) == list(model)
    for key, leaf in model.items():
        value = batch.__dict__[key]
        if isinstance(leaf, dict):
            assert isinstance(value, Batch)
            check(value, leaf)
            continue
        expected = leaf.to_value()
        assert type(value) is type(expected), key
        assert value.dtype == expected.dtype
        assert value.shape == expected.shape
        assert value.tolist() == expected.tolist()


def empty(model: Model) -> bool:
    return all(isinstance(v, dict) and empty(v) for v in model.values())


def rows_at(model: Model, picks: list[int]) -> Model:
    return {
        key: rows_at(v, picks) if isinstance(v, dict) else Leaf(v.kind, [copy.copy(v.rows[i]) for i in picks])
        for key, v in model.items()
    }


def join(models: list[Model], lengths: list[int]) -> Model:
    """Concatenation; what a model lacks is blank over its length."""
    joined: Model = {}
    for key in dict.fromkeys(key for model in models for key in model):
        have = [model.get(key, {}) for model in models]
        leaves = [v for v in have if isinstance(v, Leaf)]
        if not leaves:
            joined[key] = join(have, lengths)
            continue
        rows: list[Any] = []
        for v, length in zip(have, lengths, strict=True):
            rows += v.rows if isinstance(v, Leaf) else [copy.copy(leaves[0].blank()) for _ in range(length)]
        joined[key] = Leaf(leaves[0].kind, rows)
    return joined


def write(model: Model, at: list[int], source: Model) -> None:
    """Row i of ``source`` to row at[i] of ``model``; keys that ``source`` lacks are blanked."""
    for key, v in model.items():
        new = source.get(key, {})
        if isinstance(v, dict):
            write(v, at, new)
            continue
        for n, i in enumerate(at):
            v.rows[i] = copy.copy(new.rows[n]) if isinstance(new, Leaf) else copy.copy(v.blank())


def restricted(model: Model, to: Model, rng: np.random.Generator) -> Model:
    """The part of ``model`` that may be written into ``to``, with some keys left out."""
    part: Model = {}
    for key, v in model.items():
        if key in to and rng.random() < 0.8:
            if isinstance(v, dict):
                part[key] = restricted(v, to[key], rng)
            else:
                part[key] = v
    return part


class Pair:
    """A batch and its model."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.length = int(self.rng.integers(1, 6))
        self.model = random_model(self.length, self.rng)
        self.model["a"] = Leaf("int", [random_row("int", self.rng) for _ in range(self.length)])  # it has a length
        self.batch = to_batch(self.model)

    def do(self, name: str) -> None:
        getattr(self, name)()
        check(self.batch, self.model)
        assert len(self.batch) == self.length
        COUNT["operations"] += 1

    def other(self) -> tuple[Model, int]:
        length = int(self.rng.integers(1, 4))
        model = random_model(length, self.rng)
        model["a"] = Leaf("int", [random_row("int", self.rng) for _ in range(length)])
        return model, length

    def index(self) -> None:
        n = self.length
        kind = self.rng.integers(5)
        start, stop = sorted(self.rng.integers(0, n + 1, 2).tolist())
        if start == stop:
            start, stop = 0, n
        picks = self.rng.integers(-n, n, self.rng.integers(1, 6))
        mask = self.rng.random(n) < 0.6
        mask[0] = True
        index: Any = (slice(start, stop), picks, picks.tolist(), mask, torch.from_numpy(picks))[kind]
        chosen = np.arange(n)[index.numpy() if kind == 4 else index].tolist()
        self.batch = self.batch[index]
        self.model, self.length = rows_at(self.model, chosen), len(chosen)

    def set_rows(self) -> None:
        at = self.rng.permutation(self.length)[: self.rng.integers(1, self.length + 1)]
        source = restricted(random_model(len(at), self.rng), self.model, self.rng)
        self.batch[at] = to_batch(source)
        write(self.model, at.tolist(), source)

    def set_key(self) -> None:
        model, _ = random_model(self.length, self.rng), self.length
        key = str(self.rng.choice(list(model)))
        if key != "a":
            value = to_batch(model)[key]
            if self.rng.random() < 0.5:
                self.batch[key] = value
            else:
                setattr(self.batch, key, value)
            self.model[key] = model[key]

    def delete_key(self) -> None:
        key = str(self.rng.choice(list(self.model)))
        if key != "a":
            popped = self.batch.pop(key)
            assert popped is not None
            del self.model[key]

    def update(self) -> None:
        model = random_model(self.length, self.rng)
        model.pop("a", None)
        self.batch.update(to_batch(model))
        self.model.update(copy.deepcopy(model))

    def cat(self) -> None:
        (first, m), (second, n) = self.other(), self.other()
        self.batch = Batch.cat([to_batch(first), Batch(), self.batch, to_batch(second)])
        self.model, self.length = join([first, self.model, second], [m, self.length, n]), m + self.length + n

    def cat_in_place(self) -> None:
        other, n = self.other()
        self.batch.cat_(to_batch(other))
        self.model, self.length = join([self.model, other], [self.length, n]), self.length + n

    def stack(self) -> None:
        """Rows apart, some keys dropped from some rows, and together again."""
        rows, models = [], []
        for i, row in enumerate(self.batch):
            model = rows_at(self.model, [i])
            for key in list(model):
                if key != "a" and self.rng.random() < 0.2:
                    del model[key]
                    row.pop(key)
            rows.append(row)
            models.append(model)
        together = Batch.stack if self.rng.random() < 0.5 else stack_dicts
        self.batch = together([row.to_dict() for row in rows] if self.rng.random() < 0.5 else rows)
        self.model = join(models, [1] * len(models))

    def split(self) -> None:
        size = int(self.rng.integers(1, self.length + 2))
        merge = bool(self.rng.integers(2))
        parts = list(self.batch.split(size, shuffle=False, merge_last=merge))
        bounds = list(range(0, self.length, size))
        if merge and len(bounds) > 1 and self.length - bounds[-1] < size:
            bounds = bounds[:-1]
        for part, start, end in zip(parts, bounds, [*bounds[1:], self.length], strict=True):
            check(part, rows_at(self.model, list(range(start, end))))
        self.batch = Batch.cat(parts)

    def shuffle(self) -> None:
        seed = int(self.rng.integers(1000))
        (self.batch,) = self.batch.split(-1, generator=np.random.default_rng(seed))
        self.model = rows_at(self.model, np.random.default_rng(seed).permutation(self.length).tolist())

    def blank_rows(self) -> None:
        at = int(self.rng.integers(self.length))
        if self.rng.random() < 0.5:
            self.batch.empty_(at)
        else:
            self.batch = Batch.empty(self.batch, index=at)
        write(self.model, [at], {})

    def copy(self) -> None:
        old = self.batch
        self.batch = (copy.deepcopy, lambda b: Batch(b, copy=True))[self.rng.integers(2)](old)
        assert self.batch == old
        old.empty_()

    def to_torch_and_back(self) -> None:
        """Numbers only: object columns are set aside."""

        def numbers(batch: Batch) -> Batch:
            kept = {
                key: numbers(v) if isinstance(v, Batch) else v
                for key, v in batch.items()
                if isinstance(v, Batch) or v.dtype != object
            }
            return Batch(kept)

        part = numbers(self.batch)
        tensors = to_torch(part)
        assert all(isinstance(v, torch.Tensor | Batch) for v in tensors.values())
        assert tensors == part
        back = to_numpy(tensors)
        assert all(isinstance(v, np.ndarray | Batch) for v in back.values())
        assert back == part
        assert tensors.to_numpy().to_torch(torch.float64) == part
        check(self.batch, self.model)

    def add(self) -> None:
        def summable(model: Model) -> bool:
            return all(summable(v) if isinstance(v, dict) else v.kind not in ("object", "bool") for v in model.values())

        def doubled(model: Model) -> Model:
            return {
                k: doubled(v) if isinstance(v, dict) else Leaf(v.kind, [twice(r) for r in v.rows])
                for k, v in model.items()
            }

        def twice(row: Any) -> Any:
            return [2 * x for x in row] if isinstance(row, list) else 2 * row

        if summable(self.model):
            assert self.batch + self.batch == self.batch * 2
            self.batch += self.batch
            self.model = doubled(self.model)


OPERATIONS = sorted(
    name
    for name, member in vars(Pair).items()
    if callable(member) and not name.startswith("_") and name not in ("do", "other")
)


@settings(max_examples=270, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1), names=st.lists(st.sampled_from(OPERATIONS), min_size=15, max_size=30))
def run_operations(seed: int, names: list[str]) -> None:
    pair = Pair(seed)
    check(pair.batch, pair.model)
    for name in names:
        pair.do(name)
        if pair.length > 40:
            pair.batch, pair.model, pair.length = pair.batch[:5], rows_at(pair.model, list(range(5))), 5


def test_batch_behaves_like_its_model():
    COUNT["operations"] = 0
    run_operations()
    assert COUNT["operations"] >= 5000
