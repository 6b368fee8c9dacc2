"""Digests of a data set's images and of nothing else: by them data sets share embeddings."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import platformdirs

from climp_bench.errors import DataError
from climp_bench.files import write_text

_SHA256 = re.compile(r"[0-9a-f]{64}")


def digest_files(digests: Iterable[str]) -> str:
    """The digest of image files that are decoded as they are, in order.

    Args:
        digests: hex sha256 of each file, or any other text for an image that is not there.
    """
    return hashlib.sha256("\n".join(["image files", *digests]).encode()).hexdigest()


def remembered(source: str, make: Callable[[], str]) -> str:
    """A digest that follows from the data's fingerprint, made once on this machine.

    Kept in ``$CLIMP_BENCH_HOME/image-digests``, else in the user's cache folder; where that cannot be
    written, it is made every time.

    Args:
        source: digest of all that ``make`` reads.
        make: reads every image; gives a hex sha256.
    """
    home = os.environ.get("CLIMP_BENCH_HOME")
    root = Path(home) if home else Path(platformdirs.user_cache_dir("climp-bench"))
    path = root / "image-digests" / source
    with suppress(OSError, UnicodeDecodeError):
        if _SHA256.fullmatch(known := path.read_text(encoding="utf-8")):
            return known
    digest = make()
    with suppress(DataError):
        write_text(path, digest, DataError)
    return digest
