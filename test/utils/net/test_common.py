"""Shared networks: shapes, names of parameters, values against plain formulas, devices, inputs."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from rlpolicy.utils.net.common import (
    MLP,
    ActorCritic,
    BaseActor,
    BranchingNet,
    DataParallelNet,
    EnsembleLinear,
    Net,
    NetBase,
    Recurrent,
    get_dict_state_decorator,
    get_output_dim,
    getattr_with_matching_alt_value,
    miniblock,
)
from rlpolicy.utils.net.inputs import State, as_input, pick_obs, takes_state


def sizes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


# ---- what enters ----


def test_a_fitting_tensor_is_not_copied():
    x = torch.zeros(2, 3)
    assert as_input(x, torch.device("cpu")) is x
    array = np.zeros((2, 3), dtype=np.float32)
    assert as_input(array, torch.device("cpu")).data_ptr() == array.ctypes.data


@pytest.mark.parametrize(
    "x",
    [
        np.ones((2, 3)),
        np.ones((2, 3), np.float16),
        np.ones((2, 3), bool),
        np.ones((3, 2)).T,
        np.ones((2, 3), dtype=np.uint8),
        [[1] * 3] * 2,
        torch.ones(2, 3).double(),
    ],
)
def test_other_inputs_become_float32(x):
    converted = as_input(x, torch.device("cpu"))
    assert converted.dtype is torch.float32
    assert torch.equal(converted, torch.ones(2, 3))


def test_observations_with_keys_need_a_choice():
    with pytest.raises(TypeError, match=r"\['a', 'b'\].*obs_key"):
        Net(3)({"a": np.zeros((1, 3)), "b": np.zeros((1, 3))})


def test_picking_observations():
    cpu = torch.device("cpu")
    obs = {"a": np.ones((2, 3)), "b": np.zeros((2, 2, 2)), "c": np.full((2,), 5.0)}
    assert pick_obs(obs, "a", cpu) is obs["a"]
    joined = pick_obs(obs, ["b", "a"], cpu)
    assert joined.tolist() == [[0.0] * 4 + [1.0] * 3] * 2
    array = np.ones((2, 3))
    assert pick_obs(array, "a", cpu) is array


def test_modules_follow_a_move():
    net = Net(3, 2, [4])
    assert net.device == torch.device("cpu")
    net.to("meta")  # a device without memory stands in for a GPU
    assert net.device == torch.device("meta")
    assert net.model.device == torch.device("meta")
    logits, _ = net(torch.zeros(5, 3))
    assert logits.device.type == "meta"
    assert logits.shape == (5, 2)
    empty = Net(3)  # no parameters at all
    empty.to("meta")
    assert empty.device.type == "meta"


def test_device_argument_places_the_parameters():
    net = Net(3, 2, [4], device="meta")
    assert {p.device.type for p in net.parameters()} == {"meta"}
    assert net.device.type == "meta"
    assert MLP(3, device=torch.device("meta")).device.type == "meta"


def test_networks_can_be_copied_and_pickled():
    net = Net(3, 2, [4])
    x = torch.randn(5, 3)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x)[0], net(x)[0])
        assert twin.model.model[0].weight is not net.model.model[0].weight


def test_state_has_two_ways_in():
    state = State(hidden=1)
    state.cell = 2
    assert state == {"hidden": 1, "cell": 2}
    assert (state["cell"], state.hidden) == (2, 1)
    assert pickle.loads(pickle.dumps(state)) == copy.deepcopy(state) == state
    with pytest.raises(AttributeError, match="no_such"):
        state.no_such  # noqa: B018


def test_which_networks_take_a_state():
    class WithDefault(nn.Module):
        def forward(self, obs, state=None, info=None): ...

    class KeywordOnly(nn.Module):
        def forward(self, obs, *, state=None): ...

    assert takes_state(WithDefault())
    assert takes_state(Net(3))
    assert takes_state(DataParallelNet(Net(3)))
    assert not takes_state(nn.Sequential(nn.Linear(3, 2)))
    assert not takes_state(KeywordOnly())


# ---- MLP and Net ----


def test_miniblock_passes_arguments_by_position_and_name():
    linear, norm, act = miniblock(3, 4, nn.LayerNorm, {"eps": 0.5}, nn.LeakyReLU, (0.25,))
    assert (linear.in_features, linear.out_features) == (3, 4)
    assert (norm.normalized_shape, norm.eps, act.negative_slope) == ((4,), 0.5, 0.25)
    assert len(miniblock(3, 4)) == 1


def test_mlp_computes_what_its_weights_say():
    torch.manual_seed(0)
    mlp = MLP(4, 2, [5, 3], activation=nn.Tanh)
    x = np.random.default_rng(0).normal(size=(7, 2, 2))
    h = x.reshape(7, 4)
    for i, layer in enumerate([mlp.model[0], mlp.model[2], mlp.model[4]]):
        h = h @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
        if i < 2:
            h = np.tanh(h)
    np.testing.assert_allclose(mlp(x).detach().numpy(), h, atol=1e-6)
    assert mlp.output_dim == 2


def test_mlp_without_layers_is_the_identity():
    mlp = MLP(6)
    x = torch.randn(4, 6)
    assert mlp(x) is x
    assert (mlp.output_dim, sizes(mlp)) == (6, {})
    assert MLP(6, 0, [8]).output_dim == 8


@pytest.mark.parametrize("sequence", [list, tuple])
def test_mlp_takes_one_norm_and_activation_per_layer(sequence):
    mlp = MLP(
        3,
        2,
        [4, 5],
        norm_layer=sequence([nn.LayerNorm, nn.BatchNorm1d]),
        norm_args=[{"eps": 0.5}, (0.25,)],
        activation=sequence([nn.Tanh, nn.LeakyReLU]),
        act_args=[(), (0.125,)],
    )
    kinds = [type(layer).__name__ for layer in mlp.model]
    assert kinds == ["Linear", "LayerNorm", "Tanh", "Linear", "BatchNorm1d", "LeakyReLU", "Linear"]
    assert (mlp.model[1].eps, mlp.model[4].eps, mlp.model[5].negative_slope) == (0.5, 0.25, 0.125)


@pytest.mark.parametrize("name", ["norm_layer", "activation"])
def test_mlp_refuses_the_wrong_number_of_layers(name):
    with pytest.raises(ValueError, match=rf"{name} has 1 entries for 2"):
        MLP(3, 2, [4, 4], **{name: [nn.ReLU]})


def test_flattening_can_be_switched_off():
    mlp = MLP(3, 2, flatten_input=False)
    assert mlp(torch.zeros(4, 5, 3)).shape == (4, 5, 2)
    with pytest.raises(RuntimeError):
        MLP(3, 2)(torch.zeros(4, 5, 3))


def test_net_shapes():
    x = torch.rand(6, 10, 2)
    net = Net((10, 2), (5,), [8, 8], norm_layer=nn.LayerNorm, activation=None)
    logits, state = net(x, "state")
    assert logits.shape == (6, 5)
    assert state == "state"
    assert str(net).count("LayerNorm") == 2
    assert str(net).count("ReLU") == 0
    atoms = Net((10, 2), 5, [8], num_atoms=7, softmax=True)
    assert atoms(x)[0].shape == (6, 5, 7)
    torch.testing.assert_close(atoms(x)[0].sum(-1), torch.ones(6, 5))
    assert (net.output_dim, atoms.output_dim) == (5, 35)
    features = Net(20, hidden_sizes=[8, 9])
    assert features.output_dim == 9
    joined = Net((10, 2), (3, 2), [8], concat=True)
    assert joined(torch.rand(6, 26))[0].shape == (6, 8)
    assert Net(np.int64(3), np.int64(2)).output_dim == 2


@pytest.mark.parametrize("atoms", [1, 3])
def test_dueling_net_combines_value_and_advantage(atoms):
    torch.manual_seed(0)
    net = Net(4, 5, [8], num_atoms=atoms, dueling_param=({"hidden_sizes": [6]}, {"hidden_sizes": [7]}))
    x = torch.randn(3, 4)
    logits, _ = net(x)
    features = net.model(x)
    q = net.Q(features).reshape(3, 5, atoms)
    v = net.V(features).reshape(3, 1, atoms)
    expected = (v + q - q.mean(1, keepdim=True)).reshape(logits.shape)
    torch.testing.assert_close(logits, expected)
    assert logits.shape == ((3, 5) if atoms == 1 else (3, 5, atoms))
    assert net.use_dueling


def test_names_of_parameters():
    dueling = Net(3, 2, [8], norm_layer=nn.LayerNorm, dueling_param=({"hidden_sizes": [4]}, {}))
    assert sizes(dueling) == {
        "model.model.0.weight": (8, 3),
        "model.model.0.bias": (8,),
        "model.model.1.weight": (8,),
        "model.model.1.bias": (8,),
        "Q.model.0.weight": (4, 8),
        "Q.model.0.bias": (4,),
        "Q.model.2.weight": (2, 4),
        "Q.model.2.bias": (2,),
        "V.model.0.weight": (1, 8),
        "V.model.0.bias": (1,),
    }
    names = list(sizes(Recurrent(2, 3, 2, hidden_layer_size=4)))
    assert names[0] == "nn.weight_ih_l0"
    assert names[-4:] == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    assert sizes(EnsembleLinear(2, 3, 4)) == {"weight": (2, 3, 4), "bias_weights": (2, 1, 4)}
    branching = sizes(BranchingNet(3, 2, 4, [8], [5], [6]))
    assert {name.rsplit(".", 1)[0] for name in branching} == {
        "common.model.0",
        "value.model.0",
        "value.model.2",
        "branches.0.model.0",
        "branches.0.model.2",
        "branches.1.model.0",
        "branches.1.model.2",
    }


@pytest.mark.parametrize("kind", [dict, State])
def test_net_picks_its_observations(kind):
    torch.manual_seed(0)
    net = Net(5, 2, obs_key=["speed", "angle"])
    obs = kind(angle=np.ones((3, 2, 1)), speed=np.zeros((3, 3)), image=np.zeros((3, 9)))
    joined = np.concatenate([obs["speed"], obs["angle"].reshape(3, 2)], axis=1)
    assert torch.equal(net(obs)[0], net(joined)[0])
    single = Net(3, 2, obs_key="speed")
    assert torch.equal(single(obs)[0], single(obs["speed"])[0])


# ---- others ----


def test_recurrent_goes_on_from_its_state():
    torch.manual_seed(0)
    net = Recurrent(2, (3,), (2,), hidden_layer_size=8)
    x = torch.randn(4, 6, 3)
    whole, final = net(x)
    assert final.hidden.shape == final["cell"].shape == (4, 2, 8)
    assert not final.hidden.requires_grad
    state = None
    for t in range(6):
        out, state = net(x[:, t], state)
        if t == 2:  # a stored state comes back as arrays
            state = {name: value.numpy() for name, value in state.items()}
    torch.testing.assert_close(out, whole)
    torch.testing.assert_close(state.cell, final.cell)
    with pytest.raises(ValueError, match="'hidden' and 'cell'"):
        net(x, {"hidden": final.hidden})


@pytest.mark.parametrize("bias", [True, False])
def test_ensemble_is_so_many_linear_layers(bias):
    torch.manual_seed(0)
    layer = EnsembleLinear(3, 4, 5, bias)
    shared, own = torch.randn(7, 4), torch.randn(3, 7, 4)
    for e in range(3):
        b = layer.bias_weights[e] if bias else 0
        torch.testing.assert_close(layer(shared)[e], shared @ layer.weight[e] + b)
        torch.testing.assert_close(layer(own)[e], own[e] @ layer.weight[e] + b)
    assert all(p.abs().max() <= 0.5 for p in layer.parameters())  # 1 / sqrt(4)
    assert len(list(layer.parameters())) == (2 if bias else 1)


def test_branching_net_sums_value_and_centred_advantages():
    torch.manual_seed(0)
    net = BranchingNet(3, 2, 4, [8], [5], [6])
    x = torch.randn(5, 3)
    out, state = net(x, 7)
    assert out.shape == (5, 2, 4)
    assert state == 7
    features = net.common(x)
    value = net.value(features)
    torch.testing.assert_close(out.mean(2), value.expand(5, 2))
    first = net.branches[0](features)
    torch.testing.assert_close(out[:, 0], value + first - first.mean(1, keepdim=True))
    assert BranchingNet((3, 1), 2)(x)[0].shape == (5, 2, 2)  # without hidden layers


def test_actor_critic_counts_shared_parameters_once():
    shared = nn.Linear(2, 2)
    both = ActorCritic(nn.Sequential(shared, nn.Linear(2, 1)), nn.Sequential(shared, nn.Linear(2, 1)))
    assert len(list(both.parameters())) == 6


def test_data_parallel_net_passes_through_on_one_device():
    net = Net(3, 2)
    logits, state = DataParallelNet(net)(np.zeros((4, 3)), state=5)
    assert torch.equal(logits, net(np.zeros((4, 3)))[0])
    assert state == 5


def test_dict_state_decorator():
    decorate, flat_size = get_dict_state_decorator({"a": 3, "b": (2, 2), "c": 9}, ["b", "a"])
    assert flat_size == 7

    @decorate
    class MyNet(Net):
        """Doc."""

    assert (MyNet.__name__, MyNet.__doc__, MyNet.__module__) == ("MyNet", "Doc.", __name__)
    net = MyNet(flat_size, 2)
    obs = {"a": np.ones((5, 3)), "b": np.full((5, 2, 2), 2.0), "c": np.zeros((5, 9))}
    joined = np.concatenate([obs["b"].reshape(5, 4), obs["a"]], axis=1)
    assert torch.equal(net(obs)[0], net(joined)[0])
    assert net(obs, "state")[1] == "state"


def test_output_dims():
    net = Net(3, 2)
    assert get_output_dim(net, None) == get_output_dim(net, 2) == 2
    with pytest.raises(ValueError, match="2, not the given 5"):
        get_output_dim(net, 5)
    assert get_output_dim(nn.Linear(1, 1), 3) == 3
    with pytest.raises(AttributeError, match="output_dim"):
        get_output_dim(nn.Linear(1, 1), None)
    with pytest.raises(ValueError, match="None"):
        getattr_with_matching_alt_value(State(x=None), "x", None)
    assert getattr_with_matching_alt_value(State(x=None), "x", 4) == 4


@pytest.mark.parametrize("abstract", [NetBase, BaseActor])
def test_bases_are_abstract(abstract):
    with pytest.raises(TypeError):
        abstract()
