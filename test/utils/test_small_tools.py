"""Progress bars, warnings, space infos, schedulers, logging and strings."""

import functools
import io
import logging as std_logging
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlpolicy.utils import logging
from rlpolicy.utils.lr_scheduler import MultipleLRSchedulers
from rlpolicy.utils.progress_bar import DummyTqdm, progress_bar, tqdm_config
from rlpolicy.utils.space_info import ActionSpaceInfo, ObservationSpaceInfo, SpaceInfo
from rlpolicy.utils.string import (
    StringConverter,
    TagBuilder,
    ToStringMixin,
    dict_string,
    function_name,
    list_string,
    object_repr,
    or_regex_group,
    pretty_string_repr,
    to_string,
)
from rlpolicy.utils.warning import deprecation


def test_dummy_bar_counts_silently(capsys):
    with DummyTqdm(total=10, desc="x") as bar:
        bar.update(3)
        bar.update()
        bar.set_postfix(loss="1.0")
        bar.set_description("y")
        bar.refresh()
        assert (bar.n, bar.total) == (4, 10)
    assert capsys.readouterr() == ("", "")


def test_bar_shows_only_where_it_should(monkeypatch, capsys):
    assert isinstance(progress_bar(5, show=False), DummyTqdm)
    assert isinstance(progress_bar(5), DummyTqdm)  # pytest's captured stderr is no terminal
    with progress_bar(5, "Epoch #1", show=True) as bar:
        bar.update(5)
    assert "Epoch #1" in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress_bar(5, file=io.StringIO()) as bar:
        assert not isinstance(bar, DummyTqdm)
    assert set(tqdm_config) == {"dynamic_ncols", "ascii"}


def test_deprecation_points_at_the_caller():
    def old():
        deprecation("old is gone")

    filters = list(warnings.filters)
    with pytest.warns(DeprecationWarning, match="old is gone") as caught:
        old()
    assert caught[0].filename == __file__
    assert list(warnings.filters) == filters


def test_space_infos():
    env = gym.make("Pendulum-v1")
    info = SpaceInfo.from_env(env)
    assert info.action_info == ActionSpaceInfo((1,), -2.0, 2.0)
    assert info.observation_info == ObservationSpaceInfo((3,))
    assert (info.action_info.action_dim, info.observation_info.obs_dim) == (1, 3)
    box = spaces.Box(np.array([[-1.0, -3.0]]), np.array([[2.0, 1.0]]), dtype=np.float64)
    assert ActionSpaceInfo.from_space(box) == ActionSpaceInfo((1, 2), -3.0, 2.0)
    assert ActionSpaceInfo.from_space(box).action_dim == 2
    discrete = ActionSpaceInfo.from_space(spaces.Discrete(4, start=2))
    assert (discrete.action_shape, discrete.min_action, discrete.max_action, discrete.action_dim) == (4, 2.0, 5.0, 4)
    assert ObservationSpaceInfo.from_space(spaces.Discrete(7)).obs_dim == 7
    for make in (ActionSpaceInfo.from_space, ObservationSpaceInfo.from_space):
        with pytest.raises(ValueError, match="MultiBinary"):
            make(spaces.MultiBinary(3))


def test_several_schedulers_as_one():
    def build():
        optims = [torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0) for _ in range(2)]
        schedulers = [
            torch.optim.lr_scheduler.StepLR(optim, 1, gamma) for optim, gamma in zip(optims, (0.5, 0.1), strict=True)
        ]
        return optims, MultipleLRSchedulers(*schedulers)

    optims, both = build()
    for optim in optims:
        optim.step()
    both.step()
    assert [o.param_groups[0]["lr"] for o in optims] == pytest.approx([0.5, 0.1])
    _, fresh = build()
    fresh.load_state_dict(both.state_dict())
    assert fresh.state_dict() == both.state_dict()
    with pytest.raises(ValueError, match="1 states for 2"):
        fresh.load_state_dict(both.state_dict()[:1])


@pytest.fixture
def root_logger():
    root = std_logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


