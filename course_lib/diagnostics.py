"""Probes: what a net is doing inside, as plain numbers.

Every probe leaves the model as it found it (weights, gradients, buffers, the mode of each module)
and torch's global generators too. Inputs are float and ready for the net; they pass through it in
chunks, so that 50,000 images fit, and in eval mode: no dropout, no batch statistics.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.models import ACTIVATIONS

CHUNK = 250  # examples a pass: a Hessian product on the posted CNN then takes about 1 GB
MAX_PRODUCTS = 100  # Hessian-vector products for one eigenvalue
TOLERANCE = 1e-4  # of an eigenvalue λ: its residual |Hv − λv| may be so large, times |λ|


def grad_norm(model: nn.Module) -> float:
    """Euclidean norm of all gradients together, summed in float64.

    Raises ValueError if no parameter has a gradient.
    """
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    if not grads:
        raise ValueError("model has no gradients; call loss.backward() before grad_norm")
    norms = [torch.linalg.vector_norm(grad, dtype=torch.float64) for grad in grads]
    return torch.linalg.vector_norm(torch.stack(norms)).item()


def dead_units(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Which units of each ReLU give 0 for every input, by layer name: bool tensors (units,).

    A unit is an entry of dimension 1, so a convolution's channel is one unit. NaN is not dead.
    A net without `nn.ReLU` modules gives {}. Raises ValueError as `activation_moments` does.
    """
    alive: dict[str, Tensor] = {}

    def observe(name: str, outputs: Tensor) -> None:
        fired = (outputs != 0).transpose(0, 1).flatten(1).any(dim=1)  # (units,)
        alive[name] = alive[name] | fired if name in alive else fired

    _observe(model, inputs, (nn.ReLU,), observe)
    return {name: ~fired for name, fired in alive.items()}


def dead_share(model: nn.Module, inputs: Tensor) -> float:
    """Share of ReLU units that are dead on `inputs`, each unit counting once; 0 without ReLUs."""
    dead = list(dead_units(model, inputs).values())
    return torch.cat(dead).double().mean().item() if dead else 0.0


def activation_moments(model: nn.Module, inputs: Tensor) -> list[dict]:
    """Moments of each activation layer's outputs over inputs, units and positions.

    One dict a layer, in forward order: layer (its name), mean, std (of the population), share_zero
    (share of outputs that are exactly 0).
    Raises ValueError if `inputs` is empty or not float, or an activation module is called twice.
    """
    chunks: dict[str, list[Tensor]] = {}

    def observe(name: str, outputs: Tensor) -> None:
        variance, mean = torch.var_mean(outputs.double(), correction=0)
        zeros = (outputs == 0).double().mean()
        count = torch.tensor(outputs.numel(), dtype=torch.float64, device=outputs.device)
        chunks.setdefault(name, []).append(torch.stack([count, mean, variance, zeros]))

    _observe(model, inputs, tuple(ACTIVATIONS.values()), observe)
    return [{"layer": name} | _merge(torch.stack(rows).cpu()) for name, rows in chunks.items()]


def _merge(rows: Tensor) -> dict[str, float]:
    """Moments of the whole from rows (count, mean, variance, share of zeros) of its parts."""
    weights = rows[:, 0] / rows[:, 0].sum()
    mean, variance, zeros = weights @ rows[:, 1:]
    variance += weights @ (rows[:, 1] - mean) ** 2
    return {"mean": mean.item(), "std": variance.sqrt().item(), "share_zero": zeros.item()}


@torch.no_grad()
def _observe(model: nn.Module, inputs: Tensor, kinds: tuple, observe: Callable) -> None:
    """Call observe(name, outputs) for each module of `kinds` and each chunk of inputs, in eval
    mode. Raises ValueError as `_chunks` does, or if a module is called twice."""
    seen: list[str] = []

    def hook(name: str, module: nn.Module, args: tuple, outputs: Tensor) -> None:
        if name in seen:
            raise ValueError(f"{name!r} runs twice a pass; give each layer its own module")
        seen.append(name)
        observe(name, outputs)

    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    handles = [module.register_forward_hook(partial(hook, name)) for name, module in layers]
    try:
        with _eval_mode(model):
            for chunk in _chunks(inputs):
                seen.clear()
                model(chunk)
    finally:
        for handle in handles:
            handle.remove()


