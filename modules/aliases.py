"""The one table of names that have moved: class paths in YAMLs, in runs' config.yaml and in older exports.

A class path that people write does not move without a line here, so that what they have stays readable.
"""

from __future__ import annotations

from typing import Any

CLASS_PATHS = {
    "eval.attributes.AttributeClassifier": "eval.judges.attributes.AttributeClassifier",
    "modules.clip_tokenizer.CLIPTokenizer": "modules.clip.clip_tokenizer.CLIPTokenizer",
    "modules.distilled_decoder.DistilledDecoder": "modules.distillation.decoder.DistilledDecoder",
    "modules.embedding_codec.EmbeddingCodec": "modules.models.priors.embedding_codec.EmbeddingCodec",
    "modules.models.autoregressive_prior.ARPriorModel": "modules.models.priors.autoregressive_prior.ARPriorModel",
    "modules.models.diffusion_prior.DiffusionPriorModel": "modules.models.priors.diffusion_prior.DiffusionPriorModel",
    "modules.models.embedding_codec.EmbeddingCodec": "modules.models.priors.embedding_codec.EmbeddingCodec",
    "modules.models.linear_prior.LinearPriorModel": "modules.models.priors.linear_prior.LinearPriorModel",
    "modules.networks.ar_prior.ARPriorNetwork": "modules.networks.priors.ar_prior.ARPriorNetwork",
    "modules.networks.diffusion_prior.DiffusionPriorNetwork": (
        "modules.networks.priors.diffusion_prior.DiffusionPriorNetwork"
    ),
    "modules.networks.linear_prior.LinearPriorNetwork": "modules.networks.priors.linear_prior.LinearPriorNetwork",
    "modules.objective.Objective": "modules.models.configs.Objective",
    "modules.objective.SamplerConfig": "modules.models.configs.SamplerConfig",
    "modules.stage.TrainingConfig": "modules.training.stage.TrainingConfig",
}
"""Earlier class paths -> today's; of one class, the earliest path stands first."""

MODELS = {
    "modules.ar_prior.ARPrior": "modules.models.priors.autoregressive_prior.ARPriorModel",
    "modules.decoder.Decoder": "modules.models.decoder.DecoderModel",
    "modules.diffusion_prior.DiffusionPrior": "modules.models.priors.diffusion_prior.DiffusionPriorModel",
    "modules.linear_prior.LinearPrior": "modules.models.priors.linear_prior.LinearPriorModel",
    "modules.upsampler.Upsampler": "modules.models.upsampler.UpsamplerModel",
}
"""The models of exports that do not name theirs (those of version 0.1), by the LightningModule that trained them."""


def today(content: Any) -> Any:
    """Parsed YAML with the class paths of earlier versions replaced by today's; nothing else changes."""
    return _replaced(content, CLASS_PATHS)


def as_first_recorded(content: Any) -> Any:
    """The other way: with the class paths that version 0.1 wrote. A class that moves is then no change of a stage."""
    first: dict[str, str] = {}
    for old, new in CLASS_PATHS.items():
        first.setdefault(new, old)
    return _replaced(today(content), first)


def _replaced(content: Any, names: dict[str, str]) -> Any:
    if isinstance(content, dict):
        return {key: _replaced(value, names) for key, value in content.items()}
    if isinstance(content, list):
        return [_replaced(value, names) for value in content]
    return names.get(content, content) if isinstance(content, str) else content