def test_logging_helpers(root_logger, tmp_path, capsys):
    assert logging.getLogger is std_logging.getLogger
    assert logging.INFO == std_logging.INFO
    assert len(logging.datetime_tag()) == 15
    assert logging.run_main(lambda: 42, format="%(message)s", level=logging.INFO) == 42
    assert capsys.readouterr().out.splitlines() == ["Starting", "Done"]
    assert logging.run_main(lambda: 1 // 0) is None
    assert "ZeroDivisionError" in capsys.readouterr().out

    log = logging.getLogger("test")
    with logging.FileLoggerContext(str(tmp_path / "a.log")):
        log.warning("to the file")
    log.warning("not to the file")
    with logging.FileLoggerContext(str(tmp_path / "b.log"), enabled=False):
        log.warning("nowhere")
    assert "to the file" in (tmp_path / "a.log").read_text()
    assert "not to" not in (tmp_path / "a.log").read_text()
    assert not (tmp_path / "b.log").exists()

    assert logging.get_memory_log() == ""
    logging.add_memory_logger()
    log.warning("remember me")
    assert "remember me" in logging.get_memory_log()

    handler = logging.add_file_logger(str(tmp_path / "c.log"))
    assert logging.is_log_handler_active(handler)
    logging.remove_log_handler(handler)
    assert not logging.is_log_handler_active(handler)
    handler.close()
    logging.remove_log_handlers()
    assert root_logger.handlers == []


def test_run_cli_reads_the_arguments(root_logger, monkeypatch, capsys):
    def main(n: int, rate: float = 0.5, name: str | None = None, fast: bool = False):
        """Do something."""
        return n, rate, name, fast

    monkeypatch.setattr(sys, "argv", ["prog", "--n", "3", "--rate", "0.25", "--name", "x", "--fast", "true"])
    assert logging.run_cli(main) == (3, 0.25, "x", True)
    monkeypatch.setattr(sys, "argv", ["prog", "--n", "3"])
    assert logging.run_cli(main) == (3, 0.5, None, False)
    for wrong in ([], ["--n", "x"], ["--n", "1", "--fast", "maybe"]):
        monkeypatch.setattr(sys, "argv", ["prog", *wrong])
        with pytest.raises(SystemExit):
            logging.run_cli(main)
    capsys.readouterr()


def test_rounding_of_fields():
    data = {"a": 1.23456, "b": 2, "c": {"d": 1.23456}, "e": np.float64(1.23456), "f": "x"}
    assert logging.set_numerical_fields_to_precision(data, 2) == {**data, "a": 1.23, "e": 1.23}
    assert data["a"] == 1.23456


def test_strings_of_containers():
    assert dict_string({"a": 1, "b": [1, 2.5, "x"]}) == "a=1, b=[1, 2.5, x]"
    assert dict_string({"a": 1}, brackets="{}") == "{a=1}"
    assert list_string([1, "a", (2, 3)]) == "[1, a, (2, 3)]"
    assert list_string(["a"], quote="'", brackets=None) == "'a'"
    assert to_string((1, {"x": None})) == "(1, {x=None})"

    class Shout(StringConverter):
        def to_string(self, x):
            return str(x).upper()

    assert to_string(["a"], converter=Shout()) == "[A]"
    assert to_string("a", converter=Shout(), apply_converter_to_non_complex_objects=False) == "a"
    assert StringConverter().to_string([1]) == "[1]"


def test_strings_of_objects(capsys):
    class Thing(ToStringMixin):
        def __init__(self):
            self.x = 1
            self._y = [1, 2]
            self.z = None

    thing = Thing()
    assert str(thing) == "Thing[x=1, y=[1, 2], z=None]"
    assert repr(thing) == f"Thing[id={id(thing)}, x=1, y=[1, 2], z=None]"
    thing.pprint()
    assert capsys.readouterr().out == "Thing[\n    x=1,\n    y=[1, 2],\n    z=None]\n"

    class Chosen(Thing):
        def _tostring_excludes(self):
            return ["z"]

        def _tostring_exclude_private(self):
            return True

        def _tostring_additional_entries(self):
            return {"w": 4}

    assert str(Chosen()) == "Chosen[x=1, w=4]"

    class Only(Thing):
        def _tostring_includes(self):
            return ["z"]

    assert str(Only()) == "Only[z=None]"
    assert object_repr(thing, ["x", "z"]) == "Thing[x=1, z=None]"
    assert object_repr(thing, {"q": 2}) == "Thing[q=2]"
    assert pretty_string_repr("A[x=1, y=B(c=[1,2])]") == "A[\n    x=1,\n    y=B(\n        c=[1,2])]"


def test_names():
    assert or_regex_group(["a", "b.c"]) == r"(a|b\.c)"
    assert function_name(np.mean) == "mean"
    assert function_name(functools.partial(max, 1)) == "max"
    assert function_name(TagBuilder("x").build) == "build"
    tag = TagBuilder("ppo", "Ant").with_component("seed0").with_conditional(False, "no")
    assert tag.with_alternative(True, "gpu", "cpu").build() == "ppo_Ant_seed0_gpu"
    assert TagBuilder("a", glue="-").with_conditional(True, "b").build() == "a-b"
