"""Renew the stored embeddings after a change on purpose: python -m tests.golden.renew"""

from __future__ import annotations

import json

from tests.golden.embeddings import FAMILIES, GOLDEN, compute


def main() -> None:
    """Write the file anew and say which families moved."""
    old = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.is_file() else {}
    new = {family: compute(family) for family in FAMILIES}
    GOLDEN.write_text(_render(new), encoding="utf-8")
    moved = [family for family in FAMILIES if old.get(family) != new[family]]
    print(f"{GOLDEN.name}: changed: {', '.join(moved) or 'nothing'}")


def _render(table: dict[str, dict[str, object]]) -> str:
    """JSON with one embedding a line."""
    families = []
    for family, entry in table.items():
        lines = [f'  "weights": {json.dumps(entry["weights"])}']
        for side in ("images", "texts"):
            rows = entry[side]
            assert isinstance(rows, list)
            lines.append(f'  "{side}": [\n   ' + ",\n   ".join(map(json.dumps, rows)) + "\n  ]")
        families.append(f' "{family}": {{\n' + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(families) + "\n}\n"


if __name__ == "__main__":
    main()
