"""Sizes as they are written on a command line."""

from __future__ import annotations

import pytest

from climp_bench.errors import UsageError
from climp_bench.specs import parse_batch_sizes, parse_lengths, parse_resolutions


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("224..896", (224, 320, 384, 512, 640, 768, 896)),
        ("300..700", (320, 384, 512, 640)),
        ("224..224", (224,)),
        ("64..160:32", (64, 96, 128, 160)),
        ("64..150:32", (64, 96, 128)),
        ("96, 64,96", (64, 96)),
        ("1024,224..320", (224, 320, 1024)),
    ],
)
def test_resolutions(text: str, sizes: tuple[int, ...]) -> None:
    assert parse_resolutions(text) == sizes


def test_lengths_and_batch_sizes_have_ladders_of_their_own() -> None:
    assert parse_lengths("77..2048") == (77, 128, 256, 512, 1024, 2048)
    assert parse_batch_sizes("1,16") == (1, 16) and parse_batch_sizes("3..20") == (4, 8, 16)
    assert parse_batch_sizes("auto") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("224-896", "Did you mean 224..896?"),
        ("224...896", "Did you mean 224..896?"),
        ("224 to 896:32", "Did you mean 224..896:32?"),
        ("896..224", "Did you mean 224..896?"),
        ("224x224", "did you mean 224?"),
        ("230..300", "Write 224..896"),
        ("64..128:0", "names no size"),
        ("224,big", "'big'"),
        ("0", "names no size"),
        ("-224", "'-224'"),
        ("", "''"),
        ("\u00b2", "no size"),
    ],
)
def test_what_is_no_size_says_what_was_meant(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_resolutions(text)
    assert says in str(caught.value) and "--res" in caught.value.where
