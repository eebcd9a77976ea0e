"""The nets are those of the texts: counts, layers, initial weights, padding, norms, constraints."""

import copy
import functools
import itertools
import json
import statistics

import numpy as np
import pytest
import torch
from torch import nn

from course_lib import models


def seeded(name, seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return models.build(name, **options)


@functools.cache
def posted(name):
    """The net at its defaults, shared by tests that only read it."""
    return seeded(name)


def state(model):
    return [(key, value.clone()) for key, value in model.state_dict().items()]


def same_bits(one, other):
    return all(k == m and torch.equal(v, w) for (k, v), (m, w) in zip(one, other, strict=True))


# --- counts and shapes ------------------------------------------------------------------------


@pytest.mark.parametrize("name", models.MODELS)
def test_count_and_shape(name):
    model, (_, source, count) = seeded(name), models.MODELS[name]
    assert sum(p.numel() for p in model.parameters()) == count == models.num_parameters(model)
    assert source
    side, outputs = (8, 1) if name == "deep_cnn" else (32, 10)
    for mode in (True, False):
        logits = model.train(mode)(torch.rand(2, 3, side, side))
        assert logits.shape == (2, outputs) and logits.isfinite().all()


def test_counts_that_the_texts_give():
    # Keras' summary adds the moving statistics of batch normalisation: 9,600 in all_conv.
    for name, count in {"all_conv": 1_834_602, "thin_cnn": 183_242}.items():
        assert models.num_parameters(posted(name), statistics=True) == count
    assert models.num_parameters(seeded("stuck_cnn_bn", axis="channels")) == 2_918_634


def test_frozen_weights_are_not_counted():
    model = seeded("scaling_mlp")
    model.linear1.weight.requires_grad_(False)
    assert models.num_parameters(model) == 3000


def test_scaling_mlp_has_the_bits_of_the_posted_net():
    model = seeded("scaling_mlp", seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        first, second = nn.Linear(3072, 300, bias=False), nn.Linear(300, 10, bias=False)
    assert torch.equal(model.linear1.weight, first.weight)
    assert torch.equal(model.linear2.weight, second.weight)
    inputs = torch.rand(4, 3, 32, 32)
    expected = second(torch.relu(first(inputs.reshape(4, -1))))
    assert torch.equal(model(inputs), expected)
    assert not any(key.endswith("bias") for key, _ in state(model))


ORDERS = {
    "stuck_cnn": "conv relu conv relu maxpool dropout " * 3
    + "flatten linear relu dropout linear relu dropout linear",
    "stuck_cnn_bn": "conv relu conv relu maxpool columnnorm dropout " * 2
    + "conv relu conv relu columnnorm maxpool dropout flatten "
    + "linear relu batchnorm dropout " * 2
    + "linear",
    "all_conv": "conv relu conv relu dropout " * 2 + "flatten batchnorm linear relu linear",
    "strided_cnn": "conv relu dropout conv relu dropout flatten linear relu dropout linear",
    "thin_cnn": "zeropad conv maxpool relu dropout zeropad conv relu dropout conv relu dropout "
    + "conv relu maxpool dropout flatten linear relu dropout linear tanh dropout linear",
    "small_cnn": "conv relu maxpool " * 3 + "flatten linear",
    "scaling_mlp": "flatten linear relu linear",
}
RATES = {
    "stuck_cnn": [0.2, 0.2, 0.2, 0.5, 0.5],
    "stuck_cnn_bn": [0.2, 0.2, 0.2, 0.5, 0.5],
    "all_conv": [0.2, 0.5],
    "strided_cnn": [0.1, 0.2, 0.3],
    "thin_cnn": [0.25, 0.25, 0.25, 0.15, 0.25, 0.25],
}


@pytest.mark.parametrize("name", ORDERS)
def test_layers_come_in_the_posted_order(name):
    kinds = [key.rstrip("0123456789") for key, _ in posted(name).named_children()]
    assert kinds == ORDERS[name].split()


def rates_of(model):
    return [m.p for m in model.modules() if isinstance(m, nn.Dropout)]


@pytest.mark.parametrize("name", RATES)
def test_dropout_rates_and_scale(name):
    assert rates_of(posted(name)) == RATES[name]
    assert rates_of(seeded(name, dropout_scale=1.5)) == [1.5 * rate for rate in RATES[name]]
    bare = seeded(name, dropout_scale=0)
    assert set(rates_of(bare)) == {0.0}
    if name in ("stuck_cnn", "strided_cnn", "thin_cnn"):  # no batch normalisation either
        inputs = torch.rand(2, 3, 32, 32)
        assert torch.equal(bare.train()(inputs), bare.eval()(inputs))


@pytest.mark.parametrize("name", RATES)
def test_dropout_acts_in_training_only(name):
    model, inputs = seeded(name), torch.rand(2, 3, 32, 32)
    model.train()
    assert not torch.equal(model(inputs), model(inputs))
    model.eval()
    assert torch.equal(model(inputs), model(inputs))


SMALL_NETS = {
    "all_conv": {"widths": (6, 12), "units": 8},
    "strided_cnn": {"widths": (4, 8), "units": 8},
    "thin_cnn": {"widths": (6, 5, 4, 3), "units": (8, 7)},
}


def test_small_copies_of_the_answers_nets_have_the_asked_sizes():
    models_by_name = {name: seeded(name, **options) for name, options in SMALL_NETS.items()}
    widths = {
        name: [layer.weight.shape[0] for layer in models.weight_layers(model)]
        for name, model in models_by_name.items()
    }
    assert widths == {
        "all_conv": [6, 6, 12, 12, 8, 10],
        "strided_cnn": [4, 8, 8, 10],
        "thin_cnn": [6, 5, 4, 3, 8, 7, 10],
    }


def test_the_third_net_takes_more_layers_and_another_activation():
    more = seeded("thin_cnn", more=2, activation="relu")
    kinds = [key.rstrip("0123456789") for key, _ in more.named_children()]
    stage = "conv relu dropout "
    posted_order = ORDERS["thin_cnn"].replace("tanh", "relu")
    assert " ".join(kinds) == posted_order.replace(
        stage + "conv relu max", stage * 3 + "conv relu max"
    )
    extra = models.num_parameters(more) - models.num_parameters(posted("thin_cnn"))
    assert extra == 2 * (9 * 32 * 32 + 32)


def test_all_conv_can_do_without_its_norm():
    kinds = [
        key.rstrip("0123456789") for key, _ in seeded("all_conv", batch_norm=False).named_children()
    ]
    assert kinds == ORDERS["all_conv"].replace(" batchnorm", "").split()


def test_shapes_other_than_cifar():
    assert seeded("stuck_cnn", image_shape=(1, 28, 28))(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    small = seeded("stuck_cnn", image_shape=(3, 16, 16), widths=(8, 16, 32), units=(128, 64))
    assert small(torch.rand(2, 3, 16, 16)).shape == (2, 10)
    blocks = [9 * c * f + f for c, f in ((3, 8), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32))]
    dense = [(128 + 1) * 128, (128 + 1) * 64, (64 + 1) * 10]  # 32 channels of 2 × 2 pixels go in
    assert models.num_parameters(small) == sum(blocks) + sum(dense)
    model = seeded("stuck_cnn_bn", image_shape=(1, 28, 28))
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    for name, options in SMALL_NETS.items():
        assert seeded(name, image_shape=(3, 16, 18), **options)(torch.rand(2, 3, 16, 18)).shape == (
            2, 10,
        )  # fmt: skip
    model = seeded("small_cnn", widths=(4, 8), image_shape=(1, 12, 9))
    assert model(torch.rand(2, 1, 12, 9)).shape == (2, 10)
    assert seeded("mlp", widths=(48, 32, 10), bias=False)(torch.rand(5, 48)).shape == (5, 10)


def test_options_survive_json():
    options = {"widths": (48, 32, 10), "init_std": (0.1, None), "activation": "tanh"}
    kept = json.loads(json.dumps(options))
    assert same_bits(state(seeded("mlp", **options)), state(seeded("mlp", **kept)))


def test_activation_by_name():
    for name, kind in {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}.items():
        model = seeded("mlp", widths=(4, 3, 3, 2), activation=name)
        assert [type(m) for m in model][1:] == [nn.Linear, kind, nn.Linear, kind, nn.Linear]


# --- seeds and initial weights ----------------------------------------------------------------


@pytest.mark.parametrize("name", models.MODELS)
def test_seed_decides_the_bits(name):
    one, again, other = (state(seeded(name, seed)) for seed in (1, 1, 2))
    assert same_bits(one, again)
    assert not same_bits(one, other)


def test_generator_decides_the_bits_and_spares_the_global_one():
    before = torch.get_rng_state()
    made = [
        models.build("small_cnn", generator=torch.Generator().manual_seed(seed))
        for seed in (5, 5, 6)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    one, again, other = (state(model) for model in made)
    assert same_bits(one, again)
    assert not same_bits(one, other)


KERAS = ("stuck_cnn", "stuck_cnn_bn", "all_conv", "strided_cnn", "thin_cnn")


@pytest.mark.parametrize("name", KERAS)
def test_keras_nets_start_glorot_uniform(name):
    for layer in models.weight_layers(posted(name)):
        filters, channels, *kernel = layer.weight.shape
        area = int(np.prod(kernel))  # 1 for a dense layer
        bound = np.sqrt(6 / (area * channels + area * filters))
        largest = layer.weight.abs().max().item()
        assert 0.99 * bound < largest <= bound * (1 + 1e-6)
        std = layer.weight.std().item()
        assert std == pytest.approx(bound / np.sqrt(3), rel=5 / np.sqrt(layer.weight.numel()))
        assert layer.bias is None or not layer.bias.any()


def test_strided_cnn_has_a_bias_where_posted():
    assert posted("strided_cnn").conv1.bias is not None
    assert posted("strided_cnn").conv2.bias is None


@pytest.mark.parametrize("name", ["mlp", "small_cnn"])
def test_default_start_is_pytorchs(name):
    for layer in models.weight_layers(posted(name)):
        bound = 1 / np.sqrt(layer.weight[0].numel())
        assert 0.95 * bound < layer.weight.abs().max().item() <= bound * (1 + 1e-6)
        assert layer.bias.any()


def test_he_normal():
    first = seeded("mlp", init="he_normal").linear1
    assert first.weight.std().item() == pytest.approx(np.sqrt(2 / 3072), rel=0.01)
    assert first.weight.abs().max().item() > 4 * np.sqrt(2 / 3072)  # no uniform, not truncated
    assert not first.bias.any()


def test_init_std_for_one_layer_or_for_all():
    std = 1 / np.sqrt(3 * 3072)
    model = seeded("mlp", widths=(256, 300, 10), bias=False, init_std=(std, None))
    assert model.linear1.weight.std().item() == pytest.approx(std, rel=0.02)
    assert model.linear1.weight.abs().max().item() > 3.5 * std  # Gaussian: uniform ends at 1.7
    assert model.linear2.weight.abs().max().item() <= 1 / np.sqrt(300)
    both = seeded("mlp", widths=(256, 300, 10), init_std=0.5)
    for layer in models.weight_layers(both):
        assert layer.weight.std().item() == pytest.approx(0.5, rel=0.05)
        assert not layer.bias.any()


# --- batch normalisation ----------------------------------------------------------------------


def test_axis_width_normalises_columns():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(4, 3, 5, 6)) * np.arange(1, 7) + np.arange(6)  # columns differ
    norm = models.ColumnNorm(6, **models.KERAS_NORM).double()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1, 7))
        norm.bias.copy_(torch.arange(6, dtype=torch.float64) / 10)
    scale, shift = np.arange(1, 7), np.arange(6) / 10
    mean, variance = inputs.mean(axis=(0, 1, 2)), inputs.var(axis=(0, 1, 2))  # (6,)

    outputs = norm.train()(torch.from_numpy(inputs)).detach().numpy()
    expected = (inputs - mean) / np.sqrt(variance + 1e-3) * scale + shift
    np.testing.assert_allclose(outputs, expected, rtol=1e-9, atol=1e-12)

    moving_mean, n = 0.01 * mean, 4 * 3 * 5
    moving_variance = 0.99 + 0.01 * variance * n / (n - 1)
    np.testing.assert_allclose(norm.running_mean, moving_mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(norm.running_var, moving_variance, rtol=1e-9)

    outputs = norm.eval()(torch.from_numpy(inputs)).detach().numpy()
    expected = (inputs - moving_mean) / np.sqrt(moving_variance + 1e-3) * scale + shift
    np.testing.assert_allclose(outputs, expected, rtol=1e-9, atol=1e-12)


def test_norm_sizes_as_posted_and_as_meant():
    for axis, kind, sizes in (
        ("width", models.ColumnNorm, [16, 8, 8]),
        ("channels", nn.BatchNorm2d, [32, 64, 128]),
    ):
        modules = list(seeded("stuck_cnn_bn", axis=axis))
        norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
        assert [type(m) for m in norms] == [kind] * 3
        assert [m.num_features for m in norms] == sizes
        dense = [m for m in modules if isinstance(m, nn.BatchNorm1d)]
        assert [m.num_features for m in dense] == [1024, 512]
        assert {(m.eps, m.momentum) for m in norms + dense} == {(1e-3, 0.01)}


@pytest.mark.parametrize("order", models.ORDERS)
def test_norm_relu_and_dropout_stand_in_the_order_that_is_asked_for(order):
    options = {"axis": "channels", "image_shape": (3, 16, 16), "order": order}
    kinds = [type(m).__name__.lower()[:5] for m in seeded("stuck_cnn", **options)]
    names = "relu norm dropout" if order == "posted" else order
    short = {"relu": "relu", "norm": "batch", "dropout": "dropo"}
    expected = [short[name] for name in names.split()]
    assert kinds[-4:-1] == expected  # behind the second dense layer
    if order != "posted":
        pools = [k for k, kind in enumerate(kinds) if kind == "maxpo"]
        assert [kinds[k - 1 : k + 4] for k in pools] == [["conv2", "maxpo", *expected]] * 3


def test_dropout_and_relu_commute_to_the_bit_and_the_norm_with_neither():
    """Six orders are four functions of the same weights and the same draws of dropout."""
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def outputs(order):
        net = seeded("stuck_cnn", axis="channels", image_shape=(3, 16, 16), order=order)
        torch.manual_seed(1)
        return net(images)

    found = {order: outputs(order) for order in models.ORDERS[1:]}
    pairs = [{a, b} for a, b in itertools.combinations(found, 2) if found[a].equal(found[b])]
    assert pairs == [
        {"relu dropout norm", "dropout relu norm"}, {"norm relu dropout", "norm dropout relu"}
    ]  # fmt: skip


def test_the_moving_averages_take_the_weight_that_is_asked_for():
    net = seeded("stuck_cnn", axis="channels", norm_momentum=0.1)
    norms = [m for m in net if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    assert len(norms) == 5 and {m.momentum for m in norms} == {0.1}


# --- initial weights and the small nets ---


@pytest.mark.parametrize("init", [name for name in models.INITIALISERS if name != "torch"])
def test_an_initialiser_has_the_variance_of_its_rule_and_the_range_of_its_shape(init):
    rule, shape = init.split("_")
    model = seeded("mlp", widths=(400, 600, 10), init=init)
    weight = model.linear1.weight.detach()
    expected = {"he": 2 / 400, "lecun": 1 / 400, "glorot": 2 / 1000}[rule]
    assert weight.var().item() == pytest.approx(expected, rel=0.02)
    assert not model.linear1.bias.any()
    widest = {"normal": None, "uniform": 3**0.5, "truncated": 2 / 0.8796}[shape]
    if widest:
        assert 0.99 * widest < weight.abs().max().item() / expected**0.5 <= 1.0001 * widest
    convolution = seeded("small_cnn", widths=(64, 128), init=init).conv2.weight
    expected = {"he": 2 / 576, "lecun": 1 / 576, "glorot": 2 / (576 + 1152)}[rule]
    assert convolution.var().item() == pytest.approx(expected, rel=0.03)


def test_a_given_std_keeps_the_shape_that_init_names():
    model = seeded("mlp", widths=(400, 600, 10), init="he_truncated", init_std=0.1)
    assert model.linear1.weight.std().item() == pytest.approx(0.1, rel=0.02)
    assert model.linear1.weight.abs().max() <= 0.2274


def test_reductions_halve_and_blur_averages():
    inputs = torch.rand(2, 3, 16, 16)
    for reduce in models.REDUCTIONS:
        model = seeded("small_cnn", widths=(4, 8), image_shape=(3, 16, 16), reduce=reduce)
        assert model.linear1.in_features == 8 * 4 * 4
        assert model(inputs).shape == (2, 10)
    flat = torch.full((1, 5, 8, 8), 3.0)
    assert torch.allclose(models.Blur()(flat), torch.full((1, 5, 4, 4), 3.0))
    point = torch.zeros(1, 1, 9, 9)
    point[0, 0, 4, 4] = 16.0
    assert models.Blur()(point)[0, 0, 2, 2] == 4.0 and models.Blur()(point).sum() == 4.0


def test_halving_before_a_convolution_costs_the_same_in_every_way():
    options = {"widths": (4, 6, 8), "image_shape": (3, 16, 16), "halve_before": (1, 2)}
    sizes, kept = set(), set()
    for reduce in models.REDUCTIONS:
        model, shapes = seeded("small_cnn", reduce=reduce, **options), []
        outputs = torch.rand(2, 3, 16, 16)
        for layer in model:
            outputs = layer(outputs)
            if isinstance(layer, nn.Conv2d):
                shapes.append(outputs.shape[1:])
        kept.add(tuple(shapes))
        sizes.add(models.num_parameters(model))
    assert kept == {((4, 16, 16), (6, 8, 8), (8, 4, 4))} and len(sizes) == 1
    never = seeded("small_cnn", **options | {"halve_before": ()})
    assert never.linear1.in_features == 8 * 16 * 16


def test_a_circular_net_without_reduction_sees_no_shift():
    options = {"widths": (4,), "image_shape": (3, 8, 8), "padding_mode": "circular", "head": "mean"}
    model, inputs = seeded("small_cnn", **options).double(), torch.rand(2, 3, 8, 8).double()
    moved = inputs.roll((2, 4), dims=(2, 3))  # by what the one halving keeps
    torch.testing.assert_close(model(moved), model(inputs), rtol=1e-12, atol=1e-12)
    model = seeded("small_cnn", **options | {"padding_mode": "zeros"}).double()
    assert (model(moved) - model(inputs)).abs().max() > 1e-4


def test_options_of_the_small_nets_put_their_layers_in_place():
    model = seeded("small_cnn", widths=(4,), batch_norm=True, dropout=0.5, activation="elu")
    kinds = [key.rstrip("0123456789") for key, _ in model.named_children()]
    assert kinds == ["conv", "batchnorm", "elu", "maxpool", "flatten", "dropout", "linear"]
    assert seeded("mlp", output="softmax")(torch.rand(3, 3072)).sum(1).tolist() == pytest.approx(
        [1.0] * 3
    )
    assert (seeded("mlp", output="relu")(torch.rand(3, 3072)) >= 0).all()


def test_a_width_can_have_several_convolutions_or_blocks():
    model = seeded("small_cnn", widths=(4, 8), convs=2, image_shape=(3, 16, 16), reduce="stride")
    found = [
        (m.in_channels, m.out_channels, m.stride[0]) for m in model if isinstance(m, nn.Conv2d)
    ]
    assert found == [(3, 4, 1), (4, 4, 2), (4, 8, 1), (8, 8, 2)]
    assert model(torch.rand(2, 3, 16, 16)).shape == (2, 10)
    model = seeded("small_resnet", widths=(4, 8), blocks=3)
    blocks = [m for m in model if isinstance(m, models.Residual)]
    assert [m.body[0].stride[0] for m in blocks] == [1, 1, 1, 2, 1, 1]
    assert [m.body[0].in_channels for m in blocks] == [4, 4, 4, 4, 8, 8]
    for name, options in {"small_cnn": {"convs": 0}, "small_resnet": {"blocks": 0}}.items():
        with pytest.raises(ValueError, match="is 0; give at least 1 for each width"):
            models.build(name, **options)


def test_the_deep_cnn_is_a_stack_that_explodes_by_the_formula_and_not_with_norms():
    model = seeded("deep_cnn", depth=4, filters=8, init_std=1.0, batch_norm=False)
    kinds = [type(layer).__name__ for layer in model]
    assert kinds == ["Conv2d", "ReLU"] * 4 + ["Flatten", "Linear"]
    images = torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert model[0](images).shape == (10, 8, 4, 4) and model(images).shape == (10, 1)
    sizes = [model[:k](images).square().mean().sqrt().item() for k in (1, 3, 5, 7)]
    gains = [later / earlier for earlier, later in itertools.pairwise(sizes)]
    inside = (10 / 12) ** 2  # the share of a 3×3 field that lies inside 4×4 pixels
    assert statistics.geometric_mean(gains) == pytest.approx((72 * inside / 2) ** 0.5, rel=0.2)
    averaged = seeded("deep_cnn", filters=8, head="mean")
    assert averaged[-1].in_features == 8 and averaged(images).shape == (10, 1)
    normed = seeded("deep_cnn", depth=4, filters=8, init_std=1.0)(images)
    assert normed.abs().max() < 60 < model(images).abs().max()
    assert seeded("deep_cnn", depth=2, filters=8, outputs=10)(images).shape == (10, 10)
    with pytest.raises(ValueError, match="depth is 0, filters 64; give at least 1"):
        models.build("deep_cnn", depth=0)


def test_the_small_resnet_adds_its_shortcuts():
    model = seeded("small_resnet").eval()
    first = model.residual1
    for norm in (m for m in first.body if isinstance(m, nn.BatchNorm2d)):
        nn.init.zeros_(norm.weight)
    inputs = torch.randn(2, 16, 8, 8)
    assert torch.equal(first(inputs), inputs.relu())  # nothing but the shortcut is left
    sizes = [tuple(b(torch.rand(1, c, 8, 8)).shape[1:]) for b, c in
             ((model.residual2, 16), (model.residual3, 32))]  # fmt: skip
    assert sizes == [(32, 4, 4), (64, 4, 4)]


def test_the_small_resnet_can_end_in_an_activation_and_do_without_biases():
    inputs = torch.rand(3, 3, 16, 16)
    plain, squashed = (seeded("small_resnet", output=o).eval() for o in ("none", "softmax"))
    torch.testing.assert_close(squashed(inputs), plain(inputs).softmax(dim=1))
    layers = (nn.Conv2d, nn.Linear)
    with_bias, without = (
        [m for m in seeded("small_resnet", bias=b).modules() if isinstance(m, layers)]
        for b in (True, False)
    )
    assert [m.bias is not None for m in with_bias] == [*[False] * 5, True, False, False, True, True]
    assert all(m.bias is None for m in without)


@pytest.mark.parametrize("reduce", models.REDUCTIONS)
def test_the_small_resnet_halves_before_every_block_but_the_first(reduce):
    model = seeded("small_resnet", reduce=reduce)
    assert models.num_parameters(model) == models.MODELS["small_resnet"][2]
    sizes = {}
    for name, module in model.named_children():
        module.register_forward_hook(lambda m, i, out, name=name: sizes.update({name: out.shape}))
    model(torch.rand(2, 3, 16, 16))
    assert [sizes[f"residual{k}"][2:] for k in (1, 2, 3)] == [(16, 16), (8, 8), (4, 4)]
    pools = sum(isinstance(m, nn.MaxPool2d) for m in model.modules())
    assert pools == (2 if reduce in ("max", "blur") else 0)


# --- padding ----------------------------------------------------------------------------------


def tensorflow_conv(inputs, weight, bias, stride):
    """'same' convolution by TensorFlow's published rule, one output at a time, in numpy."""
    size, kernel = inputs.shape[-1], weight.shape[-1]
    side = -(-size // stride)
    total = max((side - 1) * stride + kernel - size, 0)
    pad = (total // 2, total - total // 2)
    padded = np.pad(inputs, ((0, 0), (0, 0), pad, pad))
    out = np.empty((len(inputs), len(weight), side, side))
    for row, column in np.ndindex(side, side):
        top, left = row * stride, column * stride
        patch = padded[:, :, top : top + kernel, left : left + kernel]
        out[:, :, row, column] = np.tensordot(patch, weight, ([1, 2, 3], [1, 2, 3])) + bias
    return out


@pytest.mark.parametrize("kernel, stride", [(4, 1), (2, 1), (3, 1), (3, 2)])
def test_same_padding_is_tensorflows(kernel, stride):
    layers = nn.Sequential(*models._conv(2, 3, kernel, "same", stride=stride)).double()
    inputs = torch.rand(2, 2, 8, 8, dtype=torch.float64)
    convolution = layers[-1]
    expected = tensorflow_conv(
        inputs.numpy(),
        convolution.weight.detach().numpy(),
        convolution.bias.detach().numpy(),
        stride,
    )
    np.testing.assert_allclose(layers(inputs).detach().numpy(), expected, rtol=1e-12, atol=1e-14)


def test_thin_cnn_pads_its_even_kernels_unevenly():
    model = posted("thin_cnn")
    assert model.zeropad1.padding == (1, 2, 1, 2) and model.conv1.kernel_size == (4, 4)
    assert model.zeropad2.padding == (0, 1, 0, 1) and model.conv2.kernel_size == (2, 2)


def test_all_conv_padding():
    assert posted("all_conv").linear1.in_features == 192 * 5 * 5
    model = seeded("all_conv", padding="same")
    assert model.linear1.in_features == 192 * 8 * 8
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert [m.stride[0] for m in model if isinstance(m, nn.Conv2d)] == [1, 2, 1, 2]


# --- weights in place -------------------------------------------------------------------------


def test_weight_layers_are_in_forward_order():
    model = posted("stuck_cnn_bn")
    names = {id(m): name for name, m in model.named_modules()}
    assert [names[id(m)] for m in models.weight_layers(model)] == [
        *(f"conv{i}" for i in range(1, 7)),
        *(f"linear{i}" for i in range(1, 4)),
    ]


def test_scale_initial_weights():
    model = seeded("mlp", widths=(4, 3, 2))
    before = copy.deepcopy(model)
    models.scale_initial_weights(model, (1 / 256, 2))
    assert torch.equal(model.linear1.weight * 256, before.linear1.weight)
    assert torch.equal(model.linear2.weight, before.linear2.weight * 2)
    assert torch.equal(model.linear1.bias, before.linear1.bias)
    for scales in (0.5, [0.5]):
        both = copy.deepcopy(before)
        models.scale_initial_weights(both, scales)
        assert torch.equal(both.linear1.weight, before.linear1.weight * 0.5)
        assert torch.equal(both.linear2.weight, before.linear2.weight * 0.5)
    assert model.linear1.weight.requires_grad and model.linear1.weight.is_leaf
    with pytest.raises(ValueError, match="scales has 3 values; give 1, or 2"):
        models.scale_initial_weights(model, (1, 2, 3))


def test_max_norm_shrinks_long_rows_only():
    model = seeded("stuck_cnn")
    with torch.no_grad():
        model.linear1.weight[:5] *= 100
        model.linear3.weight.mul_(100)  # the last layer has no limit
    before = {key: value.clone() for key, value in model.state_dict().items()}
    models.apply_max_norm(model)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"linear1.weight"}
    old, new = before["linear1.weight"].numpy(), model.linear1.weight.detach().numpy()
    norms = np.linalg.norm(old[:5].astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(new[:5], old[:5] * (3 / norms), rtol=1e-5)
    assert np.linalg.norm(new[:5].astype(np.float64), axis=1).max() <= 3 + 1e-6
    assert np.array_equal(new[5:], old[5:])
    assert (model.linear1.max_norm, model.linear2.max_norm) == (3.0, 3.0)


def test_max_norm_can_be_left_out():
    for model in (seeded("stuck_cnn", max_norm=None), seeded("scaling_mlp")):
        models.scale_initial_weights(model, 1000)
        before = state(model)
        models.apply_max_norm(model)
        assert same_bits(before, state(model))


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("resnet", {}, "name is 'resnet'; known: scaling_mlp, mlp, stuck_cnn, "),
        ("stuck_cnn", {"depth": 3}, "option of stuck_cnn is 'depth'; known: axis, dropout_scale, "),
        ("scaling_mlp", {"bias": True}, "option of scaling_mlp is 'bias'; known: none"),
        ("stuck_cnn_bn", {"axis": "rows"}, "axis is 'rows'; known: none, width, channels"),
        ("all_conv", {"padding": "full"}, "padding is 'full'; known: valid, same"),
        ("all_conv", {"init": "xavier"}, "init is 'xavier'; known: torch, he_normal, he_uni"),
        ("mlp", {"activation": "swish"}, "activation is 'swish'; known: relu, leaky_relu, elu"),
        ("mlp", {"output": "argmax"}, "output is 'argmax'; known: relu"),
        ("small_resnet", {"output": "argmax"}, "output is 'argmax'; known: relu"),
        ("small_cnn", {"reduce": "sum"}, "reduce is 'sum'; known: max, mean, stride, blur"),
        ("small_cnn", {"head": "max"}, "head is 'max'; known: flatten, mean"),
        ("small_cnn", {"halve_before": (3,)}, r"halve_before is \(3,\); name places from 0 to 2"),
        ("mlp", {"widths": (10,)}, r"widths is \(10,\); give at least two positive"),
        ("mlp", {"widths": (10, 0, 2)}, r"widths is \(10, 0, 2\); give at least two positive"),
        ("mlp", {"init_std": (1, 1, 1)}, "init_std has 3 values; give 1, or 2"),
        ("thin_cnn", {"dropout_scale": 4}, "dropout_scale is 4; choose one that leaves 0.25 × it"),
        ("small_cnn", {"image_shape": (3, 8, 7)}, "image_shape is .*; 3 pools need sides ≥ 8"),
    ],
)
def test_bad_requests_are_answered_in_a_sentence(name, options, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, **options)
