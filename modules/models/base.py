"""The base of all trained models, without Lightning: a network, a loss, and settings of sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from modules.batches import Captions, EmbeddingBatch, ImageTextBatch
from modules.errors import InputError
from modules.models.configs import Rule
from modules.models.data_sizes import CaptionReader, DataSizes, check_captions, check_raw
from modules.networks.priors.prior import PriorNetwork

if TYPE_CHECKING:
    from typing_extensions import Self

C = TypeVar("C")

Batch = EmbeddingBatch | ImageTextBatch
"""What a prior is trained on: pictures too, if the CLIP's embeddings are cached beside them."""

B = TypeVar("B", bound=Batch)
"""The batches that a model is trained on."""

Evaluations = tuple[float, Callable[[], object]]
"""How often a computation runs for one sample, and the computation."""


@dataclass(frozen=True, eq=False)
class Model(Generic[B]):
    """A network with what its equations need beside it. A LightningModule trains it; an export restores it.

    Subclasses are frozen dataclasses, and a model with another network (the average, a compiled one) is made by
    `dataclasses.replace`. The constructor arguments of the LightningModule that are a model's have its fields' names.

    Attributes:
        network: the trained nn.Module.
    """

    network: nn.Module

    STATE: ClassVar[tuple[str, ...]] = ()
    """Fields that a YAML does not set: they are found in training and lie in the export's file of weights."""

    RAW_SETTING: ClassVar[str] = ""
    """Where a network's settings say whether it takes a CLIP's own embeddings; "" if they do not."""

    SETTINGS: ClassVar[Mapping[str, Rule]] = {}
    """The fields that are settings of sampling, and which values they may have."""

    def check(self) -> None:
        """Refuse parts that do not go together, and values that are out of range.

        Raises:
            InputError: names them.
        """

    def check_settings(self, sizes: DataSizes) -> None:
        """Refuse settings with which a new training would be of no use, or would fail at its end.

        This is not asked of a training that goes on, nor of a model that is evaluated: they keep their settings.

        Args:
            sizes: the sizes of the data. The captions are not read.

        Raises:
            InputError: names the setting as a YAML has it.
        """

    def check_data(self, sizes: DataSizes) -> None:
        """Refuse data of other sizes than the network takes.

        Raises:
            InputError: they differ; names the setting as a YAML has it, and a value that will do.
        """
        if self.reader is None and self.takes_raw is None:
            return
        found = sizes.captions()
        if found is None:
            return
        check_raw(self.takes_raw, self.RAW_SETTING, found)
        if self.reader is not None:
            check_captions(self.reader, self.embedding_dim, found)

    @property
    def embedding_dim(self) -> int | None:
        """D of the CLIP embeddings that the network takes; None if it takes none."""
        return None

    @property
    def takes_raw(self) -> bool | None:
        """Whether it takes a CLIP's own embeddings, not those of unit norm; None if it takes none, or any."""
        return None

    @property
    def reader(self) -> CaptionReader | None:
        """The part of the network that reads captions; None if there is none."""
        return None

    @property
    def takes_pictures(self) -> bool:
        """Whether the model is trained on pictures, and not on embeddings alone."""
        return False

    def loss(self, batch: B, generator: torch.Generator) -> Tensor:
        """Scalar training loss of a batch; all its randomness is the generator's, which is on the CPU."""
        raise NotImplementedError

    def validation_loss(self, batch: B, generator: torch.Generator) -> Tensor:
        """Scalar loss by which training is watched: `loss`, unless a model drops conditions only in training."""
        return self.loss(batch, generator)

    def terms(self, batch: B, generator: torch.Generator) -> dict[str, Tensor]:
        """(B, ...) tensors from which `loss` is computed, in that order: the first that is not finite is then found.

        By default what the network returns.
        """
        return outputs_of(self.network, lambda: self.loss(batch, generator))

    def example_batch(self, count: int) -> B:
        """A batch of `count` samples of the shapes that training sees, all values 0."""
        raise NotImplementedError

    def output(self, batch: B) -> Tensor:
        """The network's output for a batch as a training step evaluates it, at t = 0 and with nothing dropped."""
        raise NotImplementedError

    def sampling_parts(self) -> Iterator[Evaluations]:
        """The computations that one sample takes, and how often each runs: guidance and candidates included.

        They are for shapes alone (all values 0, or none): a counter of FLOPs runs each once, in this order.
        """
        yield 1, lambda: self.output(self.example_batch(1))

    def tensors(self) -> dict[str, Tensor]:
        """The tensors beside the network's that an export holds, by name; `with_tensors` reads them."""
        return {}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """This model with what `tensors` gave of another one."""
        return self

    def overridden(self, name: str, settings: Mapping[str, object]) -> Self:
        """This model with other settings of sampling.

        Args:
            name: of the stage, for messages.
            settings: new values by name; `overridable` lists the names.

        Raises:
            InputError: an unknown name, or a value out of range.
        """
        check_names(name, settings, self.overridable())
        if not settings:
            return self
        try:
            model = self._with_settings(dict(settings))
            model.check()
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        return model

    @classmethod
    def rules(cls) -> dict[str, Rule]:
        """Which values the settings of sampling may have; those without a rule are checked by `check`."""
        return dict(cls.SETTINGS)

    @classmethod
    def overridable(cls) -> tuple[str, ...]:
        """The names of the settings of sampling that `overridden` takes."""
        return tuple(cls.SETTINGS)

    def _with_settings(self, settings: dict[str, object]) -> Self:
        return changed(self, settings)


