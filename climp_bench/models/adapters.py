"""One face for every dual encoder: names, preprocessing, and batches in, unit-norm float32 arrays out.

A new kind of model (another library's, say) is one more subclass of ``Encoder``.
"""

from __future__ import annotations

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from climp_bench.errors import BackendError, UsageError
from climp_bench.specs import ImagePreprocess

if TYPE_CHECKING:
    import torch

    from climp_bench.models.dual_encoder import DualEncoder
    from climp_bench.models.spec import ModelSpec
    from climp_bench.models.weights import Choice
    from climp_bench.ops.wanted import WantedBackends

Array = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
DTYPES = ("float32", "bfloat16", "float16")
LOADING = threading.Lock()
"""Held while weights are read: building a model borrows torch's random state."""


@dataclass(frozen=True)
class OwnTransform:
    """Preprocessing that a model brings along, used in place of ``data.transforms``.

    Attributes:
        description: everything that shapes its output, as text; part of the embedding key.
        apply: uint8 RGB image (H, W, 3) -> float32 tensor (3, h, w). Several threads call it at once.
    """

    description: str
    apply: Callable[[Pixels], torch.Tensor]


class Encoder(ABC):
    """A model ready to encode. Weights are read at the first batch, not before.

    On a CPU several threads encode at once with the same encoder.

    Attributes:
        family, scale: which model; another library's model has its whole name as family and no scale.
        weights_digest: sha256 of the weights file.
        weights_source: ``shipped``, ``trained``, ... as the weights store says.
        preprocess: how it wants its images. With ``own_transform`` only a description, but for ``size``: what
            images are decoded or drawn for.
        own_transform: its own preprocessing, or None where ``preprocess`` says it all.
        text_transform: digest of the tokenizer and its settings.
        device: ``cpu`` or ``cuda``.
        dtype: dtype of the computation (embeddings are float32 whatever it is).
        backends: compute backend of every operator that has a choice; another library by its version.
        gpu: name of the accelerator, or None.
        context_length: tokens at which ``tokenize`` cuts a text, special ones included; None where it cuts
            nothing. An encoder that cuts says so here, and counts what it would cut in ``count_tokens``.
    """

    family: str
    scale: str | None
    weights_digest: str
    weights_source: str
    preprocess: ImagePreprocess
    own_transform: OwnTransform | None = None
    text_transform: str
    device: str
    dtype: str
    backends: dict[str, str]
    gpu: str | None
    context_length: int | None = None

    @property
    def name(self) -> str:
        """``family@scale``, or the family of a model without scales."""
        return self.family if self.scale is None else f"{self.family}@{self.scale}"

    def at(self, size: tuple[int, int]) -> Encoder:
        """The same model, weights shared, for images of another height and width in pixels.

        Raises:
            UsageError: its input has one size.
        """
        raise UsageError(
            "its input has one size", where=self.name, remedy="Leave it out of a sweep over sizes."
        )

    def at_length(self, tokens: int) -> Encoder:
        """The same model, weights shared, that cuts texts to ``tokens`` tokens, special ones included.

        A length at or beyond ``context_length`` changes nothing.

        Raises:
            UsageError: texts cannot be cut for this model.
        """
        raise UsageError(
            "it does not say how to cut its texts", where=self.name, remedy="Leave it out, or --max-tokens."
        )

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text before anything is cut, special ones included, padding not."""
        return [len(row) for row in self.tokenize(texts)]

    def logit_scale(self) -> float | None:
        """The factor that the model was trained to put on cosines before a softmax; None if it has none."""
        return None

    @abstractmethod
    def encode_images(self, images: Sequence[torch.Tensor] | torch.Tensor) -> Array:
        """Preprocessed images, each (3, h, w), on any device -> unit-norm float32 (B, P).

        Images of one shape may come as one tensor (B, 3, h, w).
        """

    def encode_patches(self, image: torch.Tensor) -> Array:
        """One preprocessed image (3, h, w) -> unit-norm float32 (rows, columns, P), a vector a patch.

        Raises:
            UsageError: the model has no patches to show.
        """
        raise UsageError(
            "it shows no patches", where=self.name, remedy="Name a model of `climp-bench models list`."
        )

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text; cut only where the model's own tokenizer has a length that it cuts at."""

    @abstractmethod
    def encode_tokens(self, tokens: Sequence[list[int]]) -> Array:
        """Token ids -> unit-norm float32 (B, P)."""

    def autocast(self) -> torch.autocast:
        """The context that a forward pass runs in: ``dtype``, or float32 untouched."""
        import torch

        enabled = self.dtype != "float32"
        dtype = getattr(torch, self.dtype) if enabled else torch.bfloat16
        return torch.autocast(self.device, dtype=dtype, enabled=enabled)


