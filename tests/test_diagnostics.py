"""Probes against hand-computed values and exact Hessians; and they change nothing."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_lib import diagnostics, models


def tiny_mlp(seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return models.build("mlp", generator=generator, **({"widths": (4, 6, 3)} | options)).double()


def tiny_data(num=20, width=4, classes=3):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(num, width, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(classes, (num,), generator=generator)


# --- moved images -----------------------------------------------------------------------------


def ramps(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two images whose value is the place: x to the right, y downwards, from the centre."""
    y = torch.arange(height).double() - (height - 1) / 2
    x = torch.arange(width).double() - (width - 1) / 2
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([x, y])[:, None], x, y  # (2, 1, H, W)


def test_a_shift_by_whole_pixels_copies_them_and_mirrors_the_border():
    images = torch.rand(2, 3, 5, 8, dtype=torch.float64)
    down = diagnostics.moved(images, shift=(2, 0))
    torch.testing.assert_close(down, images[:, :, [1, 0, 0, 1, 2]])
    left = diagnostics.moved(images, shift=(0, -3))
    torch.testing.assert_close(left, images[..., [3, 4, 5, 6, 7, 7, 6, 5]])


def test_a_quarter_turn_and_a_half():
    images = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    turned = diagnostics.moved(images, degrees=90)
    torch.testing.assert_close(turned, images.rot90(1, dims=(2, 3)))
    images = torch.rand(2, 3, 4, 7, dtype=torch.float64)
    torch.testing.assert_close(diagnostics.moved(images, degrees=180), images.flip(2, 3))


def test_zoom_turn_and_shift_sample_where_they_should():
    images, x, y = ramps(9, 15)
    angle, zoom, (down, right) = 25.0, 1.25, (1.5, -0.5)
    found = diagnostics.moved(images, shift=(down, right), degrees=angle, zoom=zoom)[:, 0]
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    # An example at (x, y), y downwards: first enlarged, turned towards -y, and shifted last.
    source = torch.stack([
        cos * (x - right) - sin * (y - down), sin * (x - right) + cos * (y - down)
    ]) / zoom  # fmt: skip
    inside = (source[0].abs() <= 7) & (source[1].abs() <= 4)  # further out lies the mirror image
    assert inside.sum() > 80
    torch.testing.assert_close(found[:, inside], source[:, inside])


def test_images_that_cannot_be_moved_are_refused():
    with pytest.raises(ValueError, match=r"uint8 \(1, 3, 4, 4\); use float"):
        diagnostics.moved(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="zoom is 0"):
        diagnostics.moved(torch.zeros(1, 3, 4, 4), zoom=0)


def test_neighbours_of_a_ramp_a_checkerboard_and_noise():
    ramp = torch.arange(64.0).expand(3, 64, 64)[None]
    assert diagnostics.neighbour_correlation(ramp) == pytest.approx((1, 1), abs=0.05)
    board = (torch.arange(8)[:, None] + torch.arange(8)).remainder(2).expand(2, 1, 8, 8)
    assert diagnostics.neighbour_correlation(board) == pytest.approx((-1, -1))
    stripes = torch.arange(8).remainder(2).expand(1, 1, 8, 8)  # right: the other, below: the same
    assert diagnostics.neighbour_correlation(stripes.to(torch.uint8)) == pytest.approx((-1, 1))
    noise = torch.randn(50, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert diagnostics.neighbour_correlation(noise) == pytest.approx((0, 0), abs=0.02)


def test_over_all_orders_neighbours_have_one_mean_whatever_the_image():
    values = torch.tensor([0.0, 1.0, 5.0, 2.0, 2.0, 9.0])
    orders = [values[list(order)].view(1, 1, 2, 3) for order in itertools.permutations(range(6))]
    found = torch.tensor([diagnostics.neighbour_correlation(image) for image in orders])
    assert found.mean(dim=0).tolist() == pytest.approx([-1 / 5, -1 / 5], abs=1e-6)


def test_images_without_neighbours_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 3, 1, 4\); use \(N, C, H, W\)"):
        diagnostics.neighbour_correlation(torch.zeros(2, 3, 1, 4))
    with pytest.raises(ValueError, match="variance 0.0: constant, or with NaN"):
        diagnostics.neighbour_correlation(torch.ones(2, 3, 4, 4))


