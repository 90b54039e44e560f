"""Label inference: which classes are in the batch, read off the gradient of the last linear layer.

With logits ``z = W h + b`` and cross-entropy, ``g := ∂ℓ/∂b = mean_i (p_i − y_i)`` and
``G := ∂ℓ/∂W = mean_i (p_i − y_i) h_iᵀ``.

One sample: ``h = Gᵀ g / ‖g‖²``, hence p, hence ``y = p − g`` exactly, soft labels included. Where p cannot be computed,
``p − y`` still has exactly one negative entry, the label (iDLG, Zhao et al. 2020, arXiv 2001.02610); without a bias,
``G`` has rank one and its left singular vector is ``p − y`` up to a sign that the same rule fixes, whatever the sign of
the features (iDLG's row sum needs non-negative ones).

More samples: ``n_k / B = mean p_k − g_k``, with ``n_k ≥ −B g_k`` as a fact. The mean prediction is estimated in three
steps: images with the spectrum of photographs (1/f noise) give logits ``z``; a common shift, a spread and a tilt of
these logits towards their own class are fitted so that the second moment ``G Wᵀ = mean (p − y)(z − b)ᵀ`` of the update
comes out; from there, dummy features with soft labels are fitted to g and G (`label_features`), and their predictions
averaged. The counts are rounded so that they sum to B. An estimate, better on an untrained model than on a trained one.

iLRG (Ma et al. 2023, arXiv 2302.09904: class features ``G_k / g_k``, then a pseudo-inverse) is computed as a
cross-check and its agreement reported; on briefly trained networks it is worse, as the class features mix. The fact
above is what LLG (Wainakh et al. 2022) starts from.

After several local steps the model half-way between the weights before and after takes the place of the model, and the
features are fitted through the steps (`leakaudit.attacks.labels.steps`). Of a client whose learning rate or number of
steps is not known, the scale of the update is estimated first (`leakaudit.attacks.labels.scale`). Where all images look
alike to the last layer, counts are refined on a simulated client (`leakaudit.attacks.labels.simulate`).

A known defence changes what can be believed. Through noise the label of one sample is the largest entry of the leading
left singular vector of ``[G | g] = (p − y) [hᵀ 1]``, where that is more than noise, and else of g alone. Clipped,
pruned, rounded or signed updates have no p − y of known scale: no soft label is read from them, only the sign. The fact
``n_k ≥ −B g_k`` holds up to four standard deviations of the noise, and not for signs.

Losses other than plain cross-entropy are read by `leakaudit.attacks.labels.by_loss`.

Fails without a linear last layer, and is poor on a network that is
overfitted to the very samples, whose predictions then depend on their labels.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from leakaudit.attacks.labels import simulate
from leakaudit.attacks.labels.by_loss import infer_by_loss
from leakaudit.attacks.labels.counts import fit_prediction, ilrg_shares, round_counts, whole
from leakaudit.attacks.labels.features import feature_fit
from leakaudit.attacks.labels.head import Head, find_head, last_layer_signal, probabilities
from leakaudit.attacks.labels.scale import scaled
from leakaudit.attacks.labels.steps import halfway, through_steps
from leakaudit.attacks.reading.noise import rank_limit
from leakaudit.observation import Observation
from leakaudit.target.target import Target
from leakaudit.tasks.base import LabelGuess

CERTAIN = 0.95
"""A recovered label with at least this share on one class is reported as that class; chosen, not measured."""


def infer_labels(target: Target, observation: Observation, generator: Generator) -> LabelGuess:
    """Infer the labels behind an update; never looks at the batch.

    Args:
        target: The model, in the mode of the protocol.
        observation: The update and the batch size.
        generator: CPU generator of the probe images that estimate the mean prediction.
    """
    if not target.task.plain:
        return infer_by_loss(target, observation, generator)
    moving = halfway(target, observation)
    head = find_head(moving, observation, generator)
    size = observation.batch_size
    if size == 1 and head.weight in observation.update and head.bias in observation.update:
        plain = observation.plain and not observation.rescaled
        if plain and observation.protocol.one_gradient:  # the algebra of one gradient
            return _one_label(target, observation, head)
        if observation.noise > 0 and not target.binary and not observation.one_bit:
            return _noisy_label(observation, head)
    signal, exact = last_layer_signal(observation, head)
    if signal is None:
        guess = torch.arange(size) % target.classes
        why = "no linear last layer found: labels assumed 0, 1, 2, …"
        return LabelGuess(guess, why, exact=False, assumed=True)
    if size == 1:
        label = int(signal[0] < 0) if target.binary else int(signal.argmin())
        return LabelGuess(torch.tensor([label]), "sign of the last layer's gradient (iDLG)", exact)
    if observation.protocol.withheld:
        observation = scaled(observation, signal, head.prediction)
        signal = last_layer_signal(observation, head)[0]
        assert signal is not None
    signal = signal.double().cpu()
    if target.binary:
        positive = head.prediction[0].double().cpu() - signal[0]
        counts = round_counts(torch.stack([1 - positive, positive]), size)
        return _counted(counts, "class counts of a binary model")
    if not exact or head.weight not in observation.update:
        return _counted(round_counts(head.prediction.double().cpu() - signal, size), "class counts")
    return _fitted_counts(target, observation, head, signal, generator)


def _one_label(target: Target, observation: Observation, head: Head) -> LabelGuess:
    """The label of one sample as a distribution: ``y = p − g``, with p computed from the recovered feature."""
    error = observation.update[str(head.bias)].flatten().double()
    feature = head.rows(dict(observation.update)).double().T @ error / error.square().sum().clamp_min(1e-300)
    parameters = target.parameters
    bias = parameters[str(head.bias)].detach().double().flatten()
    prediction = probabilities(head.rows(dict(parameters)).detach().double() @ feature + bias)
    label = prediction - error
    if target.binary:
        label = torch.stack([1 - label[0], label[0]])
    method = "prediction minus the last layer's gradient"
    hard = label.argmax().cpu().reshape(1)
    plausible = float(label.min()) > CERTAIN - 1 and abs(float(label.sum()) - 1) < 1 - CERTAIN
    if not plausible:  # the layer is not the whole way from feature to logits, or the update is not exact
        signal = observation.update[str(head.bias)].flatten()
        hard = torch.tensor([int(signal[0] < 0) if target.binary else int(signal.argmin())])
        return LabelGuess(hard, "sign of the last layer's gradient (iDLG)", exact=True)
    if float(label.max()) >= CERTAIN:
        return LabelGuess(hard, method, exact=True)
    soft = label.clamp_min(0) / label.clamp_min(0).sum()
    return LabelGuess(hard, f"{method}: a soft label", exact=True, soft=soft.float().unsqueeze(0))


def _noisy_label(observation: Observation, head: Head) -> LabelGuess:
    """The label of one sample through noise: p − y is the leading direction, and its largest entry is the label's."""
    signal = observation.update[str(head.bias)].flatten().double()
    rows = head.rows(dict(observation.update)).double()
    whole = torch.cat([rows, signal[:, None]], 1)
    vectors, singular, _ = torch.linalg.svd(whole, full_matrices=False)
    if float(singular[0]) <= observation.noise * rank_limit(*whole.shape):  # the direction is the noise's
        return LabelGuess(signal.argmin().cpu().reshape(1), "sign of the last layer's noisy gradient", exact=False)
    left = vectors[:, 0]
    if len(left) == 2:  # both entries are as large; the bias tells which is negative
        left = left if float(left @ signal) > 0 else -left
        label = left.argmin()
    else:
        label = left.abs().argmax()
    return LabelGuess(label.cpu().reshape(1), "leading direction of the last layer's noisy gradient", exact=False)


