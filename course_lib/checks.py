"""Tips as checks: what each one reads from a script of the zoo, fault and all.

A check does to the script what its tip says and gives numbers by name. Where it trains to the end,
`..._seen` is the score that the script's author reads and `..._skill` the truth; both are 0 for
guessing, 1 for what the reference net learns, and never below 0. A number that is not finite is an
alarm that nobody misses. Which number counts, and from where on, is for the page to say.
"""

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from course_lib import diagnostics, models, zoo
from course_lib.faults import Setup
from course_lib.zoo import Case

FIT_STEPS = 200  # to overfit a few examples
FIRST_STEPS = 10  # in which gradients that explode show themselves
BARE_EXAMPLES = 10  # whose gradients are read without batch norm, one by one
FEW_STEPS = 1000  # one example at a time, at a learning rate that is too high for it
EARLY_STEPS = 50  # about one epoch, after which a first score is read
ONE_PASS = 3000  # steps of one example each, in which all examples of a net come by once
LOOKED_AT = 256  # images whose neighbouring pixels are compared


def skill(net: str, score: float) -> float:
    """Accuracy or R² on the scale from guessing (0) to the reference net (1), and never below 0."""
    floor = zoo.guessing(net)
    found = (score - floor) / (zoo.REFERENCE[net] - floor)
    return max(0.0, found) if math.isfinite(found) else 0.0


def guessing_loss(net: str) -> float:
    """The loss of the best constant: ln 10 for ten classes, the targets' variance (1) otherwise."""
    return math.log(10) if zoo.NETS[net].loss == "cross_entropy" else 1.0


def changed(case: Case, **changes) -> Case:
    """`case` after further changes, names and values of `zoo.CHANGES`."""
    return replace(case, changes={**case.changes, **changes})


# --- before any training ----------------------------------------------------------------------


def look(case: Case, seed: int) -> dict[str, float]:
    """T17 and T19, and what else can be seen before the first step.

    `roughness`: 1 - the smaller correlation of neighbours in training images, of a pixel with the
    one to its right and with the one below; 0 without images.
    `largest`: largest absolute training input, as the net sees it. `shift`: how far validation
    inputs lie from training inputs: the largest difference of two means in training deviations, or
    of the logarithms of two deviations. `one_sidedness`: of the first batch's targets, the share of
    the commonest class, or 1 - their standard deviation. `first_loss`: |ln| of the first loss over
    the loss of guessing.
    """
    setup = zoo.build(case, seed)
    inputs, val_inputs = setup.prepare(setup.inputs), setup.val_prepare(setup.val_inputs)
    batch, targets = next(zoo.batches(setup))
    with torch.no_grad():
        loss = setup.loss(setup.model.train()(setup.prepare(batch)), targets)
    return {
        "roughness": _roughness(inputs[:LOOKED_AT]) if inputs.ndim == 4 else 0.0,
        "largest": inputs.abs().max().item(),
        "shift": _shift(inputs, val_inputs),
        "one_sidedness": _one_sidedness(targets),
        "first_loss": (loss / guessing_loss(case.net)).log().abs().item(),
    }


def _roughness(images: Tensor) -> float:
    # images of one value, or with NaN, have no correlation, and look wrong at once
    varied = images.var() > 0
    return 1.0 - min(diagnostics.neighbour_correlation(images)) if varied else math.nan


def _shift(inputs: Tensor, val_inputs: Tensor) -> float:
    dims = [d for d in range(inputs.ndim) if d != 1]
    (std, mean), (val_std, val_mean) = (torch.std_mean(x, dims) for x in (inputs, val_inputs))
    return torch.stack([(val_mean - mean).abs() / std, (val_std / std).log().abs()]).max().item()


def _one_sidedness(targets: Tensor) -> float:
    if targets.is_floating_point():
        return 1.0 - targets.std(correction=0).item()
    return targets.bincount().max().item() / len(targets)


# --- a few examples ---------------------------------------------------------------------------


def overfit(case: Case, seed: int) -> dict[str, float]:
    """T11: train on 1 example, on 2 with different targets, on 32, for 200 steps each.

    `one_loss` is the last training loss, as printed; `one_eval_loss` the loss of the same example
    when the script validates on it; so for two and thirty_two. In units of the loss of guessing.
    The examples are drawn by `seed`.
    """
    found = {}
    for name, count in {"one": 1, "two": 2, "thirty_two": 32}.items():
        setup = zoo.build(changed(case, epochs=FIT_STEPS, max_steps=FIT_STEPS), seed)
        chosen = _few_examples(setup.targets, count, seed)
        setup.inputs, setup.targets = setup.inputs[chosen], setup.targets[chosen]
        found[f"{name}_loss"] = zoo.train(setup).losses[-1]
        found[f"{name}_eval_loss"] = _loss_in_validation(setup)
    return {name: loss / guessing_loss(case.net) for name, loss in found.items()}