def test_predicted_classes_are_those_of_eval_mode():
    model = models.build("mlp", widths=(4, 6, 3), dropout=0.9)
    inputs = torch.randn(600, 4)
    found = diagnostics.predicted_classes(model, inputs)
    assert model.training
    assert torch.equal(found, model.eval()(inputs).argmax(dim=1)) and found.unique().numel() > 1


# --- gradient norm ----------------------------------------------------------------------------


def test_grad_norm_is_the_norm_of_everything():
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    model[0].weight.grad = torch.full((1, 1), 2.0)
    model[0].bias.grad = torch.full((1,), -4.0)
    model[1].weight.grad = torch.full((1, 1), 4.0)  # the second bias has none
    assert diagnostics.grad_norm(model) == 6.0
    model[0].weight.grad = torch.full((1, 1), 3e30)  # its square is not a float32
    model[1].weight.grad = torch.full((1, 1), 4e30)
    assert diagnostics.grad_norm(model) == pytest.approx(5e30)


def test_grad_norm_of_a_dead_net_is_zero_but_no_gradient_is_an_error():
    model = models.build("mlp", widths=(2, 3, 2), bias=False)
    with pytest.raises(ValueError, match="no gradients; call loss.backward"):
        diagnostics.grad_norm(model)
    nn.init.constant_(model.linear1.weight, -1.0)
    model(torch.ones(4, 2)).sum().backward()
    assert diagnostics.grad_norm(model) == 0.0


# --- dead units -------------------------------------------------------------------------------


def planted_mlp():
    """Four units on one input: always on, on below −1 only, never on, NaN."""
    model = models.build("mlp", widths=(1, 4, 2, 1))
    with torch.no_grad():
        model.linear1.weight.copy_(torch.tensor([[0.0], [-1.0], [0.0], [0.0]]))
        model.linear1.bias.copy_(torch.tensor([1.0, -1.0, -1.0, torch.nan]))
        model.linear2.weight.zero_()
        model.linear2.bias.copy_(torch.tensor([-1.0, 1.0]))
    return model


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_dead_units_by_layer(monkeypatch, chunk):
    monkeypatch.setattr(diagnostics, "CHUNK", chunk)
    model = planted_mlp()
    inputs = torch.tensor([[0.0], [1.0], [0.5], [2.0], [-3.0]])  # only the last wakes unit 1
    dead = diagnostics.dead_units(model, inputs)
    assert list(dead) == ["relu1", "relu2"]
    assert dead["relu1"].dtype == torch.bool
    assert dead["relu1"].tolist() == [False, False, True, False]
    assert diagnostics.dead_units(model, inputs[:-1])["relu1"].tolist() == [
        False,
        True,
        True,
        False,
    ]


def test_dead_share_counts_every_unit_once():
    model = planted_mlp()
    with torch.no_grad():
        model.linear1.bias[3] = -1.0
        model.linear2.weight.zero_()
    inputs = torch.tensor([[0.0], [1.0]])
    assert diagnostics.dead_units(model, inputs)["relu2"].tolist() == [True, False]
    assert diagnostics.dead_share(model, inputs) == pytest.approx((3 + 1) / 6)


def test_a_channel_is_a_unit():
    model = models.build("small_cnn", widths=(4, 8), image_shape=(3, 8, 8))
    images = torch.rand(6, 3, 8, 8)
    with torch.no_grad():
        model.conv1.weight[2] = 0
        model.conv1.bias[2] = 0  # outputs 0: dead
        model.conv1.weight[3] = 0
        model.conv1.weight[3, 0, 0, 0] = 1.0
        model.conv1.bias[3] = -images[-1].max()  # fires nowhere, or nearly so
        model.conv1.bias[3] += 1e-3
    with torch.no_grad():
        hidden = model.relu1(model.conv1(images))
        second = model.relu2(model.conv2(model.maxpool1(hidden)))
    expected = {
        "relu1": (hidden.numpy() == 0).all(axis=(0, 2, 3)),
        "relu2": (second.numpy() == 0).all(axis=(0, 2, 3)),
    }
    dead = diagnostics.dead_units(model, images)
    assert {name: mask.tolist() for name, mask in dead.items()} == {
        name: mask.tolist() for name, mask in expected.items()
    }
    assert dead["relu1"].shape == (4,) and dead["relu1"][2]