def _counted(counts: Tensor, method: str) -> LabelGuess:
    return LabelGuess(_as_labels(counts), method, exact=False)


def _as_labels(counts: Tensor) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), counts)


def _fitted_counts(
    target: Target, observation: Observation, head: Head, signal: Tensor, generator: Generator
) -> LabelGuess:
    """Counts of a simulated client or from the fitted mean prediction, with iLRG's agreement."""
    size, layer = observation.batch_size, _layer(target, observation, head)
    least = -(signal + 4 * observation.noise) * size
    if observation.one_bit or not observation.protocol.linear:  # no weighted mean of p − y
        least = torch.zeros_like(signal)

    def fitted_labels() -> Tensor:
        share, _ = _fitted(layer, observation, head, signal, generator)
        return _as_labels(round_counts(share, size, least=least))

    share, how = None, "a client simulated on look-alikes"
    if head.pool is not None and simulate.applies(target, observation, head.pool):
        share = simulate.simulated_shares(
            *(target, observation, head),
            *(fitted_labels, whole(least, size), generator),
        )
    if share is None:
        share, how = _fitted(layer, observation, head, signal, generator)
    counts = round_counts(share, size, least=least)
    check = round_counts(ilrg_shares(*layer, signal), size, least=least)
    agreed = int(torch.minimum(counts, check).sum())
    return _counted(counts, f"class counts from {how} (iLRG agrees on {agreed} of {size})")


def _fitted(
    layer: tuple[Tensor, Tensor, Tensor], observation: Observation, head: Head, signal: Tensor, generator: Generator
) -> tuple[Tensor, str]:
    """Class shares (K,) by the fitted mean prediction, and what it was fitted to."""
    weight, bias, gradient = layer
    prediction = fit_prediction(head.logits.double().cpu() - bias, bias, gradient @ weight.T, signal)
    how = "the last layer's moments"
    if head.pool is not None:
        fit = feature_fit(head.pool.double().cpu(), weight, bias, gradient, signal)
        how = "features that reproduce the last layer's update"
        if (through := through_steps(fit, head.pool.double().cpu(), observation)) is not None:
            fit, how = through, f"{how} in {observation.protocol.steps} steps"
        prediction = fit.mean_prediction(observation.batch_size, prediction - signal, generator)
    return prediction - signal, how


def _layer(target: Target, observation: Observation, head: Head) -> tuple[Tensor, Tensor, Tensor]:
    """Weight (K, features) and bias (K,) of the last layer, and the weight's gradient, on the CPU in float64."""
    parameters = target.parameters
    bias = parameters[str(head.bias)].detach().double().flatten().cpu()
    weight = head.rows(dict(parameters)).detach().double().cpu()
    return weight, bias, head.rows(dict(observation.update)).double().cpu()
