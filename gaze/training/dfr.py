"""Deep feature reweighting: a trained network's last layer, retrained on images that no training saw, each group alike.

Kirichenko et al. 2022 (arXiv:2204.02937): logistic regression on standardised features (batch norm in evaluation), its
strength of regularisation chosen by the accuracy of the worst group on one half of the held-out images after a fit on
the other, then the mean of fits on random choices of all of them that hold each group alike. Sparse (L1) and one class
against the rest, as the paper's own fits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gaze.data.datamodule import GazeDataModule
from gaze.data.marker import group_names
from gaze.errors import ConfigError, DataError
from gaze.training.module import GazeModule

STRENGTHS = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)  # C of scikit-learn, the paper's
FITS = 10
Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


def retrain_last_layer(module: GazeModule, data: GazeDataModule) -> str:
    """Put new weights into the last linear layer of ``module``, fitted to the validation images of ``data``.

    Returns:
        What was done, for the reader.

    Raises:
        ConfigError: the network does not end in a linear layer of its classes.
        DataError: a group has fewer than 2 validation images.
    """
    layers = [own for own in module.backbone.modules() if isinstance(own, nn.Linear)]
    if not layers or layers[-1].out_features != len(data.classes):
        raise ConfigError(f"dfr=true retrains a last linear layer, and {module.hparams['model']} ends in none.")
    split = data.data.evaluated
    targets, groups = split.targets.numpy(), split.marker_groups.numpy()
    counts = np.bincount(groups, minlength=2 * len(data.classes))
    if counts.min() < 2:
        few = group_names(data.classes)[int(counts.argmin())]
        raise DataError(f"dfr=true needs 2 validation images of each group, and has {counts.min()} of: {few}.")
    strength, weight, bias = fit_balanced(features_of(module, layers[-1], data), targets, groups, data.seed)
    with torch.no_grad():
        layers[-1].weight.copy_(torch.from_numpy(weight))
        if layers[-1].bias is not None:
            layers[-1].bias.copy_(torch.from_numpy(bias))
    alike = f"{counts.min()} of each group"
    return f"Last layer retrained on {len(targets):,} validation images, {alike} (DFR, C={strength:g})"


@torch.no_grad()
def features_of(module: GazeModule, layer: nn.Linear, data: GazeDataModule) -> Floats:
    """What the layer reads of each validation image (N, D)."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].double().cpu()))
    training = module.training
    module.eval()
    try:
        for places in torch.arange(len(data.data.evaluated.targets)).split(data.config.batch_size):
            module(data.evaluation_batch(places.tolist()).image.to(module.device))
    finally:
        handle.remove()
        module.train(training)
    return torch.cat(seen).numpy()


def fit_balanced(features: Floats, targets: Whole, groups: Whole, seed: int) -> tuple[float, Floats, Floats]:
    """C, weights (K, D) and biases (K,) of the paper's classifier.

    Args:
        features: (N, D).
        targets: classes (N,), each of 0..K-1 among them.
        groups: (N,), 2 images of each at least.
        seed: of halves and choices.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(groups))
    turn = np.array([np.sum(groups[order[:i]] == groups[place]) for i, place in enumerate(order)])
    first, second = order[turn % 2 == 0], order[turn % 2 == 1]  # half of each group

    def worst(strength: float) -> float:
        weight, bias = _mean_fit(features[first], targets[first], groups[first], strength, np.random.default_rng(seed))
        right = (features[second] @ weight.T + bias).argmax(1) == targets[second]
        return float(min(right[groups[second] == group].mean() for group in np.unique(groups)))

    best = max(STRENGTHS, key=worst)
    return best, *_mean_fit(features, targets, groups, best, rng)


def _mean_fit(
    features: Floats, targets: Whole, groups: Whole, strength: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    from sklearn.linear_model import LogisticRegression  # a second that no other run waits for
    from sklearn.multiclass import OneVsRestClassifier

    mean, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    weights, biases = [], []
    for chosen in _alike(groups, rng):
        sparse = LogisticRegression(C=strength, l1_ratio=1, solver="liblinear", random_state=0)
        fits = OneVsRestClassifier(sparse).fit((features[chosen] - mean) / scale, targets[chosen]).estimators_
        weight, bias = np.concatenate([fit.coef_ for fit in fits]), np.concatenate([fit.intercept_ for fit in fits])
        if len(fits) == 1:  # of two classes: the difference of the logits
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        weights.append(weight)
        biases.append(bias)
    weight = np.mean(weights, 0) / scale
    return weight, np.mean(biases, 0) - weight @ mean


def _alike(groups: Whole, rng: np.random.Generator) -> Iterator[Whole]:
    """Places of random choices that hold as many images of each group as the smallest has."""
    own = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    least = min(map(len, own))
    for _ in range(FITS):
        yield np.concatenate([rng.permutation(places)[:least] for places in own])
