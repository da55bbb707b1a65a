"""Sum tree for sampling in proportion to priorities."""

from typing import Any, overload

import numpy as np

from rlpolicy.utils.errors import InvalidArgument

FEW = 16
"""Up to this many leaves a walk in Python is faster than one numpy call per level."""


class SegmentTree:
    """Sums of ``size`` numbers, kept in a binary tree of float64; all numbers are 0 at first.

    Writing n numbers or finding n of them costs O(n log(size)), done level by level for all n at once.

    Node 1 is the root, node i has the children 2i and 2i+1; leaf i is node ``bound + i``, where ``bound`` is
    the next power of two.

    :param size: number of leaves, at least 1.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise InvalidArgument(f"a SegmentTree needs at least one leaf, got size {size}")
        self._size = size
        self._bound = 1 << (size - 1).bit_length()
        self._value = np.zeros(2 * self._bound)

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: np.ndarray) -> np.ndarray: ...
    def __getitem__(self, index: int | np.ndarray) -> float | np.ndarray:
        """Leaves at ``index``, an int or an array of ints.

        :raises IndexError: not in [0, size).
        """
        at = np.asarray(index, np.int64)
        if not self._holds(at):
            raise IndexError(f"leaves are 0 to {self._size - 1}, got {index}")
        return self._value[at + self._bound]

    def __setitem__(self, index: int | np.ndarray, value: float | np.ndarray) -> None:
        """Set leaves; of several values for one leaf the last wins.

        :raises InvalidArgument: an index is not in [0, size).
        """
        at = np.asarray(index, np.int64).ravel()
        if not self._holds(at):
            raise InvalidArgument(f"leaves are 0 to {self._size - 1}, got {index}")
        if len(at) <= FEW:
            values = np.broadcast_to(np.asarray(value, np.float64), np.shape(index))
            self._set_few(at.tolist(), values.ravel().tolist())
        else:
            self._set_many(at, value)

    def _holds(self, at: np.ndarray) -> bool:
        """Whether all are leaves. Negative numbers are huge when read as unsigned: one pass tests both bounds."""
        return not at.size or bool(at.view(np.uint64).max() < self._size)

    def _set_few(self, leaves: list[int], values: list[float]) -> None:
        tree: Any = self._value.data  # reading and writing single items is cheaper through a memoryview
        for leaf, value in zip(leaves, values, strict=True):
            node = leaf + self._bound
            tree[node] = value
            while node > 1:
                value += tree[node ^ 1]
                node >>= 1
                tree[node] = value

    def _set_many(self, leaves: np.ndarray, values: Any) -> None:
        tree = self._value
        node = leaves + self._bound
        tree[node] = np.ravel(values)  # numpy writes in order
        width = self._bound  # of the level whose sums come next, times two
        while width > 8 * len(node):
            parent = node >> 1
            tree[parent] = tree[node] + tree[node ^ 1]  # a parent met twice gets the same sum twice
            node, width = parent, width // 2
        while width > 1:  # so few nodes are left that summing all of them is faster
            tree[width // 2 : width] = tree[width : 2 * width : 2] + tree[width + 1 : 2 * width : 2]
            width //= 2

    def reduce(self, start: int = 0, end: int | None = None) -> float:
        """Sum of the leaves [start, end).

        :param end: None: all from ``start`` on. Negative: counted from the end.
        """
        if start == 0 and end is None:
            return float(self._value[1])
        if end is None:
            end = self._size
        elif end < 0:
            end += self._size
        tree = self._value.data
        left, right = start + self._bound, end + self._bound
        total = 0.0
        while left < right:
            if left & 1:
                total += tree[left]
                left += 1
            if right & 1:
                right -= 1
                total += tree[right]
            left, right = left >> 1, right >> 1
        return total

    @overload
    def get_prefix_sum_idx(self, value: float) -> int: ...
    @overload
    def get_prefix_sum_idx(self, value: np.ndarray) -> np.ndarray: ...
    def get_prefix_sum_idx(self, value: float | np.ndarray) -> int | np.ndarray:
        """The smallest i with leaf[0] + ... + leaf[i] >= value, for each value. (``value`` is not changed.)

        A value above 0 never finds a leaf of 0.

        :param value: number or array of numbers in [0, total).
        :return: an int for a number, else an array of int64 of the same shape.
        :raises InvalidArgument: a value is outside of [0, total).
        """
        values = np.asarray(value, np.float64)
        if values.size and not (values.min() >= 0 and values.max() < self._value[1]):
            wrong = values[~((values >= 0) & (values < self._value[1]))].flat[0]
            raise InvalidArgument(f"prefix sums are found for values in [0, {self._value[1]}), got {wrong}")
        flat = values.ravel()
        if len(flat) <= FEW:
            found = np.array([self._find(target) for target in flat.tolist()], np.int64)
        else:
            found = self._find_many(flat)
        return int(found[0]) if values.ndim == 0 else found.reshape(values.shape)

    def _find(self, target: float) -> int:
        tree = self._value.data
        node = 1
        while node < self._bound:
            node <<= 1
            left = tree[node]
            # Rounding can leave a target above the sum of its own subtree: never enter an empty one then.
            if left < target and tree[node + 1] > 0:
                target -= left
                node += 1
        return node - self._bound

    def _find_many(self, targets: np.ndarray) -> np.ndarray:
        tree = self._value
        rest = targets.copy()
        node = np.ones(len(rest), np.int64)
        for _ in range(self._bound.bit_length() - 1):
            node <<= 1
            left = tree[node]
            go_right = left < rest
            rest -= left * go_right
            node += go_right
        strays = np.flatnonzero((tree[node] == 0) & (targets > 0))  # led astray by rounding, see _find
        node -= self._bound
        for i in strays:
            node[i] = self._find(float(targets[i]))
        return node