def _few_examples(targets: Tensor, count: int, seed: int) -> Tensor:
    """Places of `count` examples at random; of two, the second is the first drawn that differs.

    Not the first ones: where a fault spoils a single example, it is the first.
    """
    drawn = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    others = (targets[drawn] != targets[drawn[0]]).flatten().nonzero().flatten()
    if count == 2 and len(others):
        return drawn[[0, others[0].item()]]
    return drawn[torch.arange(count).clamp(max=len(drawn) - 1)]


@torch.no_grad()
def _loss_in_validation(setup: Setup) -> float:
    if setup.eval_mode:
        setup.model.eval()
    return setup.loss(setup.model(setup.val_prepare(setup.inputs)), setup.targets).item()


# --- the same training with a change ----------------------------------------------------------


def lower_lr(case: Case, seed: int) -> dict[str, float]:
    """T12: a tenth and a hundredth of the learning rate."""
    return _compare(case, seed, tenth={"lr_factor": 0.1}, hundredth={"lr_factor": 0.01})


def raise_lr(case: Case, seed: int) -> dict[str, float]:
    """T13: ten and a hundred times the learning rate."""
    return _compare(case, seed, tenfold={"lr_factor": 10.0}, hundredfold={"lr_factor": 100.0})


def simplify_loss(case: Case, seed: int) -> dict[str, float]:
    """T18: L1 and L2 in place of the loss that is there."""
    return _compare(case, seed, l1={"loss": "l1"}, l2={"loss": "l2"})


def enlarge_batch(case: Case, seed: int) -> dict[str, float]:
    """T16: 256 examples a step in place of 64, as many epochs or as many steps as before."""
    longer = {"batch_size": 256, "epochs": 4 * zoo.NETS[case.net].epochs}
    return _compare(case, seed, same_epochs={"batch_size": 256}, same_steps=longer)


def shrink_batch(case: Case, seed: int) -> dict[str, float]:
    """T14: one example a step, with the learning rate as it is, or 64 times lower.

    `spread`: log10 of the largest over the median loss, squared errors as their roots, while all
    examples come by once at the lower rate. Not finite if one loss is not, or if all are 0.
    """
    smaller = {"batch_size": 1, "lr_factor": 1 / 64, "max_steps": ONE_PASS}
    outcomes = {
        "before": _outcome(case, seed),
        "one": _outcome(case, seed, batch_size=1, max_steps=FEW_STEPS),
        "one_and_lr": _outcome(case, seed, **smaller),
    }
    losses = torch.tensor(outcomes["one_and_lr"].losses)
    errors = losses if zoo.NETS[case.net].loss == "cross_entropy" else losses.sqrt()
    spread = (errors.max() / errors.median().clamp(min=1e-9)).log10().item()
    return _compared(case.net, outcomes) | {"spread": spread}


def remove_norm(case: Case, seed: int) -> dict[str, float]:
    """T15: batch norm out; and out with one example a step. For nets that have it.

    `gradient`: the norm of each layer's weight gradient in the first batch, before training; of the
    layer furthest from 1, |log10|, rounded down. NaN if a layer has no gradient, or zero. `growth`:
    log10 of the largest loss of the first ten steps over the first. `bare_gradient` and
    `bare_growth`: the same without batch norm and one example at a time; the gradient is the
    median of ten examples.
    """
    bare, bare_and_one = {"batch_norm": False}, {"batch_norm": False, "batch_size": 1}
    found = _compare(case, seed, bare=bare, bare_and_one=bare_and_one)
    for prefix, changes, num_batches in (("", {}, 1), ("bare_", bare_and_one, BARE_EXAMPLES)):
        variant = changed(case, **changes)
        found[f"{prefix}gradient"] = _decades_off(zoo.build(variant, seed), num_batches)
        few = changed(variant, max_steps=FIRST_STEPS)
        losses = torch.tensor(zoo.train(zoo.build(few, seed)).losses)  # its max() hides no NaN
        found[f"{prefix}growth"] = (losses.max() / losses[0].clamp(min=1e-9)).log10().item()
    return found


def _decades_off(setup: Setup, num_batches: int) -> float:
    """Whole powers of ten between 1 and the gradient of the worst layer: median of batches."""
    layers, found = models.weight_layers(setup.model.train()), []
    for inputs, targets in islice(zoo.batches(setup), num_batches):
        setup.model.zero_grad()
        setup.loss(setup.model(setup.prepare(inputs)), targets).backward()
        norms = [0.0 if (g := layer.weight.grad) is None else g.norm().item() for layer in layers]
        found.append(max(abs(math.log10(norm)) if norm > 0 else math.inf for norm in norms))
    middle = statistics.median(found)
    return math.floor(middle) if math.isfinite(middle) else math.nan