def test_all_units_of_a_killed_net_are_dead():
    model = models.build("scaling_mlp")
    nn.init.constant_(model.linear1.weight, -0.1)
    images = torch.rand(600, 3, 32, 32)  # more than two chunks
    assert diagnostics.dead_share(model, images) == 1.0
    assert not model(images).any()


def test_a_net_without_relus_has_no_dead_units():
    model, inputs = tiny_mlp(activation="tanh"), tiny_data()[0]
    assert diagnostics.dead_units(model, inputs) == {}
    assert diagnostics.dead_share(model, inputs) == 0.0


def test_every_relu_of_the_posted_nets_is_found():
    images = torch.rand(3, 3, 32, 32)
    for name, units in {
        "scaling_mlp": 300,
        "stuck_cnn_bn": 2 * (32 + 64 + 128) + 1024 + 512,
        "all_conv": 2 * (96 + 192) + 256,
        "strided_cnn": 32 + 64 + 128,
        "thin_cnn": 64 + 64 + 32 + 32 + 64,
        "small_cnn": 16 + 32 + 64,
    }.items():
        dead = diagnostics.dead_units(models.build(name), images)
        assert sum(mask.numel() for mask in dead.values()) == units


# --- activation moments -----------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_activation_moments_by_hand(monkeypatch, chunk):
    monkeypatch.setattr(diagnostics, "CHUNK", chunk)  # 2 leaves a short last chunk
    model = models.build("mlp", widths=(1, 2, 1))
    with torch.no_grad():
        model.linear1.weight.copy_(torch.tensor([[1.0], [-2.0]]))
        model.linear1.bias.zero_()
    rows = diagnostics.activation_moments(model, torch.tensor([[1.0], [2.0], [-3.0]]))
    # ReLU outputs: (1, 0), (2, 0), (0, 6): mean 9/6, mean square 41/6, three zeros of six
    assert [row["layer"] for row in rows] == ["relu1"]
    assert rows[0]["mean"] == pytest.approx(1.5)
    assert rows[0]["std"] == pytest.approx(np.sqrt(41 / 6 - 1.5**2))
    assert rows[0]["share_zero"] == pytest.approx(0.5)


def test_activation_moments_of_every_activation_layer_in_order():
    model = models.build("thin_cnn").eval()
    images = torch.rand(5, 3, 32, 32)
    rows = diagnostics.activation_moments(model, images)
    assert [row["layer"] for row in rows] == [*(f"relu{i}" for i in range(1, 6)), "tanh1"]
    outputs = images
    for name, module in model.named_children():
        with torch.no_grad():
            outputs = module(outputs)
        row = next((row for row in rows if row["layer"] == name), None)
        if row is not None:
            values = outputs.double().numpy()
            assert row["mean"] == pytest.approx(values.mean(), rel=1e-5, abs=1e-7)
            assert row["std"] == pytest.approx(values.std(), rel=1e-5)
            assert row["share_zero"] == pytest.approx((values == 0).mean())


def test_a_constant_activation_has_no_spread():
    model = models.build("mlp", widths=(1, 3, 1))
    with torch.no_grad():
        model.linear1.weight.zero_()
        model.linear1.bias.fill_(0.1)
    row = diagnostics.activation_moments(model, torch.rand(1000, 1))[0]
    assert row["std"] == 0.0
    assert row["mean"] == pytest.approx(0.1)


def test_a_module_called_twice_is_refused():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(2, 3), relu, nn.Linear(3, 4), relu)
    with pytest.raises(ValueError, match="'1' runs twice a pass; give each layer its own"):
        diagnostics.dead_units(model, torch.rand(2, 2))
    assert model.training and not relu._forward_hooks


# --- the largest eigenvalue -------------------------------------------------------------------


