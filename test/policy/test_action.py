"""Numbers and rules of the action mapping."""

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from rlpolicy.policy.action import ActionMap, action_type_of
from rlpolicy.utils.errors import InvalidArgument

BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))
RAW = np.array([[-3.0, -3.0], [-1.0, -1.0], [-0.5, 0.0], [0.0, 0.5], [1.0, 1.0], [7.0, 7.0]], np.float32)


def test_clip_and_scale_table() -> None:
    mapped = ActionMap(BOX, True, "clip")(RAW)
    expected = [[-2, 0], [-2, 0], [-1, 5], [0, 7.5], [2, 10], [2, 10]]
    np.testing.assert_allclose(mapped, expected, rtol=1e-6)
    assert mapped.dtype == np.float32


def test_without_scaling_clip_tanh_and_none() -> None:
    np.testing.assert_array_equal(ActionMap(BOX, False, "clip")(RAW), np.clip(RAW, -1, 1))
    np.testing.assert_array_equal(ActionMap(BOX, False, "tanh")(RAW), np.tanh(RAW))
    np.testing.assert_array_equal(ActionMap(BOX, False, None)(RAW), RAW)


def test_tanh_and_scale() -> None:
    mapped = ActionMap(BOX, True, "tanh")(RAW.astype(np.float64))
    low, high = BOX.low.astype(np.float64), BOX.high.astype(np.float64)
    np.testing.assert_allclose(mapped, low + (high - low) * (np.tanh(RAW.astype(np.float64)) + 1) / 2)


def test_the_argument_is_not_changed() -> None:
    act = RAW.copy()
    for bound in ("clip", "tanh"):
        ActionMap(BOX, True, bound)(act)
        ActionMap(BOX, True, bound).inverse(act)
    np.testing.assert_array_equal(act, RAW)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6),
    st.floats(-1e3, 1e3),
    st.floats(1e-3, 1e3),
    st.sampled_from([np.float32, np.float64]),
)
def test_mapped_actions_lie_in_the_space(raw: list[float], low: float, width: float, dtype: type) -> None:
    low32 = np.float32(low)
    high32 = np.float32(low + width)
    if not low32 < high32:
        return
    space = spaces.Box(low32, high32, (len(raw),))
    for bound in ("clip", "tanh"):
        act = ActionMap(space, True, bound)(np.array(raw, dtype)[None])
        assert (act >= low32).all()
        assert (act <= high32).all()


@pytest.mark.parametrize("bound", ["clip", "tanh", None])
@pytest.mark.parametrize("scaling", [True, False])
def test_inverse_undoes_the_map(bound: str | None, scaling: bool) -> None:
    action_map = ActionMap(BOX, scaling, bound)  # type: ignore[arg-type]
    raw = np.random.default_rng(0).uniform(-0.99, 0.99, (50, 2))
    np.testing.assert_allclose(action_map.inverse(action_map(raw)), raw, rtol=1e-9, atol=1e-12)


def test_inverse_of_tanh_is_finite_at_the_border() -> None:
    action_map = ActionMap(BOX, True, "tanh")
    raw = action_map.inverse(np.stack([BOX.low, BOX.high]))
    assert np.isfinite(raw).all()
    np.testing.assert_allclose(action_map(raw), np.stack([BOX.low, BOX.high]), atol=1e-5)


def test_scaling_without_bound_wants_the_unit_range() -> None:
    action_map = ActionMap(BOX, True, None)
    np.testing.assert_allclose(action_map(np.array([[-1.0, 1.0]])), [[-2, 10]])
    with pytest.raises(InvalidArgument, match="action_bound_method"):
        action_map(np.array([[1.5, 0.0]]))
    with pytest.raises(InvalidArgument, match="nan"):
        action_map(np.array([[np.nan, 0.0]]))


def test_an_integer_box_gets_real_numbers() -> None:
    space = spaces.Box(0, 255, (3,), np.uint8)
    np.testing.assert_allclose(ActionMap(space, True, "clip")(np.array([[-1.0, 0.0, 1.0]])), [[0, 127.5, 255]])


def test_bounds_of_any_size_do_not_overflow() -> None:
    big = np.finfo(np.float32).max
    mapped = ActionMap(spaces.Box(-big, big, (1,)), True, "clip")(np.array([[0.5]], np.float32))
    np.testing.assert_allclose(mapped, [[big / 2]])


@pytest.mark.parametrize(
    ("space", "bound", "match"),
    [
        (spaces.Discrete(3), "clip", "needs a Box"),
        (spaces.Box(-np.inf, np.inf, (2,)), "clip", "bounded Box"),
        (spaces.Box(np.float32([0.0, 1.0]), np.float32([1.0, 1.0])), "clip", "low < high"),
        (BOX, "", "action_bound_method"),
        (BOX, "sigmoid", "action_bound_method"),
    ],
)
def test_bad_scaling_is_an_error_at_the_door(space: spaces.Space, bound: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ActionMap(space, True, bound)  # type: ignore[arg-type]


def test_other_spaces_pass_unchanged() -> None:
    act = np.array([0, 2, 1])
    action_map = ActionMap(spaces.Discrete(3), False, "clip")
    assert action_map(act) is act
    assert action_map.inverse(act) is act


def test_action_types() -> None:
    assert action_type_of(BOX) == "continuous"
    for space in (spaces.Discrete(2), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(4)):
        assert action_type_of(space) == "discrete"
    with pytest.raises(ValueError, match="single"):
        action_type_of(spaces.Dict({"a": BOX}))