def _compare(case: Case, seed: int, **variants: Mapping) -> dict[str, float]:
    """As `_compared`, for the script as it is and after further changes."""
    variants = {"before": {}, **variants}
    return _compared(case.net, {k: _outcome(case, seed, **v) for k, v in variants.items()})


def _outcome(case: Case, seed: int, **changes) -> zoo.Outcome:
    return zoo.train(zoo.build(changed(case, **changes), seed))


def _compared(net: str, outcomes: Mapping[str, zoo.Outcome]) -> dict[str, float]:
    """Score and truth of the script as it is, the truth of its variants, and what the author gets.

    `gain`: the most that a variant raises the score. `after_skill`: the truth about that variant.
    """
    seen = {name: skill(net, found.history["val_score"][-1]) for name, found in outcomes.items()}
    found = {f"{name}_skill": skill(net, found.performance) for name, found in outcomes.items()}
    best = max((name for name in outcomes if name != "before"), key=seen.get)
    found |= {"before_seen": seen["before"], "gain": seen[best] - seen["before"]}
    return found | {"after_skill": found[f"{best}_skill"]}


# --- which examples are bad -------------------------------------------------------------------


def rank_losses(case: Case, seed: int) -> dict[str, float]:
    """T14 on its own: do the losses of single examples find those whose targets a fault spoilt?

    How often a spoilt example has a larger loss than another (the area under the ROC curve, 0.5 by
    chance), losses read as they are trained on, once: `one_auc` and `one_and_lr_auc` with a batch
    of one as in `shrink_batch`, `batch_auc` within batches as they are; `longer_auc`: these, as
    means over all epochs of the script.
    """
    healthy = zoo.build(replace(case, fault=""), seed)
    smaller = {"batch_size": 1, "lr_factor": 1 / 64}
    found, epochs = {}, zoo.NETS[case.net].epochs
    ways = {"one": ({"batch_size": 1}, 1), "one_and_lr": (smaller, 1)}
    for name, (changes, passes) in (ways | {"batch": ({}, 1), "longer": ({}, epochs)}).items():
        setup = zoo.build(changed(case, **changes), seed)
        spoilt = (setup.targets != healthy.targets).flatten()
        losses = losses_in_training(setup, passes)
        found[f"{name}_auc"] = diagnostics.rank_auc(losses, spoilt)
    return found


def losses_in_training(setup: Setup, passes: int) -> Tensor:
    """Each example's loss, just before the step that it is part of: the mean over the passes."""
    order, losses = torch.Generator().manual_seed(setup.seed), torch.zeros(len(setup.inputs))
    setup.model.train()
    for _ in range(passes):
        for chosen in torch.randperm(len(losses), generator=order).split(setup.batch_size):
            outputs = setup.model(setup.prepare(setup.inputs[chosen]))
            each = setup.loss(outputs, setup.targets[chosen], reduction="none").flatten()
            losses[chosen] += each.detach() / passes
            setup.optimizer.zero_grad()
            each.mean().backward()
            setup.optimizer.step()
    return losses


# --- what an early score says -----------------------------------------------------------------


def early_scores(case: Case, seed: int) -> dict[str, float]:
    """T13 on its own: the truth at the end, and the score that the author reads after 50 steps.

    `end_skill` at the learning rate as it is; `tenth_early`, `same_early` and `tenfold_early` at a
    tenth of it, at the rate itself and at ten times as much.
    """
    found = {"end_skill": skill(case.net, _outcome(case, seed).performance)}
    for name, factor in {"tenth": 0.1, "same": 1.0, "tenfold": 10.0}.items():
        early = _outcome(case, seed, lr_factor=factor, max_steps=EARLY_STEPS)
        found[f"{name}_early"] = skill(case.net, early.history["val_score"][-1])
    return found


CHECKS: dict[str, Callable[[Case, int], dict[str, float]]] = {
    "look": look,  # T17, T19
    "overfit": overfit,  # T11
    "lower_lr": lower_lr,  # T12
    "raise_lr": raise_lr,  # T13
    "shrink_batch": shrink_batch,  # T14
    "remove_norm": remove_norm,  # T15
    "enlarge_batch": enlarge_batch,  # T16
    "simplify_loss": simplify_loss,  # T18
    "rank_losses": rank_losses,  # T14, without the zoo's question
    "early_scores": early_scores,  # T13, likewise
}


def run(case: Case, seed: int) -> dict[str, float]:
    """The readings of `case`'s check. Raises ValueError if there is no such check."""
    if case.check not in CHECKS:
        raise ValueError(f"check is {case.check!r}; known: {', '.join(CHECKS)}")
    return CHECKS[case.check](case, seed)