class _Lazy:
    """A model that is read when it is first needed, and shared by all copies of its encoder."""

    def __init__(self, choice: Choice, device: str) -> None:
        self._choice, self._device = choice, device
        self._model: DualEncoder | None = None

    def get(self) -> DualEncoder:
        with LOADING:
            if self._model is None:
                from climp_bench.models.weights import load

                assert self._choice.ref is not None
                self._model = load(self._choice.spec, self._choice.ref, self._device)
            return self._model


class CatalogueEncoder(Encoder):
    """A model of our own catalogue with weights from the store.

    Args:
        choice: what ``weights.resolve`` chose; must have weights.
        device: ``cpu`` or ``cuda``.
        dtype: one of ``DTYPES``; below float32 the encoders run under autocast.
        wanted: the backends that were asked for.

    Raises:
        UsageError: there is no such backend.
        BackendError: the device is not there, or a backend that was asked for cannot run on it.
    """

    def __init__(
        self,
        choice: Choice,
        device: str = "cpu",
        dtype: str = "float32",
        wanted: WantedBackends | None = None,
    ) -> None:
        if choice.ref is None:
            raise ValueError(f"{choice.spec.name} has no weights")
        self.family, self.scale = choice.spec.family, choice.spec.scale
        self.weights_digest = choice.ref.digest
        self.weights_source = choice.ref.source
        self.preprocess = choice.spec.preprocess
        self.device, self.dtype = device, dtype
        self._weights = _Lazy(choice, device)
        self._tokenizer = choice.ref.tokenizer(choice.spec)
        self.text_transform = f"{choice.spec.tokenizer}:{self._tokenizer.digest}"
        self.backends = _backends(choice.spec, device, wanted)
        self.gpu = gpu_name(device)

    @property
    def model(self) -> DualEncoder:
        """The dual encoder in evaluation mode on its device."""
        return self._weights.get()

    def at(self, size: tuple[int, int]) -> CatalogueEncoder:
        other = copy.copy(self)
        other.preprocess = replace(self.preprocess, size=size)
        return other

    def at_length(self, tokens: int) -> CatalogueEncoder:
        other = copy.copy(self)
        other._tokenizer = self._tokenizer.cut(tokens)
        other.text_transform = f"{self.text_transform}, at most {tokens} tokens"
        other.context_length = tokens
        return other

    def logit_scale(self) -> float:
        return float(self.model.logit_scale.detach().exp())

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Inference with the dtype and the backends of this encoder, in the thread that calls."""
        import torch

        from climp_bench.ops.dispatch import preferred

        with torch.inference_mode(), self.autocast(), preferred(self.backends):
            yield

    def encode_images(self, images: Sequence[torch.Tensor] | torch.Tensor) -> Array:
        import torch

        from climp_bench.models.vit import on_device, pack_images

        batch: torch.Tensor | dict[str, torch.Tensor]
        if isinstance(images, torch.Tensor):
            batch = images
        elif len({tuple(image.shape) for image in images}) == 1:
            batch = torch.stack(list(images))
        else:
            batch = pack_images(list(images), self.preprocess.multiple)
        with self._computing():
            return to_numpy(self.model.encode_image(on_device(batch, self.device)))

    def encode_patches(self, image: torch.Tensor) -> Array:
        with self._computing():
            return to_numpy(self.model.encode_patches(image[None].to(self.device))[0])

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return self._tokenizer.encode(texts)

    def encode_tokens(self, tokens: Sequence[list[int]]) -> Array:
        ids, lengths = self._tokenizer.pad(list(tokens))
        with self._computing():
            return to_numpy(self.model.encode_text(ids.to(self.device), lengths.to(self.device)))


def gpu_name(device: str) -> str | None:
    """Name of the accelerator, None for ``cpu``."""
    if device == "cpu":
        return None
    import torch

    return torch.cuda.get_device_name()


def pick_device(wanted: str) -> str:
    """``auto`` -> ``cuda`` if there is one, else ``cpu``. Raises ``BackendError`` if it is not there."""
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise BackendError(
            "no CUDA device can be used here",
            where="--device cuda",
            remedy="Use --device cpu, or run `climp-bench doctor` to see what torch finds.",
        )
    if wanted not in ("cpu", "cuda"):
        raise BackendError(f"unknown device {wanted!r}", where="--device", remedy="Use auto, cpu or cuda.")
    return wanted


def _backends(spec: ModelSpec, device: str, wanted: WantedBackends | None) -> dict[str, str]:
    """The backend that ``ops`` will run, for every scan the two towers have."""
    from climp_bench.models.catalogue import operators
    from climp_bench.ops.dispatch import resolve

    own = operators(spec)
    named = wanted.of(own) if wanted else {}
    return {op: resolve(op, device, named.get(op, "auto"))[1] for op in own}


def to_numpy(embeddings: torch.Tensor) -> Array:
    """A float32 array of embeddings that lie on any device, in any dtype."""
    rows: Array = embeddings.detach().to("cpu").float().numpy()
    return rows