class Quadratic(nn.Module):
    """Every example's output is w'Aw / 2, so the Hessian of their mean is A."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = torch.as_tensor(matrix)
        self.w = nn.Parameter(torch.linspace(-1, 1, len(matrix), dtype=self.matrix.dtype))

    def forward(self, inputs):
        return (self.w @ self.matrix @ self.w / 2).expand(len(inputs))


def mean_output(logits, targets):
    return logits.mean()


def with_spectrum(eigenvalues, seed=0):
    eigenvalues = np.array(eigenvalues, dtype=float)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))
    return rotation @ np.diag(eigenvalues) @ rotation.T


SPECTRA = {
    "positive": ([5, 3, 1, 0.5, 0], 5),
    "dominant one negative": ([-50, 2, 1, 0.1, -3], 2),
    "both ends equally far": ([4, -4, 1, 0, -1], 4),
    "negative only": ([-1, -2, -3, -4], -1),
    "repeated": ([3, 3, 3, -7], 3),
    "one weight": ([2.5], 2.5),
    "one weight, negative": ([-2.5], -2.5),
    "two weights": ([-6, 1], 1),
    "zero": ([0, 0, 0], 0),
    "nothing above zero": ([-6, 0], 0),
    "a thousandfold spread": ([1000, 999, 1, -1000, *np.linspace(-1, 1, 60)], 1000),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_known_spectrum(name):
    eigenvalues, largest = SPECTRA[name]
    inputs = torch.zeros(3, 1, dtype=torch.float64)
    for seed in range(3):
        model = Quadratic(with_spectrum(eigenvalues, seed))
        value = diagnostics.top_hessian_eigenvalue(model, mean_output, inputs, torch.zeros(3))
        assert value == pytest.approx(largest, rel=1e-4, abs=1e-9)


def exact_spectrum(model, loss_fn, inputs, targets):
    """Eigenvalues, ascending, of the whole Hessian, row by row and by numpy.

    Not `torch.func.hessian`: on torch 2.13 that warns of a deprecated torch.jit on its way.
    """
    params = {name: p.detach() for name, p in model.named_parameters()}
    shapes = [p.shape for p in params.values()]

    def loss_of(vector):
        pieces = vector.split([shape.numel() for shape in shapes])
        new = {n: p.view(s) for n, p, s in zip(params, pieces, shapes, strict=True)}
        return loss_fn(torch.func.functional_call(model, new, (inputs,)), targets)

    vector = torch.cat([p.reshape(-1) for p in params.values()])
    return np.linalg.eigvalsh(torch.autograd.functional.hessian(loss_of, vector).numpy())


def negative_loss(logits, targets):
    return -F.cross_entropy(logits, targets)


@pytest.mark.parametrize("loss_fn", [F.cross_entropy, negative_loss])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_against_the_exact_hessian(monkeypatch, loss_fn, activation):
    monkeypatch.setattr(diagnostics, "TOLERANCE", 1e-6)
    model, (inputs, targets) = tiny_mlp(activation=activation), tiny_data()
    spectrum = exact_spectrum(model, loss_fn, inputs, targets)
    if loss_fn is negative_loss:
        assert -spectrum[0] > 2 * spectrum[-1] > 0  # the dominant one is negative
    value = diagnostics.top_hessian_eigenvalue(model, loss_fn, inputs, targets)
    assert value == pytest.approx(spectrum[-1], rel=1e-8)


def test_against_the_hessian_of_softmax_regression_in_numpy(monkeypatch):
    monkeypatch.setattr(diagnostics, "TOLERANCE", 1e-6)
    inputs, targets = tiny_data()
    model = tiny_mlp(widths=(4, 3), bias=False)
    x, weight = inputs.numpy(), model.linear1.weight.detach().numpy()
    odds = np.exp(x @ weight.T)
    share = odds / odds.sum(axis=1, keepdims=True)  # (examples, classes)
    spread = share[:, :, None] * np.eye(3) - share[:, :, None] * share[:, None, :]
    hessian = np.einsum("nij,nk,nl->ikjl", spread, x, x).reshape(12, 12) / len(x)
    value = diagnostics.top_hessian_eigenvalue(model, F.cross_entropy, inputs, targets)
    assert value == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=1e-8)


def test_in_float32_and_in_chunks(monkeypatch):
    model, (inputs, targets) = tiny_mlp(), tiny_data()
    exact = exact_spectrum(model, F.cross_entropy, inputs, targets)[-1]
    arguments = (model.float(), F.cross_entropy, inputs.float(), targets)
    for chunk in (1, 7, 20):
        monkeypatch.setattr(diagnostics, "CHUNK", chunk)
        value = diagnostics.top_hessian_eigenvalue(*arguments)
        assert value == pytest.approx(exact, rel=1e-5)


def test_of_a_net_with_dropout_norm_and_pooling_in_eval_mode():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(8, 3),
    ).double()  # fmt: skip
    inputs, targets = torch.rand(9, 1, 6, 6, dtype=torch.float64), torch.arange(9) % 3
    model(inputs)  # moves the running statistics
    exact = exact_spectrum(model.eval(), F.cross_entropy, inputs, targets)[-1]
    model.train()
    with torch.no_grad():  # what the caller has switched off does not matter
        value = diagnostics.top_hessian_eigenvalue(model, F.cross_entropy, inputs, targets)
    assert value == pytest.approx(exact, rel=1e-5)


def test_frozen_weights_take_no_part():
    model, (inputs, targets) = tiny_mlp(), tiny_data()
    whole = diagnostics.top_hessian_eigenvalue(model, F.cross_entropy, inputs, targets)
    model.linear1.requires_grad_(False)
    logits_model = model.linear2
    hidden = model.relu1(model.linear1(inputs)).detach()
    exact = exact_spectrum(logits_model, F.cross_entropy, hidden, targets)[-1]
    value = diagnostics.top_hessian_eigenvalue(model, F.cross_entropy, inputs, targets)
    assert value == pytest.approx(exact, rel=1e-5)
    assert value < whole


def test_an_all_dead_net_is_flat():
    model = models.build("mlp", widths=(4, 6, 3), bias=False)
    nn.init.constant_(model.linear1.weight, -1.0)
    inputs, targets = torch.rand(5, 4), torch.arange(5) % 3
    assert diagnostics.top_hessian_eigenvalue(model, F.cross_entropy, inputs, targets) == 0.0


def test_a_linear_loss_has_no_curvature():
    model = nn.Linear(2, 1)
    arguments = (model, mean_output, torch.rand(5, 2), torch.zeros(5))
    assert diagnostics.top_hessian_eigenvalue(*arguments) == 0.0


def test_cut_off_it_is_a_lower_bound_and_the_start_is_reproducible(monkeypatch):
    monkeypatch.setattr(diagnostics, "MAX_PRODUCTS", 3)
    arguments = (Quadratic(with_spectrum([*np.linspace(-1, 1, 40)])), mean_output)
    arguments += (torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2))
    one, again = (diagnostics.top_hessian_eigenvalue(*arguments) for _ in range(2))
    assert one == again < 0.999


def counting(loss_fn):
    """The loss function, and a list that grows by one entry with each call."""
    calls = []

    def counted(logits, targets):
        calls.append(len(logits))
        return loss_fn(logits, targets)

    return counted, calls


def test_a_loss_that_is_not_finite_gives_nan_at_once():
    model = models.build("mlp", widths=(4, 6, 3))
    nn.init.constant_(model.linear1.weight, torch.inf)
    inputs, targets = torch.rand(5, 4), torch.arange(5) % 3
    loss_fn, calls = counting(F.cross_entropy)
    assert np.isnan(diagnostics.top_hessian_eigenvalue(model, loss_fn, inputs, targets))
    assert len(calls) == 1


def test_it_stops_when_every_direction_has_been_tried():
    model = Quadratic(with_spectrum([-6, 0]))
    loss_fn, calls = counting(mean_output)
    inputs = torch.zeros(2, 1, dtype=torch.float64)
    value = diagnostics.top_hessian_eigenvalue(model, loss_fn, inputs, torch.zeros(2))
    assert value == pytest.approx(0, abs=1e-9)
    assert len(calls) <= 4


# --- nothing is changed -----------------------------------------------------------------------

PROBES = {
    "dead_units": lambda model, x, y: diagnostics.dead_units(model, x),
    "dead_share": lambda model, x, y: diagnostics.dead_share(model, x),
    "activation_moments": lambda model, x, y: diagnostics.activation_moments(model, x),
    "grad_norm": lambda model, x, y: diagnostics.grad_norm(model),
    "top_hessian_eigenvalue": lambda model, x, y: diagnostics.top_hessian_eigenvalue(
        model, F.cross_entropy, x, y
    ),
}


def mixed_model():
    """Normalisation and dropout, gradients in place, one layer in eval mode within training."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), models.ColumnNorm(4, **models.KERAS_NORM), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3),
    )  # fmt: skip
    images, targets = torch.rand(10, 1, 6, 6), torch.arange(10) % 3
    F.cross_entropy(model(images), targets).backward()
    model[6].eval()
    return model, images, targets


