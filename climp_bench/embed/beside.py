"""Embed texts while images are embedded: beside a GPU the host is what images wait for.

It decodes them, fits them and hands them over, and the GPU has time left for texts. A CPU has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from climp_bench.embed.batches import device_of
from climp_bench.embed.extract import Embedded, embed_texts
from climp_bench.models.adapters import Encoder
from climp_bench.ranks import Team

TextsOf = Callable[[Encoder], Embedded]


class _Left(Exception):
    """The caller is gone: nothing more is wanted."""


@contextmanager
def texts_beside(
    texts: Sequence[str], encoders: Sequence[Encoder], root: Path, *, team: Team | None = None
) -> Iterator[TextsOf]:
    """Gives the function that embeds ``texts`` with each of the encoders, to be called in their order.

    On a GPU, unless ranks share the work, whose messages belong to the main thread, another thread has begun
    with the first; while the caller has the texts of one encoder, it makes those of the next. Who leaves
    early waits for the batches that run; what was finished stays in the cache.

    The function raises what ``embed_texts`` does.
    """

    def embed(encoder: Encoder) -> Embedded:
        return embed_texts(texts, encoder, root, progress=go_on, team=team)

    def go_on(done: int) -> None:
        if left.is_set():
            raise _Left

    def take(encoder: Encoder) -> Embedded:
        own, following = begun[encoder.name], next(waiting, None)
        if following is not None:
            begun[following.name] = behind.submit(embed, following)
        del begun[encoder.name]
        return own.result()

    left = Event()
    if team is not None or device_of(encoders) == "cpu":
        yield embed
        return
    waiting = iter(encoders)
    with ThreadPoolExecutor(1, "texts") as behind:
        first = next(waiting)
        begun = {first.name: behind.submit(embed, first)}
        try:
            yield take
        finally:
            left.set()
            behind.shutdown(cancel_futures=True)
