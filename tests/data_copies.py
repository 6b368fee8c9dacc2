"""Local copies of data sets in the formats they are published in, made of scenes and scikit-learn's digits.

``python -m tests.data_copies FOLDER`` writes one of each.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from climp_bench.data.dataset import Dataset
from climp_bench.data.digits import SklearnDigits
from climp_bench.data.scenes_dataset import ScenesDataset
from tests.conftest import Member, write_tar

SIZE = (64, 64)
HF_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
XM3600_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.null())])
TEXTS = pa.list_(pa.string())


def lossless(dataset: Dataset, index: int, suffix: str = "png") -> bytes:
    """The image as a file without loss: webp as CLIP-Benchmark exports it, or png."""
    buffer = io.BytesIO()
    picture = Image.fromarray(dataset.image(index, SIZE))
    if suffix == "webp":
        picture.save(buffer, "WEBP", lossless=True, quality=0, method=0)
    else:
        picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def write_webdataset(folder: Path, dataset: Dataset, shards: int = 3) -> Path:
    """CLIP-Benchmark's layout: shards, their count, class names, templates, type."""
    n = len(dataset)
    starts = [k * n // shards for k in range(shards + 1)]
    for k in range(shards):
        members: list[Member] = []
        for i in range(starts[k], starts[k + 1]):
            members.append((f"s{i:07d}.webp", lossless(dataset, i, "webp")))
            members.append(_target(dataset, i))
        write_tar(folder / "test" / f"{k}.tar", members)
    (folder / "test" / "nshards.txt").write_text(str(shards))
    if dataset.kind == "classification":
        write_class_files(folder, dataset)
    else:
        (folder / "dataset_type.txt").write_text(dataset.kind)
    return folder


def _target(dataset: Dataset, index: int) -> Member:
    if dataset.kind == "classification":
        return f"s{index:07d}.cls", str(dataset.label(index)).encode()
    return f"s{index:07d}.txt", "\n".join(dataset.captions(index)).encode()


def write_class_files(folder: Path, dataset: Dataset) -> None:
    """``classnames.txt`` and the prompt templates, one a line."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classnames.txt").write_text("\n".join(dataset.classes))
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(dataset.templates))


def write_image_folder(folder: Path, dataset: Dataset, *, numbered: bool = False) -> Path:
    """One folder a class, named after it, or by its number as in ImageNet-V2."""
    for i in range(len(dataset)):
        label = dataset.label(i)
        place = folder / (str(label) if numbered else f"{label:03d} {dataset.classes[label]}")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:06d}.png").write_bytes(lossless(dataset, i))
    write_class_files(folder, dataset)
    return folder


def hf_features(**features: Any) -> dict[bytes, bytes]:
    """The note that ``datasets`` leaves in a schema."""
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def write_parquet(
    folder: Path,
    split: str,
    columns: dict[str, tuple[pa.DataType, Sequence[Any]]],
    *,
    shards: int = 2,
    rows_a_group: int = 7,
    metadata: dict[bytes, bytes] | None = None,
    pattern: str = "data/{split}-{k:05d}-of-{n:05d}.parquet",
) -> Path:
    """Parquet files as the hub holds them: small row groups, images inside."""
    schema = pa.schema([(name, kind) for name, (kind, _) in columns.items()], metadata=metadata)
    table = pa.table([pa.array(values, kind) for kind, values in columns.values()], schema=schema)
    n = table.num_rows
    for k in range(shards):
        path = folder / pattern.format(split=split, k=k, n=shards)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = table.slice(k * n // shards, (k + 1) * n // shards - k * n // shards)
        pq.write_table(part, path, row_group_size=rows_a_group)
    return folder


def _images(dataset: Dataset) -> list[dict[str, Any]]:
    return [{"bytes": lossless(dataset, i), "path": f"{i}.png"} for i in range(len(dataset))]


def write_classification(folder: Path, dataset: Dataset, image: str = "image", **how: Any) -> Path:
    """``image`` and ``label``, a ClassLabel with its names in the schema."""
    features = hf_features(
        **{image: {"_type": "Image"}, "label": {"names": list(dataset.classes), "_type": "ClassLabel"}}
    )
    labels = [dataset.label(i) for i in range(len(dataset))]
    columns = {image: (HF_IMAGE, _images(dataset)), "label": (pa.int64(), labels)}
    write_parquet(folder, "test", columns, metadata=features, **how)
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(dataset.templates))
    return folder


def write_nocaps(folder: Path, dataset: Dataset, **how: Any) -> Path:
    """The eleven columns of HuggingFaceM4/NoCaps, split validation."""
    n = len(dataset)
    captions = [dataset.captions(i) for i in range(n)]
    columns: dict[str, tuple[pa.DataType, Sequence[Any]]] = {
        "image": (HF_IMAGE, _images(dataset)),
        "image_coco_url": (pa.string(), [f"https://example.org/{i}.jpg" for i in range(n)]),
        "image_date_captured": (pa.string(), ["2018-11-06 11:04:33"] * n),
        "image_file_name": (pa.string(), [f"{i:016x}.jpg" for i in range(n)]),
        "image_height": (pa.int32(), [SIZE[0]] * n),
        "image_width": (pa.int32(), [SIZE[1]] * n),
        "image_id": (pa.int32(), list(range(n))),
        "image_license": (pa.int8(), [0] * n),
        "image_open_images_id": (pa.string(), [f"{i:016x}" for i in range(n)]),
        "annotations_ids": (pa.list_(pa.int32()), [list(range(len(c))) for c in captions]),
        "annotations_captions": (TEXTS, [list(c) for c in captions]),
    }
    return write_parquet(folder, "validation", columns, **how)


def write_xm3600(folder: Path, dataset: Dataset, languages: Sequence[str]) -> Path:
    """The columns of floschne/xm3600: a split a language; captions start with the language's name."""
    n = len(dataset)
    for language in languages:
        captions = [[f"{language}: {text}" for text in dataset.captions(i)] for i in range(n)]
        columns: dict[str, tuple[pa.DataType, Sequence[Any]]] = {
            "image_id": (pa.string(), [f"{i:016x}" for i in range(n)]),
            "image_locale": (pa.string(), ["fr"] * n),
            "captions": (TEXTS, captions),
            "captions_tokenized": (TEXTS, captions),
            "captions_tokenized_lowercase": (TEXTS, [[t.lower() for t in c] for c in captions]),
            "image": (XM3600_IMAGE, [{"bytes": lossless(dataset, i), "path": None} for i in range(n)]),
        }
        write_parquet(folder, language, columns, shards=1)
    return folder


def write_docci(folder: Path, dataset: Dataset) -> Path:
    """The columns of google/docci, one long description an image."""
    n = len(dataset)
    columns: dict[str, tuple[pa.DataType, Sequence[Any]]] = {
        "image": (HF_IMAGE, _images(dataset)),
        "example_id": (pa.string(), [f"test_{i:05d}" for i in range(n)]),
        "description": (pa.string(), [dataset.captions(i)[0] for i in range(n)]),
    }
    return write_parquet(folder, "test", columns)


def write_flickr8k(folder: Path, dataset: Dataset) -> Path:
    """The columns of jxie/flickr8k: as many ``caption_K`` as an image has captions."""
    n = len(dataset)
    columns: dict[str, tuple[pa.DataType, Sequence[Any]]] = {"image": (HF_IMAGE, _images(dataset))}
    for k in range(len(dataset.captions(0))):
        columns[f"caption_{k}"] = (pa.string(), [dataset.captions(i)[k] for i in range(n)])
    return write_parquet(folder, "test", columns)


def write_saved(folder: Path, dataset: Dataset, splits: Sequence[str] = ()) -> Path:
    """What ``datasets`` itself saves to disk: one data set, or several splits of it."""
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "captions": datasets.Sequence(datasets.Value("string"))}
    )
    rows = {
        "image": [{"bytes": lossless(dataset, i), "path": None} for i in range(len(dataset))],
        "captions": [list(dataset.captions(i)) for i in range(len(dataset))],
    }
    datasets.disable_progress_bars()
    saved = datasets.Dataset.from_dict(rows, features=features)
    if splits:
        datasets.DatasetDict(dict.fromkeys(splits, saved)).save_to_disk(folder)
    else:
        saved.save_to_disk(folder, num_shards=2)
    return folder


def write_metadata(folder: Path, dataset: Dataset) -> Path:
    """``imagefolder`` with captions: image files, and ``metadata.jsonl`` that names them."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for i in range(len(dataset)):
        (folder / "images" / f"{i}.png").write_bytes(lossless(dataset, i))
        lines.append(json.dumps({"file_name": f"images/{i}.png", "captions": list(dataset.captions(i))}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def write_all(root: Path, n: int = 60) -> None:
    """One copy of each kind."""
    shapes, captions, dense = (ScenesDataset(f"scenes-{t}", n) for t in ("shape", "captions", "dense"))
    write_webdataset(root / "wds_shapes", shapes)
    write_webdataset(root / "wds_pairs", captions)
    write_image_folder(root / "folders", SklearnDigits())
    write_classification(root / "labels", shapes)
    write_nocaps(root / "nocaps", captions)
    write_xm3600(root / "xm3600", captions, ("de", "en"))
    write_docci(root / "docci", dense)
    write_flickr8k(root / "flickr8k", captions)
    write_saved(root / "saved", captions)
    write_metadata(root / "listed", captions)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