@dataclass(frozen=True, eq=False)
class Prior(Model[Batch]):
    """p(z_i | y): a model that draws CLIP image embeddings for captions (unCLIP, section 2.2)."""

    network: PriorNetwork

    @property
    def embedding_dim(self) -> int:
        """D of the CLIP embeddings."""
        return self.network.embedding_dim

    @property
    def reads_features(self) -> bool:
        """Whether the network reads a frozen CLIP's features of every caption token instead of the tokens."""
        return self.reader is not None and self.reader.feature_dim is not None

    @property
    def evaluations(self) -> int:
        """How often the network is evaluated for one sample, guidance and candidates included."""
        return 1

    @property
    def guidance_scale(self) -> float | None:
        """Scale of classifier-free guidance in sampling: 1 is none; None for a prior that has no guidance."""
        return None

    def text(self, captions: Captions) -> Tensor:
        """The network's input for the captions: (B, L) tokens, or (B, L, F) features of them.

        Raises:
            InputError: it reads features, and there are none.
        """
        if not self.reads_features:
            return captions.tokens
        if captions.features is None:
            raise InputError(
                "model.network.feature_dim needs the CLIP's features of every token, and the batches hold none: make "
                "them with `unclip embed --token-features` and set data.init_args.token_features: true"
            )
        return captions.features

    @property
    def raw(self) -> bool:
        """Whether its z_t and z_i are the CLIP's own, not of unit norm."""
        return False

    @property
    def takes_raw(self) -> bool | None:
        return self.raw

    def sample(self, captions: Captions, generators: list[torch.Generator]) -> Tensor:
        """z_i (B, D) for B captions, one generator each; of unit norm unless `raw`."""
        raise NotImplementedError

    def example_batch(self, count: int) -> EmbeddingBatch:
        z = torch.zeros(count, self.embedding_dim)
        length = 1 if self.reader is None else self.reader.context_length
        width = None if self.reader is None else self.reader.feature_dim
        features = None if width is None else torch.zeros(count, length, width)
        tokens = torch.zeros(count, length, dtype=torch.int64)
        return EmbeddingBatch(z, z, tokens, torch.zeros(count, dtype=torch.int64), features)


def check_names(name: str, settings: Mapping[str, object], known: tuple[str, ...]) -> None:
    """Refuse settings that a stage does not have.

    Raises:
        InputError: names the setting, the nearest one, and those that there are.
    """
    import difflib

    for key in settings:
        if key not in known:
            if not known:
                raise InputError(f"{name} has no settings of sampling, so {key!r} cannot be overridden")
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            guess = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{name} has no setting {key!r}{guess} (there are {', '.join(known)})")


def field_names(kind: type) -> tuple[str, ...]:
    """The names of a dataclass's fields."""
    return tuple(field.name for field in fields(kind))


def changed(config: C, settings: Mapping[str, object]) -> C:
    """A frozen dataclass with those of `settings` that are its fields."""
    own = {key: value for key, value in settings.items() if key in field_names(type(config))}
    return replace(config, **own) if own else config  # type: ignore[type-var]


def outputs_of(network: nn.Module, evaluate: Callable[[], object]) -> dict[str, Tensor]:
    """What a network gives while `evaluate` runs, by name; of several evaluations the first."""
    seen: dict[str, Tensor] = {}

    def watch(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        named = output if isinstance(output, dict) else {"output": output}
        for name, value in named.items():
            if isinstance(value, Tensor) and value.ndim > 1:
                seen.setdefault(f"the network's {name}", value)

    handle = network.register_forward_hook(watch)
    try:
        evaluate()
    finally:
        handle.remove()
    return seen