@pytest.mark.parametrize("name", PROBES)
def test_nothing_is_changed(name):
    model, images, targets = mixed_model()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    grads = [p.grad.clone() for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    random_state, kept_images = torch.get_rng_state(), images.clone()
    PROBES[name](model, images, targets)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(images, kept_images)
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks for m in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert torch.equal(parameter.grad, grad) and parameter.requires_grad


def test_modes_and_hooks_come_back_after_an_error():
    model, _, _ = mixed_model()
    modes = [m.training for m in model.modules()]
    with pytest.raises(RuntimeError):
        diagnostics.dead_units(model, torch.rand(2, 5, 6, 6))  # five channels, not one
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks for m in model.modules())


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dead_share", "activation_moments", "top_hessian_eigenvalue"])
def test_inputs_that_cannot_be_probed(name):
    model, _, targets = mixed_model()
    with pytest.raises(ValueError, match=r"inputs is torch.uint8; convert .* data.to_float"):
        PROBES[name](model, torch.zeros(10, 1, 6, 6, dtype=torch.uint8), targets)
    with pytest.raises(ValueError, match="inputs has 0 examples; probe with at least one"):
        PROBES[name](model, torch.zeros(0, 1, 6, 6), targets[:0])


def test_a_frozen_net_has_no_hessian():
    model, images, targets = mixed_model()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no trained parameters; its Hessian is empty"):
        diagnostics.top_hessian_eigenvalue(model, F.cross_entropy, images, targets)


