"""The trained models of a run folder, each read when it is first needed, and what is given to its decoder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from modules.batches import Captions
from modules.clip import origin
from modules.clip.frozen import FrozenCLIP, caption_features, caption_of
from modules.clip.origin import check_origin, warn_unknown_origin
from modules.conditions import CONDITIONS, Condition
from modules.errors import InputError
from modules.images.tensors import resized
from modules.models.base import Model, Prior, check_names
from modules.models.configs import check_value
from modules.models.dalle1.dvae import DVAEModel
from modules.models.dalle1.token_transformer import TokenTransformerModel, check_tokens
from modules.models.decoder import CaptionInput, DecoderModel, Negative
from modules.models.exports import Stored, export_folder, is_export, load_model, model_class, read_config
from modules.models.upsampler import UpsamplerModel
from modules.networks.frozen_text import CaptionFeatures
from modules.placement.precision import compute_in_bfloat16
from modules.placement.settings import Placement
from modules.shipped import run_folder

if TYPE_CHECKING:
    from typing_extensions import Self

M = TypeVar("M", bound=Model)

STAGE_MODELS = {
    "ar_prior": "modules.models.priors.autoregressive_prior.ARPriorModel",
    "diffusion_prior": "modules.models.priors.diffusion_prior.DiffusionPriorModel",
    "dvae": "modules.models.dalle1.dvae.DVAEModel",
    "linear_prior": "modules.models.priors.linear_prior.LinearPriorModel",
    "token_transformer": "modules.models.dalle1.token_transformer.TokenTransformerModel",
    "upsampler": "modules.models.upsampler.UpsamplerModel",
}
"""The models of the other stages, by the stage's name; a model of the user's own may stand in any folder."""

Overrides = Mapping[str, Mapping[str, object]]
"""New values for settings of sampling, by stage: {"decoder": {"steps": 50, "guidance_scale": 2.0}}."""


class TrainedRun:
    """A run's trained stages. A run may lack what is not asked for.

    Args:
        run: the run folder, what `unclip export` made of it, "shipped:shapes", or USER/NAME (a text) of a model hub,
            from which it is downloaded. Its stages are clip, the priors of `modules.conditions`, decoder, glide, dvae,
            token_transformer, and upsampler or upsampler_256, upsampler_1024 and the like.
        device: where to compute.
        overrides: settings of sampling, by stage. Diffusion models have the fields of
            `modules.models.configs.SamplerConfig`, and the diffusion prior also has candidates. The AR prior has
            guidance_scale, percentile and temperature, the token Transformer guidance_scale and temperature.
        placement: the precision in which stages are held, and whether all of them are held at once.

    Raises:
        InputError: no such folder; or overrides of a stage that the run lacks, or of a setting that the stage lacks.
    """

    def __init__(
        self,
        run: str | Path,
        device: str | torch.device = "cpu",
        overrides: Overrides | None = None,
        placement: Placement = Placement(),
    ) -> None:
        self.run, self.device, self.placement = run_folder(run), torch.device(device), placement
        self._named = str(run)
        if not self.run.is_dir():
            raise InputError(f"no run folder {self.run}: train one with `unclip reproduce`, or name another with --run")
        self._stored: dict[str, Stored[Model]] = {}
        self._fingerprints: dict[str, str] = {}
        self._replaced: set[str] = set()
        self._clip: FrozenCLIP | None = None
        self._guiding_clip: FrozenCLIP | None = None
        self.overrides = overrides or {}

    def __repr__(self) -> str:
        """The run as it was named, its stages and the device."""
        changed = f", overrides {self._overrides}" if self._overrides else ""
        stages = ", ".join(self.stages()) or "none"
        return f"{type(self).__name__}({self._named!r}, stages: {stages}, on {self.device}{changed})"

    @property
    def overrides(self) -> Overrides:
        """New values for settings of sampling, by stage. Settable: the stages stay loaded."""
        return self._overrides

    @overrides.setter
    def overrides(self, chosen: Overrides) -> None:
        for name, settings in chosen.items():
            if not settings:
                continue
            if not isinstance(settings, Mapping):
                raise InputError(f'{name}: give settings by name, as in {{"steps": 50}}, not {settings!r}')
            if name == "clip":
                raise InputError("clip has no settings of sampling, so nothing of it can be overridden")
            if not self.has(name):
                raise InputError(f"{self.run} has no stage {name!r} to override; there are {', '.join(self.stages())}")
            kind = model_class(self.run / name)
            check_names(name, settings, kind.overridable())
            for key, rule in kind.rules().items():
                if key in settings:
                    check_value(f"{name}: {key}", settings[key], rule)
        self._overrides = {name: dict(settings) for name, settings in chosen.items() if settings}

    @property
    def clip(self) -> FrozenCLIP:
        """The conditioning CLIP."""
        if self._clip is None:
            self._make_room()
            self._clip = FrozenCLIP(str(export_folder(self.run / "clip"))).to(self.device)
        return self._clip

    @cached_property
    def clip_facts(self) -> tuple[int, str]:
        """The conditioning CLIP's D and fingerprint, known also while it is not in memory."""
        return self.clip.embedding_dim, self.clip.fingerprint

    @cached_property
    def raw(self) -> bool:
        """Whether embeddings are the CLIP's own, not of unit norm."""
        return bool(getattr(self.clip, "raw", False))

    @property
    def guiding_clip(self) -> FrozenCLIP:
        """The CLIP of clip_guidance_scale: the run's own. Settable."""
        return self._guiding_clip or self.clip

    @guiding_clip.setter
    def guiding_clip(self, clip: FrozenCLIP) -> None:
        self._guiding_clip = clip

    def clips_at_work(self) -> dict[str, FrozenCLIP]:
        """The CLIPs that take part, by what they do; a run of GLIDE's released weights may be without any."""
        found = {"conditions the run's stages": self.clip} if (self.run / "clip").is_dir() else {}
        if found or self._guiding_clip is not None:
            found["guides the decoder"] = self.guiding_clip
        return found

    def _make_room(self) -> None:
        """Where stages are offloaded, let go of all that are in memory; a model that was put there stays."""
        if self.placement.offload:
            self._stored = {name: stored for name, stored in self._stored.items() if name in self._replaced}
            self._clip = None

    ranking_clip: FrozenCLIP | None = None
    """The CLIP that chooses among candidates (`UnCLIP.generate`). Settable."""

    def moved(self, device: str | torch.device) -> Self:
        """The same run with the same overrides on another device; its stages are read anew there."""
        other = type(self)(self.run, device, self.overrides, self.placement)
        if self._guiding_clip is not None:
            other.guiding_clip = copy.deepcopy(self._guiding_clip).to(other.device)
        if self.ranking_clip is not None:
            other.ranking_clip = copy.deepcopy(self.ranking_clip).to(other.device)
        return other

    def has(self, name: str) -> bool:
        """Whether the run holds a trained stage of that name."""
        return is_export(self.run / name)

    def stages(self) -> list[str]:
        """The names of the stages that the run holds."""
        return sorted(path.name for path in self.run.iterdir() if path.is_dir() and self.has(path.name))

    def stage(self, name: str) -> Stored[Model]:
        """A trained stage as its export holds it, on the run's device.

        Raises:
            InputError: it is absent or damaged, or was trained on another CLIP than the run's.
        """
        if name not in self._stored:
            half = self.placement.half and not self._is_dvae(name)
            if self.placement.offload and name not in self._fingerprints:
                self._know_clip(name)
            self._make_room()
            stored: Stored[Model] = load_model(self.run / name, half=half, known=self._fingerprints.get(name))
            if name not in self._fingerprints:
                check_stage(name, stored.model, self.run)
                self._check_clip(name, stored)
                self._make_room()  # The check may have needed the CLIP still.
            for value in vars(stored.model).values():
                if isinstance(value, nn.Module):
                    value.to(self.device)
            if half:
                compute_in_bfloat16(stored.model.network, self.device)
            self._stored[name], self._fingerprints[name] = stored, stored.fingerprint
        return self._stored[name]

    def _know_clip(self, name: str) -> None:
        """Read the CLIP's facts, if a stage is checked by them, before the stage: both would be in memory."""
        checked = self._network_settings(name).get("embedding_dim") is not None
        if self.has("clip") and (checked or origin.KEY in read_config(self.run / name)):
            _ = self.clip_facts

    def _network_settings(self, name: str) -> Mapping[str, object]:
        """What a stage's config says of its network; no stage is read for it."""
        network = read_config(self.run / name)["init_args"].get("network")
        settings = network.get("init_args") if isinstance(network, dict) else None
        return settings if isinstance(settings, dict) else {}

    def _reads_features(self, name: str) -> bool:
        """Whether a stage reads the CLIP's features of a caption, which are made before the stage is read."""
        if name in self._stored:
            return bool(getattr(self._stored[name].model, "reads_features", False))
        settings = self._network_settings(name)
        return any(settings.get(key) is not None for key in ("feature_dim", "frozen_text"))

    def _is_dvae(self, name: str) -> bool:
        kind = type(self._stored[name].model) if name in self._stored else model_class(self.run / name)
        return issubclass(kind, DVAEModel)

    def _check_clip(self, name: str, stored: Stored[Model]) -> None:
        width = getattr(stored.model.network, "embedding_dim", None)
        if width is not None and width != self.clip_facts[0]:
            raise InputError(
                f"the run's {name} was trained on embeddings of {width} dimensions, and the run's CLIP gives "
                f"{self.clip_facts[0]}: train it again on embeddings of this CLIP (`unclip embed`)"
            )
        if stored.clip_fingerprint is not None:
            check_origin(stored.clip_fingerprint, self.clip_facts[1], f"the run's {name}", "the run has")
            return
        alone = width is None and getattr(stored.model, "reads", "clip") != "clip"  # It reads captions by itself.
        if not alone and not isinstance(stored.model, UpsamplerModel | DVAEModel):  # These see pictures only.
            warn_unknown_origin(str(self.run))

    def model(self, name: str, kind: type[M]) -> M:
        """A stage's model, sampled as its settings and the overrides say.

        Args:
            kind: class that it must be of.

        Raises:
            InputError: also for a stage of another kind, or settings that the model cannot be sampled with.
        """
        model = self.stage(name).model
        if not isinstance(model, kind):
            raise InputError(
                f"the stage {name} of {self.run} is a {type(model).__name__}, where a {kind.__name__} is needed"
            )
        return model.overridden(name, self._overrides.get(name, {}))

    def prior(self, name: str) -> Prior:
        """A prior, see `model`."""
        return self.model(name, Prior)

    def decoder(self, name: str = "decoder") -> DecoderModel:
        """A decoder, see `model`, with what it draws with: the run's CLIP for a caption's features, its weak version.

        Raises:
            InputError: also if it is guided away from its weak version, and the run has none.
        """
        model = self.model(name, DecoderModel)
        if model.reads_features:
            model = replace(model, features=self.caption_features)
        if model.sampler.guided_from == "weak" and model.sampler.guidance_scale != 1:
            weak = f"weak_{name}"
            if not self.has(weak):
                raise InputError(
                    f"{name}.guided_from is weak, and {self.run} has no stage {weak}: train one as {name}, with fewer "
                    "steps (experiments/shapes/weak_decoder.yaml)"
                )
            model = replace(model, weak=self.decoder(weak))
        return model

    def caption_features(self, tokens: Tensor) -> CaptionFeatures:
        """The run's CLIP features of captions (B, L), for decoders that read them; a row of 0 is no caption."""
        return caption_of(self.clip, tokens)

    def dvae(self, name: str = "dvae") -> DVAEModel:
        """A dVAE, see `model`."""
        return self.model(name, DVAEModel)

    def token_prior(self, name: str, decoder: str = "dvae") -> TokenTransformerModel:
        """A token Transformer, see `model`.

        Raises:
            InputError: also if it was trained on the tokens of another dVAE than the run's.
        """
        model, dvae = self.model(name, TokenTransformerModel), self.dvae(decoder)
        trained_on = read_config(self.run / name).get("dvae")
        if trained_on not in (None, self.stage(decoder).fingerprint):
            raise InputError(
                f"the run's {name} was trained on the tokens of another dVAE than {self.run / decoder}: train it again"
            )
        check_tokens(model.network, dvae)
        return model

    def upsampler(self, name: str) -> UpsamplerModel:
        """An upsampler, see `model`."""
        return self.model(name, UpsamplerModel)

    def replace_model(self, name: str, model: Model) -> None:
        """Put another model in the place of a loaded one, such as the same with statistics of the score."""
        self._stored[name] = replace(self.stage(name), model=model)
        self._replaced.add(name)

    def needs_clip(self, condition: str, decoder: str | None = None) -> bool:
        """Whether drawing under a condition takes the run's CLIP; GLIDE's released weights read captions by themselves.

        Args:
            condition: its name.
            decoder: the stage that draws; by default the condition's own.
        """
        own = condition_named(condition)
        name = decoder or own.decoder
        if own.z_i != "none" or not self.has(name):
            return True
        settings = read_config(self.run / name)["init_args"]  # No stage is read for it: they may be offloaded.
        guided = {**(settings.get("sampler") or {}), **self._overrides.get(name, {})}.get("clip_guidance_scale")
        return bool(settings.get("reads", "clip") == "clip" or guided)

    def unread(self, count: int) -> tuple[Tensor, Tensor]:
        """Stands for `embed_text` if no CLIP reads the captions: tokens (B, 1) of padding, and z_t (B, 0)."""
        return torch.ones(count, 1, dtype=torch.int64, device=self.device), torch.zeros(count, 0, device=self.device)

    def embed_text(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Captions -> tokens (B, L) and z_t (B, D), of unit norm unless the CLIP's embeddings are raw.

        Raises:
            InputError: for a caption longer than the context.
        """
        tokens = self.clip.tokenize(list(captions)).to(self.device)
        return tokens, self.finite("clip", self.clip.encode_text(tokens))

    @torch.no_grad()
    def embed_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> z_i (B, D), of unit norm unless the CLIP's embeddings are raw."""
        return self.finite("clip", self.clip.encode_image(images.to(self.device)))

    def sample_prior(
        self,
        name: str,
        tokens: Tensor,
        z_t: Tensor,
        generators: list[torch.Generator],
        negative: Captions | None = None,
    ) -> Tensor:
        """z_i (B, D), drawn by one of the run's priors, guided away from negative captions.

        It has unit norm unless the CLIP's embeddings are raw.
        """
        captions = Captions(tokens, z_t, None, negative)
        captions = self._with_features(captions) if self._reads_features(name) else captions
        return self.finite(name, self.prior(name).sample(captions, generators).to(z_t.dtype))

    def _with_features(self, captions: Captions) -> Captions:
        own = captions._replace(features=caption_features(self.clip, captions.tokens))
        return own if own.negative is None else own._replace(negative=self._with_features(own.negative))

    def negative_captions(self, negative: str | Sequence[str] | None, count: int) -> Captions | None:
        """Negative captions, embedded: B of them; one serves all, and None or empty ones are no guidance away from any.

        Raises:
            InputError: another number of them, or some that are empty.
        """
        given = [negative] * count if isinstance(negative, str) else list(negative or [])
        if not any(text.strip() for text in given):
            return None
        if len(given) != count or not all(text.strip() for text in given):
            raise InputError(
                f"{len(given)} negative captions for {count} pictures: give one for all, or one that is not empty for "
                "each"
            )
        embedded = self.embed_text(given) if self.has("clip") else self.unread(count)
        return Captions(*embedded, texts=tuple(given))

    def check_negative(self, condition: str) -> None:
        """Refuse a negative caption where nothing is guided.

        Raises:
            InputError: the guidance scales of the decoder and of the prior are 1.
        """
        own = condition_named(condition)
        if own.z_i in ("tokens", "true tokens"):
            raise InputError(f"the condition {condition} takes no negative caption: leave it out")
        sampler = self.decoder(own.decoder).sampler
        scales = [1 if sampler.guided_from == "weak" else sampler.guidance_scale]
        scales += [] if own.prior is None else [self.prior(own.prior).guidance_scale or 1]
        if all(scale == 1 for scale in scales):
            raise InputError(
                "a negative caption has an effect only with guidance, and nothing is guided here: set the decoder's or "
                "the prior's guidance_scale to another value than 1"
            )

    def sample_tokens(
        self, name: str, tokens: Tensor, generators: list[torch.Generator], given: Tensor | None = None
    ) -> Tensor:
        """(B, h, w) image tokens for (B, L) caption tokens, drawn by a token Transformer of the run.

        Args:
            given: (B, k) the first k tokens of each picture, in raster order; the rest is drawn.
        """
        model = self.token_prior(name)
        grid = model.network.grid
        return model.sample(tokens, generators, given).unflatten(1, (grid, grid))

    def finite(self, name: str, drawn: Tensor) -> Tensor:
        """Refuses drawn values that are not finite: NaN would become a black picture.

        Raises:
            InputError: it is not; names the stage.
        """
        if not bool(torch.isfinite(drawn).all()):
            raise InputError(
                f"the stage {name} of {self.run} gave values that are not finite (NaN or infinity), so there is no "
                "picture: take other settings of sampling or a wider precision, or train the stage again"
            )
        return drawn

    def embedding(
        self,
        condition: str,
        tokens: Tensor,
        z_t: Tensor,
        generators: list[torch.Generator],
        images: Tensor | None = None,
        negative: Captions | None = None,
    ) -> Tensor | None:
        """What the decoder is given under a condition (unCLIP, section 5.1), by the table in `modules.conditions`.

        Args:
            condition: its name.
            tokens, z_t: of the captions.
            generators: one a caption, for a prior's draw.
            images: (B, 3, H, W) in [-1, 1], for a condition that is given their true z_i or tokens.
            negative: captions that a prior's guidance leads away from.

        Returns:
            (B, D) z_i, or None for the zero embedding; (B, h, w) int64 tokens for a dVAE.

        Raises:
            InputError: for an unknown condition, or one that needs images without them.
        """
        found = condition_named(condition)
        if found.z_i == "none":
            return None
        if found.z_i == "z_t":
            return z_t
        if found.z_i == "tokens" and found.prior is not None:
            return self.sample_tokens(found.prior, tokens, generators)
        if found.prior is not None:
            return self.sample_prior(found.prior, tokens, z_t, generators, negative)
        if images is None:
            raise InputError(f"the condition {condition} needs images: give --images, a sample folder of real images")
        if found.z_i == "true tokens":
            dvae = self.dvae(found.decoder)
            return dvae.encode(resized(images.to(self.device), dvae.image_size))
        return self.embed_image(images)

    def negative_of(
        self, condition: str, negative: Captions | None, generators: list[torch.Generator]
    ) -> Negative | None:
        """What the decoder is guided away from: negative captions, and the z_i that the condition gives for them.

        So a prior draws z_i for the negative captions too, as Kandinsky's does (2310.03502). True pictures have none.

        Args:
            condition: its name.
            negative: B captions, or None.
            generators: one a picture, in the state of those that drew the picture's own z_i.
        """
        if negative is None:
            return None
        if condition_named(condition).z_i == "image":
            return Negative(negative.tokens, None, negative.texts)
        z_i = self.embedding(condition, negative.tokens, negative.z_t, generators, None, negative)
        return Negative(negative.tokens, z_i, negative.texts)

    def decode(
        self,
        tokens: Tensor,
        z_i: Tensor | None,
        generators: list[torch.Generator],
        decoder: str = "decoder",
        captions: Sequence[str] | None = None,
        negative: Negative | None = None,
    ) -> Tensor:
        """(B, L) tokens and (B, D) embeddings -> (B, 3, h, w) in [-1, 1], at the decoder's own size.

        Args:
            z_i: the result of `embedding`. For a dVAE these are tokens; caption and generators are not used then.
            captions: B of them, for a sampler with clip_guidance_scale and for a decoder with tokens of its own.
            negative: see `negative_of`.
        """
        if z_i is not None and self._is_dvae(decoder):
            return self.finite(decoder, self.dvae(decoder).decode(z_i))
        read: CaptionInput = tokens
        if self.placement.offload and self._reads_features(decoder):  # The CLIP goes before the decoder comes.
            read = self.caption_features(tokens)
            if negative is not None and isinstance(negative.tokens, Tensor):
                negative = negative._replace(tokens=self.caption_features(negative.tokens))
        model = self.decoder(decoder)
        if model.reads != "clip":
            if captions is None:
                raise InputError(f"{decoder} reads {model.reads}, and these pictures have no captions to read")
            if negative is not None and negative.texts is not None and isinstance(negative.tokens, Tensor):
                negative = negative._replace(tokens=model.tokens_of(negative.texts, negative.tokens))
            read = model.tokens_of(captions, tokens)
        if not model.sampler.clip_guidance_scale:
            return self.finite(decoder, model.sample(read, z_i, generators, negative=negative))
        if torch.is_inference_mode_enabled() or any(weight.is_inference() for weight in model.network.parameters()):
            raise InputError(
                "clip_guidance_scale needs gradients: use the run outside of torch.inference_mode() from the start "
                "(torch.no_grad() is fine)"
            )
        if captions is None:
            raise InputError("clip_guidance_scale needs captions, and these pictures have none: set it to 0")
        similar = self.similarity(captions)
        return self.finite(decoder, model.sample(read, z_i, generators, similarity=similar, negative=negative))

    def similarity(self, captions: Sequence[str], clip: FrozenCLIP | None = None) -> Callable[[Tensor], Tensor]:
        """Images (B, 3, S, S) in [-1, 1] -> (B,) a CLIP's cosine of each image and its caption.

        Args:
            captions: B of them.
            clip: by default the guiding CLIP.
        """
        clip = self.guiding_clip if clip is None else clip
        z_t = clip.unit(clip.encode_text(clip.tokenize(list(captions)).to(self.device)))
        return lambda images: (clip.unit(clip.encode_image(images)) * z_t).sum(dim=1)


EMBEDDINGS: dict[str, str | None] = {"decoder": "z_i", "text_decoder": "z_t", "glide": None}
"""The decoders by their stage's name, and the embedding that each is conditioned on."""


def check_stage(name: str, model: Model, run: Path) -> None:
    """Refuse a stage of another kind in the folder of a stage, as GLIDE in the decoder's.

    Raises:
        InputError: says which stage the folder holds.
    """
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    found = next((stage for stage, path in STAGE_MODELS.items() if path == kind), None)
    if isinstance(model, DecoderModel):
        given = None if model.embedding_dim is None else model.embedding
        found = next((stage for stage, embedding in EMBEDDINGS.items() if embedding == given), found)
    if name in (*STAGE_MODELS, *EMBEDDINGS) and found not in (name, None):
        raise InputError(f"{run / name} holds the stage {found}, not {name}: put the right export there")


def condition_named(name: str) -> Condition:
    """A line of the table of conditions.

    Raises:
        InputError: there is none of that name.
    """
    if name not in CONDITIONS:
        raise InputError(f"unknown condition {name!r}; there are {', '.join(CONDITIONS)}")
    return CONDITIONS[name]