def multiply_adds(model: nn.Module, image_shape: tuple[int, ...] = (3, 32, 32)) -> int:
    """Multiply-adds of convolutions and linear layers for one image of `image_shape`, forward.

    Places in the padding count, since they are multiplied too; biases, norms, activations and pools
    do not. Raises ValueError if the net has none of these layers, or calls one twice.
    """
    counted: list[int] = []

    def count(name: str, outputs: Tensor) -> None:
        window = model.get_submodule(name).weight[0]
        counted.append(outputs.numel() * window.numel())

    like = next(model.parameters(), torch.empty(0))  # its device and type
    _observe(model, like.new_zeros((1, *image_shape)), (nn.Conv2d, nn.Linear), count)
    if not counted:
        raise ValueError("model has no convolution and no linear layer; there is nothing to count")
    return sum(counted)


def rank_auc(scores: Tensor, marked: Tensor) -> float:
    """How often a marked example has a larger score than another one; equal ones count half.

    The area under the ROC curve, of `scores` (N,) and bool `marked` (N,): 1 if all marked ones come
    first, 0.5 by chance. A score that is NaN counts as the largest. Raises ValueError if all are
    marked, or none. Source: Hanley and McNeil (1982).
    """
    if marked.all() or not marked.any():
        raise ValueError(f"marked has {int(marked.sum())} of {len(marked)}; mark some, not all")
    scores = scores.nan_to_num(nan=math.inf, posinf=math.inf)
    high, low = scores[marked, None], scores[~marked]
    return ((high > low).double() + (high == low).double() / 2).mean().item()


@torch.no_grad()
def predicted_classes(model: nn.Module, inputs: Tensor) -> Tensor:
    """The class with the largest logit for each of `inputs` (N, ...): int64 (N,).

    Raises ValueError if `inputs` is empty or not float.
    """
    with _eval_mode(model):
        return torch.cat([model(chunk).argmax(dim=1) for chunk in _chunks(inputs)])


