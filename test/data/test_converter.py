"""Conversion between numpy and torch, and HDF5 without pickle."""

import pickle

import numpy as np
import pytest
import torch

from rlpolicy.data.batch import Batch
from rlpolicy.data.utils.converter import from_hdf5, to_hdf5, to_numpy, to_torch, to_torch_as

h5py = pytest.importorskip("h5py")


# -- numpy and torch -------------------------------------------------------------------------------------------


def test_to_numpy():
    array = np.arange(3)
    assert to_numpy(array) is array
    tensor = torch.ones(2, requires_grad=True)
    assert np.shares_memory(to_numpy(tensor), tensor.detach().numpy())
    assert to_numpy(torch.ones(1, dtype=torch.bfloat16)).dtype == np.float32
    assert to_numpy(1).shape == ()
    assert to_numpy(1.5).dtype == np.float64
    assert to_numpy(None).item() is None
    assert to_numpy(to_numpy).item() is to_numpy
    assert to_numpy([torch.zeros(2), torch.ones(2)]).tolist() == [[0, 0], [1, 1]]
    assert to_numpy([]).shape == (0,)
    batch = Batch(a=torch.ones(1), n={"b": torch.ones(1)}, s="x")
    converted = to_numpy(batch)
    assert isinstance(converted.n.b, np.ndarray)
    assert isinstance(batch.n.b, torch.Tensor)
    assert isinstance(to_numpy({"a": torch.tensor(1)})["a"], np.ndarray)
    assert to_numpy([{"a": 1}, {"a": 2}]) == Batch(a=[1, 2])


def test_to_torch():
    array = np.ones(3, np.float32)
    tensor = to_torch(array)
    assert tensor.dtype == torch.float32
    tensor[0] = 5
    assert array[0] == 5
    assert to_torch(array, dtype=torch.float64).dtype == torch.float64
    assert to_torch(1).dtype == torch.int64
    assert to_torch(1.5).dtype == torch.float64
    assert to_torch(True).dtype == torch.bool
    assert to_torch(np.float32(2)).dtype == torch.float32
    assert to_torch([float("nan"), 1]).dtype == torch.float64
    assert to_torch([np.ones((3, 3)), np.ones((3, 3))]).shape == (2, 3, 3)
    assert to_torch(np.ones((3, 2, 2))[[]]).shape == (0, 2, 2)
    assert isinstance(to_torch({"a": [1]})["a"], torch.Tensor)
    assert to_torch([{"a": 1}, {"a": 2}]).a.tolist() == [1, 2]
    batch = Batch(a=np.ones(1), n={"b": np.ones(1)})
    converted = to_torch(batch, dtype=torch.float32)
    assert converted.n.b.dtype == torch.float32
    assert isinstance(batch.n.b, np.ndarray)


def test_to_torch_of_memory_it_cannot_share():
    assert to_torch(np.arange(3)[::-1]).tolist() == [2, 1, 0]
    frozen = np.arange(3)
    frozen.flags.writeable = False
    assert to_torch(frozen).tolist() == [0, 1, 2]
    assert to_torch(np.arange(3, dtype=">f4")).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        np.array([{}, "2"]),
        {"a": None},
        [np.zeros((3, 2)), np.zeros((3, 3))],
        [np.zeros((2, 3)), np.zeros((3, 3))],
        [np.zeros(2), np.zeros((3, 3))],
        [torch.zeros(2), np.zeros(2)],
    ],
)
def test_to_torch_refuses(value):
    with pytest.raises(TypeError):
        to_torch(value)


@pytest.mark.parametrize("shapes", [((3, 2), (3, 3)), ((2, 3), (3, 3)), ((2,), (3, 3))])
def test_to_numpy_refuses_unequal_tensors(shapes):
    with pytest.raises(TypeError):
        to_numpy([torch.zeros(shape) for shape in shapes])


def test_to_torch_as():
    example = torch.zeros(1, dtype=torch.float16)
    assert to_torch_as(np.ones(2), example).dtype == torch.float16
    assert to_torch_as(Batch(a=[1]), example).a.dtype == torch.float16
    with pytest.raises(AssertionError):
        to_torch_as(np.ones(2), np.ones(2))


# -- HDF5 ------------------------------------------------------------------------------------------------------


def round_trip(path, data, **kwargs):
    with h5py.File(path, "w") as file:
        to_hdf5(data, file, **kwargs)
    with h5py.File(path, "r") as file:
        return from_hdf5(file)


VALUES = {
    "int": 3,
    "negative": -5,
    "huge": 2**100,
    "float": 2.5,
    "nan": float("nan"),
    "true": True,
    "false": False,
    "none": None,
    "text": "größe",
    "long": "x" * 100_000,
    "list": [1, "a", None, [2.5, {"k": (1, 2)}]],
    "tuple": (1, (2, 3)),
    "bytes": [b"\x00\xff"],
    "dict": {"a": {"b": 1, "e": {}}, "c": None},
}


