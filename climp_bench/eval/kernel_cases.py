"""Which inputs the backends of each op are checked on, and at which sizes they are timed."""

from __future__ import annotations

from itertools import product

from climp_bench.eval.kernel_inputs import Case


def check_cases(op: str) -> tuple[Case, ...]:
    """The cases of ``op`` that go through the reference, values and gradients: edges of every axis."""
    return _CHECKS[op]


def quick_case(op: str) -> Case:
    """A case that takes no time: a look at a backend before something else is timed with it."""
    return _TIMED["tiny"][op][0]


def beyond_int32(op: str) -> Case:
    """An input with more than 2^31 elements: offsets that 32 bits cannot hold."""
    return _BEYOND_INT32[op]


def timed_cases(op: str, sizes: str) -> tuple[Case, ...]:
    """The sizes of ``op`` in the set ``sizes``, one of ``SIZES`` or ``tiny``."""
    return _TIMED[sizes][op]


SIZES = ("small", "paper")
"""``small``: one image, one text, shapes of the base models' towers or of narrower ones; for a CPU.
``paper``: the base models' towers in batches; for a GPU. (``tiny``, for tests, says nothing about speed.)"""


def _scan(
    name: str, batch: int, length: int, channels: int, state: int = 16,
    *, half: bool = False, views: bool = False, **more: float,
) -> Case:  # fmt: skip
    sizes = {"batch": batch, "length": length, "channels": channels, "state": state, **more}
    return Case("selective_scan", name, sizes, half, views)


def _image(
    name: str, batch: int, height: int, width: int, channels: int, rank: int,
    *, half: bool = False, views: bool = False, **more: float,
) -> Case:  # fmt: skip
    sizes = {"batch": batch, "height": height, "width": width, "channels": channels, "rank": rank, **more}
    return Case("ss2d", name, sizes, half, views)


def _heads(
    name: str, batch: int, length: int, heads: int, channels: int, state: int,
    *, half: bool = False, views: bool = False, **more: float,
) -> Case:  # fmt: skip
    sizes = {"batch": batch, "length": length, "heads": heads, "channels": channels, "state": state, **more}
    return Case("ssd", name, sizes, half, views)


_CHECKS: dict[str, tuple[Case, ...]] = {
    "selective_scan": (
        _scan("length 1", 2, 1, 33),
        _scan("length 2", 2, 2, 5),
        _scan("odd length", 2, 77, 64, half=True),
        _scan("long", 1, 1025, 8),
        _scan("batch 1", 1, 64, 40),
        _scan("odd channels", 3, 19, 133, half=True),
        _scan("one channel", 2, 33, 1),
        _scan("one state", 2, 65, 48, state=1),
        _scan("odd states", 2, 21, 17, state=5),
        _scan("no gate, bias or softplus", 2, 37, 20, plain=True),
        _scan("strong decay", 2, 37, 20, decay=20.0),
        _scan("views", 2, 29, 24, views=True, half=True),
    ),
    "ss2d": (
        _image("1x1", 2, 1, 1, 33, 2),
        _image("1xW", 2, 1, 37, 17, 2),
        _image("Hx1", 2, 37, 1, 17, 2),
        _image("odd HxW", 2, 7, 5, 64, 4, half=True),
        _image("long", 1, 19, 27, 8, 2),
        _image("batch 1", 1, 8, 8, 40, 8),
        _image("odd channels", 3, 3, 5, 133, 3, half=True),
        _image("one channel, rank 1", 2, 5, 6, 1, 1),
        _image("16 states", 2, 6, 5, 24, 3, state=16),
        _image("strong decay", 2, 5, 6, 20, 2, decay=20.0),
        _image("views", 2, 5, 6, 24, 4, views=True, half=True),
    ),
    "ssd": (
        _heads("length 1", 2, 1, 4, 16, 16),
        _heads("odd length", 2, 77, 4, 16, 16, chunk_size=16, half=True),
        _heads("one chunk", 1, 77, 2, 64, 128, half=True),
        _heads("long", 1, 1025, 2, 8, 16),
        _heads("batch 1", 1, 64, 2, 8, 16, chunk_size=64),
        _heads("odd channels and states", 3, 19, 3, 13, 5, chunk_size=8),
        _heads("one state", 2, 40, 2, 8, 1, chunk_size=16),
        _heads("groups", 2, 33, 4, 8, 16, groups=2, chunk_size=16),
        _heads("chunks of one", 2, 9, 2, 8, 16, chunk_size=1),
        _heads("strong decay", 2, 48, 4, 8, 16, chunk_size=16, decay=500.0),
        _heads("views", 2, 29, 2, 16, 16, chunk_size=16, views=True, half=True),
    ),
}

_BEYOND_INT32 = {
    "selective_scan": _scan("beyond int32", 1025, 513, 4096, state=1),
    "ss2d": _image("beyond int32", 168, 224, 224, 256, 8),
    "ssd": _heads("beyond int32", 1025, 513, 64, 64, 16),
}


def _stages(batch: int) -> tuple[Case, ...]:
    """SS2D in the four stages of VMamba-B, images of 224 pixels."""
    return tuple(
        _image(f"VMamba-B stage {k + 1} at 224, batch {batch}", batch, side, side, 256 * 2**k, 8 * 2**k)
        for k, side in enumerate((56, 28, 14, 7))
    )


def _texts(batches: tuple[int, ...], lengths: tuple[int, ...], widths: tuple[int, ...]) -> tuple[Case, ...]:
    return tuple(
        _scan(f"Mamba-1, {width} channels, L {length}, batch {batch}", batch, length, width)
        for batch, length, width in product(batches, lengths, widths)
    )


def _texts2(batches: tuple[int, ...], lengths: tuple[int, ...], widths: tuple[int, ...]) -> tuple[Case, ...]:
    return tuple(
        _heads(f"Mamba-2, {width} channels, L {length}, batch {batch}", batch, length, width // 64, 64, 128)
        for batch, length, width in product(batches, lengths, widths)
    )


_PAPER = ((8, 64), (77, 256, 512), (1536, 4096))
_SMALL = ((1,), (77, 256), (1536,))
_TIMED: dict[str, dict[str, tuple[Case, ...]]] = {
    "tiny": {
        "ss2d": (_image("tiny", 1, 3, 4, 8, 2),),
        "selective_scan": (_scan("tiny", 1, 9, 8),),
        "ssd": (_heads("tiny", 1, 9, 2, 8, 16),),
    },
    "small": {"ss2d": _stages(1), "selective_scan": _texts(*_SMALL), "ssd": _texts2(*_SMALL)},
    "paper": {
        "ss2d": (*_stages(64), _image("VMamba-B stage 1 at 896, batch 8", 8, 224, 224, 256, 8)),
        "selective_scan": _texts(*_PAPER),
        "ssd": _texts2(*_PAPER),
    },
}
