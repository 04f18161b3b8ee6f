"""Guidance: towards what was asked for, away from what is likely anyway.

``guide`` and ``guide_two`` wrap a *model* whose conditioning is closed over for several copies of the batch, so that
one network call serves them all. ``clip_guide`` wraps a *denoiser*.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from modules.diffusion.denoiser import Denoiser, Model, Prediction
from modules.diffusion.gaussian import x0_from_epsilon
from modules.diffusion.schedules import NoiseSchedule


def guide(model: Model, scale: float, *, interval: tuple[int, int] | None = None, rescale: float = 0.0) -> Model:
    """Classifier-free guidance (Ho and Salimans eq. 6; unCLIP 2.1).

    unconditional + scale * (conditional - unconditional).

    With caption and CLIP embedding dropped together in the unconditional half, this is the paper's joint form.

    Args:
        model: for 2B samples, with the conditioning [conditional, unconditional] stacked in that order: (x (2B, C,
            ...), t (2B,)) -> (2B, C, ...), or (2B, 2C, ...) with learned sigma. The variance channels are not guided;
            they are the conditional ones.
        scale: 1 is the conditional output and 0 the unconditional one, bit for bit, variance channels included.
        interval: guide only at first <= t <= last (original timesteps, see ``noise_interval``) and be conditional
            elsewhere (Kynkaanniemi et al. 2404.07724).
        rescale: phi in [0, 1]: how far to bring the guided output's standard deviation, per sample, back to the
            conditional one's (Lin et al. eq. 15 and 16).

    Returns:
        A model for B samples.
    """
    _check_rescale(rescale)

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        conditional, unconditional = _copies(model, x_t, t, 2)
        out = _blend(conditional, unconditional, scale, x_t.shape[1], rescale)
        return _inside(interval, t, out, conditional)

    return guided


def guide_two(
    model: Model,
    text_scale: float,
    image_scale: float,
    *,
    interval: tuple[int, int] | None = None,
    rescale: float = 0.0,
) -> Model:
    """Guidance with a scale for each of two conditions (Brooks et al. 2023 eq. 3; the CLIP embedding is their image).

    unconditional + image_scale * (image - unconditional) + text_scale * (both - image). Equal scales give ``guide``.

    Args:
        model: for 3B samples, with the conditioning [text and CLIP embedding, CLIP embedding only, neither] stacked.
        text_scale: of what the caption adds to the CLIP embedding.
        image_scale: of what the CLIP embedding adds to nothing.
        interval, rescale: as in ``guide``; outside of the interval the output is that of both conditions.

    Returns:
        A model for B samples.
    """
    _check_rescale(rescale)

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        both, image, neither = _copies(model, x_t, t, 3)
        channels = x_t.shape[1]
        if text_scale == image_scale:
            out = _blend(both, neither, text_scale, channels, rescale)
        elif text_scale == 0:
            out = _blend(image, neither, image_scale, channels, rescale)
        else:
            step = text_scale * (both[:, :channels] - image[:, :channels])
            mean = _lerp(image[:, :channels], neither[:, :channels], image_scale) + step
            out = torch.cat([_match_deviation(mean, both[:, :channels], rescale), both[:, channels:]], dim=1)
        return _inside(interval, t, out, both)

    return guided


def guide_logits(logits: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance of an autoregressive prior (unCLIP 2.2).

    Args:
        logits: (2B, ..., V), [conditional, unconditional] stacked. -inf forbids a code; one that the conditional half
            forbids stays forbidden, one that only the unconditional half forbids keeps its conditional logit.
        scale: 1 is the conditional half and 0 the unconditional one, bit for bit.

    Returns:
        (B, ..., V).
    """
    conditional, unconditional = logits.chunk(2)
    if scale in (0, 1):
        return _lerp(conditional, unconditional, scale)
    forbidden = conditional.isneginf() | unconditional.isneginf()
    return torch.where(forbidden, conditional, _lerp(conditional, unconditional, scale))


def clip_guide(
    denoiser: Denoiser, schedule: NoiseSchedule, similarity: Callable[[Tensor], Tensor], scale: float
) -> Denoiser:
    """CLIP guidance (GLIDE 2.4): follow the gradient, with respect to x_t, of the similarity of the x0 estimate.

    epsilon - scale * sqrt(1 - alpha_bar) * gradient (ADM eq. 14), and x0 in accordance with it.

    Differs from the paper: GLIDE trains a CLIP on noised images; this one sees the denoiser's x0 estimate, so any CLIP
    will do.

    Args:
        denoiser: differentiable in x_t.
        schedule: holds the timesteps that it is asked for; not one that ends at zero SNR.
        similarity: x0 (B, ...) -> (B,) similarity with each sample's caption, for instance the CLIP dot product.
        scale: 0 is the denoiser itself, and costs no gradient.

    Returns:
        A denoiser that also works inside of no_grad and inference_mode; what the callables close over must not have
        been made in inference_mode.
    """
    if scale == 0:
        return denoiser

    def guided(x_t: Tensor, t: Tensor) -> Prediction:
        with torch.inference_mode(False), torch.enable_grad():
            x, t_copy = x_t.detach().clone().requires_grad_(), t.clone()
            prediction = denoiser(x, t_copy)
            (gradient,) = torch.autograd.grad(similarity(prediction.x0).sum(), x)
        epsilon = prediction.epsilon.detach() - scale * schedule.lookup(schedule.noise, t, x_t) * gradient
        fraction = prediction.variance_fraction
        x0 = x0_from_epsilon(schedule, epsilon, x_t, t)
        return Prediction(x0, epsilon, None if fraction is None else fraction.detach())

    return guided


def _copies(model: Model, x_t: Tensor, t: Tensor, copies: int) -> tuple[Tensor, ...]:
    """The outputs for each stacked conditioning, from one call."""
    return model(torch.cat([x_t] * copies), torch.cat([t] * copies)).chunk(copies)


def _lerp(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """unconditional + scale * (conditional - unconditional), exact at both ends."""
    if scale == 1:
        return conditional
    if scale == 0:
        return unconditional
    return unconditional + scale * (conditional - unconditional)


def _blend(conditional: Tensor, unconditional: Tensor, scale: float, channels: int, rescale: float) -> Tensor:
    """_lerp of the first channels; the others, if any, are the variance and stay conditional."""
    if scale in (0, 1):
        return _lerp(conditional, unconditional, scale)
    mean = _lerp(conditional[:, :channels], unconditional[:, :channels], scale)
    mean = _match_deviation(mean, conditional[:, :channels], rescale)
    return torch.cat([mean, conditional[:, channels:]], dim=1)


def _match_deviation(guided: Tensor, conditional: Tensor, rescale: float) -> Tensor:
    """Scales each sample part of the way to the conditional standard deviation."""
    if rescale == 0:
        return guided
    dims = tuple(range(1, guided.ndim))
    ratio = conditional.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True)
    return guided * (rescale * ratio + (1 - rescale))


def _inside(interval: tuple[int, int] | None, t: Tensor, guided: Tensor, conditional: Tensor) -> Tensor:
    """Guided samples where t lies in the interval, conditional ones elsewhere."""
    if interval is None:
        return guided
    inside = (t >= interval[0]) & (t <= interval[1])
    return torch.where(inside.reshape(-1, *([1] * (guided.ndim - 1))), guided, conditional)


def _check_rescale(rescale: float) -> None:
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale must lie in [0, 1], got {rescale}")