def test_plain_values_keep_their_types(tmp_path):
    read = round_trip(tmp_path / "f.h5", VALUES)
    assert read.keys() == VALUES.keys()
    for key, value in VALUES.items():
        assert type(read[key]) is type(value), key
        assert read[key] == value or key == "nan"
    assert np.isnan(read["nan"])


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array(5),
        np.zeros((0, 3)),
        np.array([True, False]),
        np.arange(3, dtype=np.uint8),
        np.array([1 + 2j]),
        np.arange(3, dtype=np.float16),
    ],
)
def test_arrays_and_tensors(tmp_path, array, compression):
    data = {"array": array, "batch": Batch(array=array, inner=Batch())}
    data["tensor"] = torch.from_numpy(array.copy())
    read = round_trip(tmp_path / "f.h5", data, compression=compression)
    for value in (read["array"], read["batch"].array):
        assert type(value) is np.ndarray
        assert value.dtype == array.dtype
        assert np.array_equal(value, array)
        assert value.shape == array.shape
    assert isinstance(read["batch"], Batch)
    assert read["batch"].inner.is_empty()
    assert isinstance(read["tensor"], torch.Tensor)
    assert torch.equal(read["tensor"], data["tensor"])


def test_special_tensors_and_scalars(tmp_path):
    data = {"bf16": torch.tensor([1.5, 2.0], dtype=torch.bfloat16), "grad": torch.ones(1, requires_grad=True)}
    read = round_trip(tmp_path / "f.h5", {**data, "scalar": np.float32(2.5)})
    assert read["bf16"].dtype == torch.bfloat16
    assert torch.equal(read["bf16"], data["bf16"])
    assert torch.equal(read["grad"], torch.ones(1))
    assert read["scalar"] == 2.5
    assert read["scalar"].dtype == np.float32


def test_object_arrays(tmp_path):
    array = np.empty((2, 4), object)
    array[0] = [1, None, "text", {"a": 1, "b": [2, None]}]
    array[1] = [np.arange(3, dtype=np.float32), torch.ones(2), np.float64(0.5), Batch(x=[1, 2])]
    read = round_trip(tmp_path / "f.h5", {"array": array, "text": np.array(["a", "bc"]), "none": np.array([None])})
    back = read["array"]
    assert back.dtype == object
    assert back.shape == (2, 4)
    assert back[0].tolist() == array[0].tolist()
    assert back[1, 0].dtype == np.float32
    assert np.array_equal(back[1, 0], array[1, 0])
    assert torch.equal(back[1, 1], torch.ones(2))
    assert type(back[1, 2]) is np.float64
    assert back[1, 3] == array[1, 3]
    ragged = np.array([None, None])
    ragged[:] = [np.array([None, "x"], object), np.zeros((2, 0))]
    back = round_trip(tmp_path / "g.h5", {"ragged": ragged})["ragged"]
    assert back[0].tolist() == [None, "x"]
    assert back[1].shape == (2, 0)
    assert read["text"].tolist() == ["a", "bc"]
    assert read["none"].tolist() == [None]


def test_odd_keys(tmp_path):
    data = {
        "a%2Fb%": np.arange(4),
        "a/b": np.arange(2),
        "n": b"top",
        ".": np.arange(3),
        "": 5,
        "x/y": {"/": {"z": 1}},
        "TimeLimit.truncated": True,
    }
    read = round_trip(tmp_path / "f.h5", data)
    assert read.keys() == data.keys()
    assert read["a/b"].tolist() == [0, 1]
    assert read["a%2Fb%"].tolist() == [0, 1, 2, 3]
    assert read["n"] == b"top"
    assert read["."].tolist() == [0, 1, 2]
    assert read["x/y"] == {"/": {"z": 1}}
    with pytest.raises(ValueError, match="reserved"):
        round_trip(tmp_path / "g.h5", {"__data_type__": 1})
    with pytest.raises(TypeError):
        round_trip(tmp_path / "h.h5", {1: np.arange(2)})


def test_what_cannot_be_stored():
    # A class in place of an open group: nothing may be written before the value is known to fit.
    with pytest.raises(NotImplementedError, match="not_supported"):
        to_hdf5({"not_supported": lambda x: x * x}, h5py.Group)
    with pytest.raises(RuntimeError, match="not_supported"):
        to_hdf5({"not_supported": np.array(lambda x: x * x)}, h5py.Group)


class Evil:
    """Its pickle runs code when it is read."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)


@pytest.mark.parametrize("kind", ["pickled_ndarray", "str", "dict"])
def test_pickles_are_refused(tmp_path, kind):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        group = file.create_group("info")
        dataset = group.create_dataset("odd", data=np.frombuffer(pickle.dumps(Evil()), np.byte))
        dataset.attrs["__data_type__"] = kind
    with h5py.File(tmp_path / "f.h5", "r") as file, pytest.raises(ValueError, match="/info/odd"):
        from_hdf5(file)


def test_files_of_tianshou_are_read(tmp_path):
    """As its version 1.0 writes them: markers on groups and datasets, numbers as attributes, a pickled None."""
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.attrs["_size"], file.attrs["ratio"] = 3, 0.5
        group = file.create_group("_meta")
        group.attrs["__data_type__"] = "Batch"
        for name, kind, data in (
            ("obs", "ndarray", np.arange(3)),
            ("t", "Tensor", np.ones(2)),
            ("n", "NoneType", np.frombuffer(pickle.dumps(None), np.byte)),
        ):
            group.create_dataset(name, data=data).attrs["__data_type__"] = kind
        file.create_dataset("raw", data=np.arange(2))
    with h5py.File(tmp_path / "f.h5", "r") as file:
        read = from_hdf5(file, device="cpu")
        assert from_hdf5(file["raw"]).tolist() == [0, 1]
    assert read["_size"] == 3
    assert type(read["_size"]) is int
    assert read["_meta"].obs.tolist() == [0, 1, 2]
    assert isinstance(read["_meta"].t, torch.Tensor)
    assert read["_meta"].n is None