def moved(
    images: Tensor,
    *,
    shift: tuple[float, float] = (0.0, 0.0),
    degrees: float = 0.0,
    zoom: float = 1.0,
) -> Tensor:
    """Float images (N, C, H, W), enlarged and turned about their centre, then shifted; same shape.

    `shift` is in pixels, (down, right); `degrees` turn counter-clockwise; `zoom` is the factor on
    lengths. Bilinear between pixels; beyond its border the image goes on as its mirror image.
    Raises ValueError for images of another form, or a zoom that is not positive.
    """
    if images.ndim != 4 or not images.is_floating_point():
        found = f"{images.dtype} {tuple(images.shape)}"
        raise ValueError(f"images is {found}; use float (N, C, H, W), data.to_float makes them")
    if not zoom > 0:
        raise ValueError(f"zoom is {zoom!r}; give a number above 0")
    height, width = images.shape[2:]
    angle, down, right = math.radians(degrees), 2 * shift[0] / height, 2 * shift[1] / width
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    place = [  # where in the image an output pixel comes from; x and y run from -1 to 1
        [cos, -sin * height / width, sin * height / width * down - cos * right],
        [sin * width / height, cos, -sin * width / height * right - cos * down],
    ]
    place = torch.tensor(place, dtype=images.dtype, device=images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(place, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, "bilinear", "reflection", align_corners=False)


def neighbour_correlation(images: Tensor) -> tuple[float, float]:
    """How much a pixel resembles its right neighbour, and the one below it: two correlations.

    Of `images` (N, C, H, W), with pairs from all images and channels; every image counts from its
    own mean over all its numbers. Photographs give 0.7 or more. Over all orders of an image's
    numbers the mean is exactly -1 / (C H W - 1). Raises ValueError for another shape, or where no
    image varies.
    """
    if images.ndim != 4 or min(images.shape[2:]) < 2:
        raise ValueError(f"images has shape {tuple(images.shape)}; use (N, C, H, W), sides ≥ 2")
    x = images.double()
    x = x - x.mean(dim=(1, 2, 3), keepdim=True)
    variance = x.square().mean().item()
    if not variance > 0:
        raise ValueError(
            f"images has variance {variance}: constant, or with NaN, they have no correlation; "
            "leave them out"
        )
    pairs = (x[..., :-1] * x[..., 1:], x[..., :-1, :] * x[..., 1:, :])
    right, below = (products.mean().item() / variance for products in pairs)
    return right, below


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _chunks(inputs: Tensor) -> tuple[Tensor, ...]:
    if not inputs.is_floating_point():
        raise ValueError(f"inputs is {inputs.dtype}; convert images with data.to_float first")
    if len(inputs) == 0:
        raise ValueError("inputs has 0 examples; probe with at least one")
    return inputs.split(CHUNK)


def top_hessian_eigenvalue(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
) -> float:
    """Algebraically largest eigenvalue of the loss's Hessian in the trained parameters.

    `loss_fn(logits, targets)` must be a mean over examples. Iterates, one Hessian-vector product
    each, until the residual |Hv − λv| is at most `TOLERANCE` · |λ|: some eigenvalue is then that
    close. A value cut off by `MAX_PRODUCTS` is a lower bound. NaN where the loss is not finite.
    The start vector is always the same.
    Raises ValueError if `inputs` is empty or not float, or if nothing is trained.
    """
    params = [p for p in model.parameters() if p.requires_grad]
    if not params:
        raise ValueError("model has no trained parameters; its Hessian is empty: unfreeze some")
    parts = list(zip(_chunks(inputs), targets.split(CHUNK), strict=True))

    def product(vector: Tensor) -> Tensor:
        pieces = vector.to(params[0].dtype).split([p.numel() for p in params])
        losses = (loss_fn(model(x), y) * (len(x) / len(inputs)) for x, y in parts)
        return sum(_hessian_product(loss, params, pieces) for loss in losses)

    generator, size = torch.Generator().manual_seed(0), sum(p.numel() for p in params)
    start = torch.randn(size, generator=generator, dtype=torch.float64)
    with _eval_mode(model), torch.enable_grad():
        return _largest_eigenvalue(product, start.to(inputs.device))


def _hessian_product(loss: Tensor, params: list, pieces: tuple) -> Tensor:
    options = {"allow_unused": True, "materialize_grads": True}
    grads = torch.autograd.grad(loss, params, create_graph=True, **options)
    slope = sum((g * v.view_as(g)).sum() for g, v in zip(grads, pieces, strict=True))
    if slope.requires_grad:  # else the loss is linear in every parameter
        grads = torch.autograd.grad(slope, params, **options)
    else:
        grads = [torch.zeros_like(p) for p in params]
    return torch.cat([g.reshape(-1) for g in grads]).double()


def _largest_eigenvalue(product: Callable, start: Tensor) -> float:
    """LOBPCG (Knyazev 2001) with one vector: the best mix of vector, last step and residual.

    Power iteration finds the eigenvalue of largest magnitude, whatever its sign, can stall where
    both ends of the spectrum are equally far, and took 1 to 8 times as many products on our nets.
    """
    basis = (start / start.norm())[:, None]  # (parameters, up to 3), orthonormal
    images = product(basis[:, 0])[:, None]  # the Hessian times basis
    for _ in range(MAX_PRODUCTS):
        small = basis.T @ images
        if not small.isfinite().all():
            return math.nan
        ritz, mixes = torch.linalg.eigh((small + small.T) / 2)
        value, mix = ritz[-1].item(), mixes[:, -1:]
        residual = images @ mix - value * (basis @ mix)
        size = residual.norm().item()
        if size <= TOLERANCE * abs(value):
            break
        moved = mix[1:].norm()
        if moved > 0:  # keep the last step, orthogonal to the new vector within the old basis
            mix = torch.cat([mix, torch.cat([moved[None, None], -mix[:1] * mix[1:] / moved])], 1)
        basis, images = basis @ mix, images @ mix
        for _ in range(2):  # once more, against rounding
            residual -= basis @ (basis.T @ residual)
        if residual.norm() <= 1e-10 * size:  # nothing left outside the basis
            break
        residual /= residual.norm()
        basis = torch.cat([basis, residual], dim=1)
        images = torch.cat([images, product(residual[:, 0])[:, None]], dim=1)
    return value
