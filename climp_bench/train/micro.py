"""``python -m climp_bench.train.micro``: see ``climp_bench.train.shipping``."""

from __future__ import annotations

import typer

from climp_bench.train.shipping import main, table, train_micro

__all__ = ["main", "table", "train_micro"]

if __name__ == "__main__":
    typer.run(main)