# --- multiply-adds ----------------------------------------------------------------------------


def test_multiply_adds_by_hand_and_nothing_is_changed():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * 3 * 4, 5), nn.BatchNorm1d(5),
    )  # fmt: skip
    before = {name: value.clone() for name, value in model.state_dict().items()}
    convolution, linear = 4 * 3 * 4 * (3 * 9), 5 * 48  # 3 × 4 places of 4 channels, 27 weights each
    assert diagnostics.multiply_adds(model, (3, 6, 8)) == convolution + linear
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and not any(m._forward_hooks for m in model.modules())
    with pytest.raises(ValueError, match="no convolution and no linear layer"):
        diagnostics.multiply_adds(nn.Sequential(nn.Flatten()))


def test_multiply_adds_of_the_posted_net():
    sides = {32: ((3, 32), (32, 32)), 16: ((32, 64), (64, 64)), 8: ((64, 128), (128, 128))}
    convolutions = sum(9 * a * b * side**2 for side, pairs in sides.items() for a, b in pairs)
    dense = 128 * 4 * 4 * 1024 + 1024 * 512 + 512 * 10
    assert diagnostics.multiply_adds(models.build("stuck_cnn")) == convolutions + dense


# --- ranks ------------------------------------------------------------------------------------


def test_rank_auc_counts_pairs():
    marked = torch.tensor([True, False, True, False])
    assert diagnostics.rank_auc(torch.tensor([4.0, 1.0, 3.0, 2.0]), marked) == 1.0
    assert diagnostics.rank_auc(torch.tensor([4.0, 1.0, 1.0, 2.0]), marked) == (2 + 0.5) / 4
    lost = torch.tensor([torch.nan, 1.0, torch.inf, torch.inf])
    assert diagnostics.rank_auc(lost, marked) == 0.75


def test_rank_auc_needs_both_kinds():
    with pytest.raises(ValueError, match="marked has 2 of 2"):
        diagnostics.rank_auc(torch.ones(2), torch.ones(2, dtype=torch.bool))
