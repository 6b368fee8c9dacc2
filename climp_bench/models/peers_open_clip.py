"""``open_clip:ARCH[/PRETRAINED]``: models of OpenCLIP, with its tokenizers and its image transform."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from climp_bench.errors import UsageError, WeightsError
from climp_bench.files import sha256_file
from climp_bench.models import hub
from climp_bench.models.adapters import Encoder, OwnTransform, Pixels
from climp_bench.models.peers import RANDOM_SEED, Announce, PeerEncoder, build_random, explained, in_cache
from climp_bench.registry import unknown
from climp_bench.specs import ImagePreprocess

if TYPE_CHECKING:
    import torch
    from torch import nn

LOCAL = "Without a network, name a checkpoint: open_clip:ARCH/PATH."
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".npz")


@dataclass(frozen=True)
class Checkpoint:
    """The weights that a name means.

    Attributes:
        path: the file; None for random weights.
        digest, source: as ``Encoder.weights_digest`` and ``weights_source``.
        tag: OpenCLIP's entry of the pretrained tag: how images were preprocessed, which activation was used.
    """

    path: Path | None
    digest: str
    source: str
    tag: Mapping[str, Any] = field(default_factory=dict)


def open_open_clip(
    rest: str, device: str, dtype: str, *, random_weights: bool, offline: bool, announce: Announce
) -> Encoder:
    """The encoder ``open_clip:REST``; see ``peers.open_peer``."""
    import open_clip

    arch, _, pretrained = rest.partition("/")
    if arch not in open_clip.list_models():
        raise unknown("OpenCLIP architecture", arch, open_clip.list_models())
    if pretrained:
        checkpoint = _named(arch, pretrained, offline, announce)
    elif random_weights:
        checkpoint = Checkpoint(None, f"random-{RANDOM_SEED}:{arch}", "random")
    else:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(arch)) or "none"
        remedy = (
            f"Name some: open_clip:{arch}/TAG (tags: {tags}) or open_clip:{arch}/PATH; "
            "--random-weights allows random ones, for a trial."
        )
        raise UsageError("no weights are named", where=f"open_clip:{arch}", remedy=remedy)
    return OpenClipEncoder(rest, arch, checkpoint, device, dtype, offline=offline)


class OpenClipEncoder(PeerEncoder):
    """A model of OpenCLIP.

    The activation is the one that the tag's weights were trained with, as OpenCLIP's table of tags states it,
    also where the architecture of that name has another: ``ViT-B-32/openai`` is built with QuickGELU.

    Args:
        rest: the name without its prefix.
        arch: OpenCLIP's architecture.
        checkpoint: its weights.
        device: ``cpu`` or ``cuda``.
        dtype: one of ``adapters.DTYPES``.
        offline: read tokenizers and configurations of the hub from its cache only.
    """

    def __init__(
        self, rest: str, arch: str, checkpoint: Checkpoint, device: str, dtype: str, *, offline: bool
    ) -> None:
        import open_clip

        super().__init__(f"open_clip:{rest}", device, dtype)
        self._arch, self._checkpoint, self._offline = arch, checkpoint, offline
        self.weights_digest, self.weights_source = checkpoint.digest, checkpoint.source
        self.backends = {"open_clip": open_clip.__version__}
        self.preprocess, self.own_transform = _preprocessing(arch, checkpoint.tag)
        with _hub_forbidden(offline), explained("its tokenizer cannot be loaded", self.name, LOCAL):
            self._tokenizer = open_clip.get_tokenizer(arch)
        self.text_transform = _describe_tokenizer(self._tokenizer)
        self.context_length = self._full = int(self._tokenizer.context_length)

    def build(self) -> nn.Module:
        """The model with its weights. Raises ``WeightsError`` if they do not fit or are not only weights."""
        import open_clip

        path = self._checkpoint.path
        safe = "weights_only"
        if safe not in inspect.signature(open_clip.create_model).parameters:
            safe = "load_weights_only"  # its name before OpenCLIP 3
        options: dict[str, Any] = {
            "pretrained": str(path) if path else None,
            "precision": "fp32",
            "pretrained_hf": False,
            "force_quick_gelu": bool(self._checkpoint.tag.get("quick_gelu", False)),
            safe: True,
        }
        what = f"{self._arch} cannot be built{' from it' if path else ''}"
        remedy = "Name the architecture that they were made for, and a file that holds a state dict only."
        with (
            _hub_forbidden(self._offline),
            explained(what, str(path or self.name), remedy if path else "Choose another architecture."),
        ):
            model: nn.Module = build_random(lambda: open_clip.create_model(self._arch, **options))
        return model

    def at_length(self, tokens: int) -> OpenClipEncoder:
        odd = ("reduction_fn", "tokenizer_mode")
        if any(getattr(self._tokenizer, name, None) for name in odd):
            super().at_length(tokens)
        other = copy.copy(self)
        if tokens < self._full:
            other.context_length = tokens
            other.text_transform = f"{self.text_transform}, at most {tokens} tokens"
        return other

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Rows of the model's own context length, padded: its position table is of that length."""
        if not texts:
            return []
        rows: list[list[int]] = self._tokenizer(list(texts), context_length=self.context_length).tolist()
        padding = [self._pad_id()] * (self._full - len(rows[0]))
        return [row + padding for row in rows]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        inner = getattr(self._tokenizer, "tokenizer", None)
        if inner is not None:
            clean = getattr(self._tokenizer, "clean_fn", str)
            return [len(ids) for ids in inner([clean(t) for t in texts], verbose=False)["input_ids"]]
        return [len(self._tokenizer.encode(text)) + 2 for text in texts]

    def _pad_id(self) -> int:
        inner = getattr(self._tokenizer, "tokenizer", None)
        return int(getattr(inner, "pad_token_id", None) or 0)

    def image_features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.model.encode_image(images_BCHW)  # type: ignore[operator]
        return features

    def text_features(self, tokens: Sequence[list[int]]) -> torch.Tensor:
        import torch

        ids_BL = torch.tensor(tokens, dtype=torch.int64, device=self.device)
        features: torch.Tensor = self.model.encode_text(ids_BL)  # type: ignore[operator]
        return features


