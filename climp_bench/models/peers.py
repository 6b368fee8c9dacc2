"""Dual encoders of other libraries and other packages, by name: ``PREFIX:REST``.

``open_clip:ARCH[/PRETRAINED]`` and ``hf:REPO[@REVISION]`` are built in. Other packages add prefixes through
the entry point group ``climp_bench.encoders``::

    [project.entry-points."climp_bench.encoders"]
    mine = "my_package.encoders:make"

``make(rest, device, dtype)`` then returns the ``Encoder`` of the name ``mine:REST``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from climp_bench.errors import ClimpError, UsageError, WeightsError
from climp_bench.models.adapters import LOADING, Array, Encoder, gpu_name, to_numpy
from climp_bench.registry import unknown

if TYPE_CHECKING:
    import torch
    from torch import nn

ENTRY_POINT_GROUP = "climp_bench.encoders"
BUILT_IN = ("open_clip", "hf")
RANDOM_SEED = 0
Announce = Callable[[str], None]


def is_peer(name: str) -> bool:
    """Whether ``name`` has a prefix: names of our own catalogue have none."""
    return ":" in name


def open_peer(
    name: str,
    device: str,
    dtype: str,
    *,
    random_weights: bool = False,
    offline: bool = False,
    announce: Announce = lambda text: None,
) -> Encoder:
    """The encoder ``PREFIX:REST``. Its files are brought here now, its weights read at the first batch.

    Args:
        name: ``open_clip:ARCH/TAG``, ``open_clip:ARCH/PATH``, ``open_clip:ARCH``, ``hf:REPO[@REVISION]``,
            ``hf:PATH``, or with a prefix of another package.
        device: ``cpu`` or ``cuda``.
        dtype: one of ``adapters.DTYPES``.
        random_weights: where the name says no weights, make random ones; weights that it names are used.
        offline: use what is on this machine only.
        announce: told what is fetched, and its size first.

    Raises:
        UsageError: an unknown prefix, architecture or tag (with near matches), no weights named, not a dual
            encoder, or a plug-in that fails.
        WeightsError: the files are not there, cannot be fetched, or do not fit.
    """
    prefix, _, rest = name.partition(":")
    if prefix == "open_clip":
        from climp_bench.models.peers_open_clip import open_open_clip

        return open_open_clip(
            rest, device, dtype, random_weights=random_weights, offline=offline, announce=announce
        )
    if prefix == "hf":
        from climp_bench.models.peers_hf import open_hf

        return open_hf(rest, device, dtype, random_weights=random_weights, offline=offline, announce=announce)
    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if prefix not in points:
        raise _unknown_prefix(name, prefix, (*BUILT_IN, *points))
    return _from_entry_point(points[prefix], rest, device, dtype)


def _unknown_prefix(name: str, prefix: str, known: Sequence[str]) -> UsageError:
    error = unknown("prefix", prefix, known)
    prefixes = ", ".join(f"{one}:" for one in known)
    near = f"{error.remedy} " if "Did you mean" in error.remedy else ""
    remedy = f"{near}Models of other libraries start with one of: {prefixes}."
    return UsageError(error.what, where=f"model {name}", remedy=remedy)


def _from_entry_point(point: EntryPoint, rest: str, device: str, dtype: str) -> Encoder:
    where = f"entry point {point.name} = {point.value}"
    try:
        encoder = point.load()(rest, device, dtype)
    except ClimpError:
        raise
    except Exception as error:
        remedy = "Correct the name, or repair or uninstall the package that provides it."
        what = f"the plug-in could not open {rest!r} ({told(error)})"
        raise UsageError(what, where=where, remedy=remedy) from error
    if not isinstance(encoder, Encoder):
        what = f"the plug-in made a {type(encoder).__name__}, not an Encoder"
        raise UsageError(what, where=where, remedy="Repair or uninstall the package that provides it.")
    return encoder


class PeerEncoder(Encoder):
    """What the encoders over another library's torch model share: built late and once, unit norm in float32.

    A subclass sets the attributes that ``Encoder`` documents and which are not set here.

    Args:
        name: the model's whole name.
        device: ``cpu`` or ``cuda``.
        dtype: one of ``adapters.DTYPES``.
    """

    def __init__(self, name: str, device: str, dtype: str) -> None:
        self.family, self.scale = name, None
        self.device, self.dtype, self.gpu = device, dtype, gpu_name(device)
        self._built: list[nn.Module] = []

    @property
    def model(self) -> nn.Module:
        """The library's model in evaluation mode on its device; copies of the encoder share it."""
        with LOADING:
            if not self._built:
                self._built.append(self.build().float().eval().to(self.device))
            return self._built[0]

    def logit_scale(self) -> float | None:
        scale = getattr(self.model, "logit_scale", None)
        return None if scale is None else float(scale.detach().exp())

    @abstractmethod
    def build(self) -> nn.Module:
        """The model with its weights, on the CPU."""

    @abstractmethod
    def image_features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """What the model gives for images, not normalised, (B, P)."""

    @abstractmethod
    def text_features(self, tokens: Sequence[list[int]]) -> torch.Tensor:
        """What the model gives for token ids, not normalised, (B, P)."""

    def encode_images(self, images: Sequence[torch.Tensor] | torch.Tensor) -> Array:
        import torch

        with torch.inference_mode(), self.autocast():
            return self._unit(self.image_features(torch.stack(list(images)).to(self.device)))

    def encode_tokens(self, tokens: Sequence[list[int]]) -> Array:
        import torch

        with torch.inference_mode(), self.autocast():
            return self._unit(self.text_features(tokens))

    def _unit(self, features: torch.Tensor) -> Array:
        from torch.nn import functional as F

        if features.ndim != 2:
            what = f"it gives features of shape {tuple(features.shape)}, not one vector each"
            raise UsageError(
                what, where=self.name, remedy="Name a dual encoder, such as a CLIP or SigLIP model."
            )
        return to_numpy(F.normalize(features.float(), dim=-1))


def build_random(build: Callable[[], nn.Module]) -> nn.Module:
    """What ``build`` makes from ``RANDOM_SEED``; the caller's random state is left as it was."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(RANDOM_SEED)
        return build()


def in_cache(repo: str, filename: str, revision: str | None = None) -> Path | None:
    """A file of huggingface_hub's cache, or None; with no revision the default branch's, else the newest."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(repo, filename, revision=revision)
    if isinstance(found, str):
        return Path(found)
    if revision is not None:
        return None
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}" / "snapshots"
    files = folder.glob(f"*/{filename}")
    return max(files, key=lambda path: path.parent.stat().st_mtime, default=None)


@contextmanager
def explained(what: str, where: str, remedy: str) -> Iterator[None]:
    """Turn what another library raises into a ``WeightsError``."""
    try:
        yield
    except ClimpError:
        raise
    except Exception as error:
        raise WeightsError(f"{what} ({told(error)})", where=where, remedy=remedy) from error


def told(error: Exception) -> str:
    """What an exception says, on one line of at most 400 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else f"{text[:400]} ..."
