"""``hf:REPO[@REVISION]`` and ``hf:PATH``: dual encoders of transformers, with their own processors.

Weights are read from safetensors only, and no code of a repository is run.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from climp_bench.errors import UsageError, WeightsError
from climp_bench.files import sha256_files
from climp_bench.models import hub
from climp_bench.models.adapters import Encoder, OwnTransform, Pixels
from climp_bench.models.peers import (
    RANDOM_SEED,
    Announce,
    PeerEncoder,
    build_random,
    explained,
    in_cache,
)
from climp_bench.specs import ImagePreprocess

if TYPE_CHECKING:
    import torch
    from torch import nn

WEIGHTS = "model.safetensors"
SMALL_FILES = (".json", ".txt", ".model")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
LAYOUT = "It must hold what transformers' save_pretrained writes: model, image processor and tokenizer."


@dataclass(frozen=True)
class Snapshot:
    """A folder in the layout of ``save_pretrained``, and where it comes from."""

    folder: Path
    source: str

    def weights(self) -> list[Path]:
        """The safetensors files that transformers reads; none if there are none."""
        if (self.folder / WEIGHTS).is_file():
            return [self.folder / WEIGHTS]
        index = self.folder / f"{WEIGHTS}.index.json"
        if not index.is_file():
            return []
        with explained("not an index of shards", str(index), LAYOUT):
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        shards = [self.folder / name for name in sorted(names)]
        for shard in shards:
            if not shard.is_file():
                raise WeightsError("a shard is missing", where=str(shard), remedy="Fetch or save it again.")
        return shards


def open_hf(
    rest: str, device: str, dtype: str, *, random_weights: bool, offline: bool, announce: Announce
) -> Encoder:
    """The encoder ``hf:REST``; see ``peers.open_peer``."""
    path = Path(rest).expanduser()
    if path.is_dir():
        snapshot = Snapshot(path, f"folder {path}")
    elif path.is_absolute() or rest.startswith(("./", "../", "~")):
        raise WeightsError("there is no such folder", where=f"hf:{rest}", remedy="Check the path.")
    else:
        snapshot = _cached(rest) if offline else _fetched(rest, announce)
    return HfEncoder(rest, snapshot, device, dtype, random_weights=random_weights)


def _cached(rest: str) -> Snapshot:
    repo, revision = hub.split_revision(rest)
    config = in_cache(repo, "config.json", revision)
    if config is None:
        raise WeightsError(
            "it is not in the hub's cache, and --offline was given",
            where=f"hf:{rest}",
            remedy="Run it once without --offline, name a commit that is in the cache (hf:REPO@COMMIT), or a "
            "folder that save_pretrained wrote (hf:PATH).",
        )
    return Snapshot(config.parent, f"hf:{repo}@{config.parent.name}")


def _fetched(rest: str, announce: Announce) -> Snapshot:
    """Everything but the weights first: what is not a dual encoder is refused before they are fetched."""
    repo, revision = hub.split_revision(rest)
    listing = hub.look_up(repo, revision)
    config = hub.fetch(listing, "config.json")
    for file in listing.files:
        if "/" not in file.name and file.name.endswith(SMALL_FILES):
            hub.fetch(listing, file.name)
    _model_class(_config(config.parent), f"hf:{rest}")
    hub.fetch(listing, WEIGHTS, announce=announce)
    return Snapshot(config.parent, f"hf:{repo}@{listing.commit}")


class HfEncoder(PeerEncoder):
    """A dual encoder of transformers: any model that has ``get_image_features`` and ``get_text_features``.

    Texts are cut at the model's own length. They are padded as the model was trained: SigLIP to that length,
    attending to the padding; others to the longest of a batch, with the padding masked.

    Args:
        rest: the name without its prefix.
        snapshot: its files.
        device: ``cpu`` or ``cuda``.
        dtype: one of ``adapters.DTYPES``.
        random_weights: make random weights if the folder has none.

    Raises:
        UsageError: not a dual encoder, or its images have no fixed size.
        WeightsError: a file is missing or cannot be read.
    """

    def __init__(
        self, rest: str, snapshot: Snapshot, device: str, dtype: str, *, random_weights: bool
    ) -> None:
        import transformers

        super().__init__(f"hf:{rest}", device, dtype)
        self._snapshot = snapshot
        self._config = _config(snapshot.folder)
        self._class = _model_class(self._config, self.name)
        self._random = not snapshot.weights() and random_weights
        config = sha256_files([snapshot.folder / "config.json"])
        self.weights_digest, self.weights_source = self._identify(config)
        self.backends = {"transformers": transformers.__version__}
        self.preprocess, self.own_transform = _preprocessing(snapshot.folder, self.name, config)
        with explained("its tokenizer cannot be loaded", str(snapshot.folder), LAYOUT):
            self._tokenizer = _auto("AutoTokenizer", snapshot.folder)
        self._fixed = str(self._config.model_type).startswith("siglip")
        self._length = self.context_length = self._context_length()
        files = [f for name in TOKENIZER_FILES if (f := snapshot.folder / name).is_file()]
        self.text_transform = (
            f"transformers {type(self._tokenizer).__name__}:{sha256_files(files)}, at most {self._length}, "
            f"{'fixed' if self._fixed else 'longest'}, config {config}"
        )

    def _identify(self, config: str) -> tuple[str, str]:
        if self._random:
            return f"random-{RANDOM_SEED}:{self._config.model_type}:{config}", "random"
        if weights := self._snapshot.weights():
            return sha256_files(weights), self._snapshot.source
        raise WeightsError(
            f"there is no {WEIGHTS}",
            where=str(self._snapshot.folder),
            remedy="Only safetensors are read: save the model again with save_pretrained, or use "
            "--random-weights for a trial.",
        )

    def _context_length(self) -> int | None:
        """Tokens that the text tower has positions for; None where it has no limit."""
        text = getattr(self._config, "text_config", self._config)
        known = (getattr(text, "max_position_embeddings", None), self._tokenizer.model_max_length)
        limits = [int(n) for n in known if n is not None and 0 < n < 1_000_000]
        return min(limits, default=None)

    def build(self) -> nn.Module:
        """The model with its weights. Raises ``WeightsError`` if they do not fit."""
        if self._random:
            return build_random(lambda: cast("nn.Module", self._class(self._config)))
        folder = str(self._snapshot.folder)
        options = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
        with _no_bars(), explained(f"not weights of a {self._class.__name__}", folder, LAYOUT):
            model, info = self._class.from_pretrained(folder, **options)
        missing = [str(key) for key in (*info["missing_keys"], *info["mismatched_keys"])]
        if missing:
            what = f"{len(missing)} weights are missing or misshapen: {', '.join(sorted(missing))}"
            raise WeightsError(what, where=folder, remedy="Save or fetch the model again.")
        return cast("nn.Module", model)

    def at_length(self, tokens: int) -> HfEncoder:
        other = copy.copy(self)
        if self._length is None or tokens < self._length:
            other.context_length = tokens
            other.text_transform = f"{self.text_transform}, at most {tokens} tokens"
        return other

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        cut = self.context_length
        encoded = self._tokenizer(list(texts), truncation=cut is not None, max_length=cut)
        rows = cast("list[list[int]]", encoded["input_ids"])
        if not self._fixed or self._length is None:
            return rows
        pad, left = self._tokenizer.pad_token_id or 0, self._tokenizer.padding_side == "left"
        filled = [(row, [pad] * (self._length - len(row))) for row in rows]
        return [fill + row if left else row + fill for row, fill in filled]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        rows = self._tokenizer(list(texts), truncation=False, verbose=False)["input_ids"] if texts else []
        return [len(row) for row in rows]

    def image_features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return _pooled(self.model.get_image_features(pixel_values=images_BCHW))  # type: ignore[operator]

    def text_features(self, tokens: Sequence[list[int]]) -> torch.Tensor:
        import torch

        longest = max(map(len, tokens))
        pad = self._tokenizer.pad_token_id or 0
        left = self._tokenizer.padding_side == "left"
        ids_BL = torch.full((len(tokens), longest), pad, dtype=torch.int64)
        mask_BL = torch.zeros_like(ids_BL)
        for ids, mask, row in zip(ids_BL, mask_BL, tokens, strict=True):
            place = slice(longest - len(row), None) if left else slice(len(row))
            ids[place], mask[place] = torch.tensor(row), 1
        inputs = {"input_ids": ids_BL.to(self.device), "attention_mask": mask_BL.to(self.device)}
        return _pooled(self.model.get_text_features(**inputs))  # type: ignore[operator]


@contextmanager
def _no_bars() -> Iterator[None]:
    """transformers draws a bar while it reads weights, into the middle of the run's own."""
    from transformers.utils import logging

    bars: Any = logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def _auto(name: str, folder: Path) -> Any:
    """What one of transformers' Auto classes makes of a folder, never running code that lies there."""
    import transformers

    return getattr(transformers, name).from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )


def _config(folder: Path) -> Any:
    with explained("it has no configuration that transformers knows", str(folder), LAYOUT):
        return _auto("AutoConfig", folder)


def _model_class(config: Any, where: str) -> Any:
    """The class that transformers builds ``config`` with, if it is a dual encoder."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    made: Any = MODEL_MAPPING.get(type(config), None)
    made = made[0] if isinstance(made, tuple | list) else made
    if made is None or not all(hasattr(made, f"get_{side}_features") for side in ("image", "text")):
        raise UsageError(
            f"a {config.model_type} model is not a dual encoder of images and texts",
            where=where,
            remedy="Name one that has get_image_features and get_text_features, such as CLIP or SigLIP.",
        )
    return made


def _preprocessing(folder: Path, where: str, config: str) -> tuple[ImagePreprocess, OwnTransform]:
    """The image processor of a folder; its output's size is what it makes of a small grey image."""
    import numpy as np
    from PIL import Image

    with explained("its image processor cannot be loaded", str(folder), LAYOUT):
        processor = _auto("AutoImageProcessor", folder)

    def apply(image: Pixels) -> torch.Tensor:
        tensor: torch.Tensor = processor(images=Image.fromarray(image), return_tensors="pt")["pixel_values"][
            0
        ]
        return tensor

    shapes = {tuple(apply(np.full((*size, 3), 128, np.uint8)).shape) for size in ((48, 64), (96, 40))}
    shape = shapes.pop()
    if shapes or len(shape) != 3:
        what = "its images have no fixed size, or are cut into patches before the model"
        raise UsageError(what, where=where, remedy="Name a model with a fixed input size.")
    facts = json.loads(processor.to_json_string())
    described = ImagePreprocess(
        size=(shape[1], shape[2]),
        mode="center_crop" if facts.get("do_center_crop") else "squash",
        interpolation="bilinear" if facts.get("resample") == 2 else "bicubic",
        mean=tuple(facts.get("image_mean") or (0.0, 0.0, 0.0)),
        std=tuple(facts.get("image_std") or (1.0, 1.0, 1.0)),
    )
    text = f"transformers {type(processor).__name__} {json.dumps(facts, sort_keys=True)}, config {config}"
    return described, OwnTransform(text, apply)


def _pooled(features: Any) -> torch.Tensor:
    """The features themselves; from transformers 5 on they come as ``pooler_output`` of a larger output."""
    pooled: torch.Tensor = getattr(features, "pooler_output", features)
    return pooled