def _named(arch: str, pretrained: str, offline: bool, announce: Announce) -> Checkpoint:
    """The weights of a tag, or of a file."""
    import open_clip

    where = f"open_clip:{arch}/{pretrained}"
    if tag := open_clip.get_pretrained_cfg(arch, pretrained):
        path, source = _fetch(tag, where, offline, announce)
        return Checkpoint(path, sha256_file(path), source, tag)
    path = Path(pretrained).expanduser()
    if path.is_file():
        return Checkpoint(path, sha256_file(path), f"file {path}")
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if "/" in pretrained or os.sep in pretrained or path.suffix in SUFFIXES:
        raise WeightsError("there is no such checkpoint", where=str(path), remedy="Check the path.")
    raise unknown(f"{arch} tag", pretrained, tags)


def _fetch(tag: Mapping[str, Any], where: str, offline: bool, announce: Announce) -> tuple[Path, str]:
    """The file of a tag and where it comes from: the hub, or for a tag without a repository its URL."""
    import open_clip

    repo, _, filename = str(tag.get("hf_hub", "")).rpartition("/")
    if not repo:
        target = Path("~/.cache/clip").expanduser() / str(tag.get("url", "")).rpartition("/")[2]
        if offline and not target.is_file():
            raise WeightsError("not on this machine, and --offline was given", where=where, remedy=LOCAL)
        announce(str(tag.get("url", "")))
        with explained("cannot be fetched", where, f"Check the connection and run it again. {LOCAL}"):
            return Path(open_clip.download_pretrained(dict(tag))), where
    names = _file_names(filename)
    if offline:
        for name in names:
            if path := in_cache(repo, name):
                return path, f"hf:{repo}@{path.parent.name}"
        remedy = f"Run it once without --offline. {LOCAL}"
        raise WeightsError(f"hf:{repo} is not in the hub's cache", where=where, remedy=remedy)
    listing = hub.look_up(repo)
    held = {file.name for file in listing.files}
    name = next((name for name in names if name in held), names[-1])
    return hub.fetch(listing, name, announce=announce), f"hf:{repo}@{listing.commit}"


def _file_names(filename: str) -> tuple[str, ...]:
    """Names that OpenCLIP looks for in a repository, safetensors first."""
    from open_clip import constants

    if not filename:
        return constants.HF_SAFE_WEIGHTS_NAME, constants.HF_WEIGHTS_NAME
    stem, dot, suffix = filename.rpartition(".")
    return (f"{stem}{dot}safetensors", filename) if suffix in ("bin", "pth") else (filename,)


def _preprocessing(arch: str, tag: Mapping[str, Any]) -> tuple[ImagePreprocess, OwnTransform]:
    """OpenCLIP's own transform for evaluation, without building the model; and its description."""
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
    from PIL import Image

    size = open_clip.get_model_config(arch)["vision_cfg"].get("image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    settings = PreprocessCfg(**merge_preprocess_dict(PreprocessCfg(size=size), {**tag, "size": size}))
    transform = image_transform_v2(settings, is_train=False)

    def apply(image: Pixels) -> torch.Tensor:
        tensor: torch.Tensor = transform(Image.fromarray(image))
        return tensor

    described = ImagePreprocess(
        size=(height, width),
        mode="center_crop" if settings.resize_mode == "shortest" else "squash",
        interpolation="bilinear" if settings.interpolation == "bilinear" else "bicubic",
        mean=settings.mean,
        std=settings.std,
    )
    return described, OwnTransform("open_clip " + json.dumps(asdict(settings), sort_keys=True), apply)


def _describe_tokenizer(tokenizer: Any) -> str:
    """Class, settings and vocabulary of one of OpenCLIP's tokenizers."""
    facts = {
        name: value
        for name, value in vars(tokenizer).items()
        if value is None or isinstance(value, str | int | bool)
    }
    for name in ("clean_fn", "reduction_fn"):
        facts[name] = getattr(getattr(tokenizer, name, None), "__name__", None)
    inner = getattr(tokenizer, "tokenizer", None)
    vocabulary = inner.get_vocab() if inner is not None else tokenizer.encoder
    facts["vocabulary"] = hashlib.sha256(json.dumps(vocabulary, sort_keys=True).encode()).hexdigest()
    return f"open_clip {type(tokenizer).__name__} {json.dumps(facts, sort_keys=True)}"


@contextmanager
def _hub_forbidden(forbidden: bool) -> Iterator[None]:
    """OpenCLIP passes no such wish on to the libraries that it reads tokenizers and text towers with."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or forbidden
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
