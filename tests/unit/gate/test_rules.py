"""The file of rules: every fault is named with its place, near matches included."""

from __future__ import annotations

from pathlib import Path

import pytest

from climp_bench.errors import UsageError
from climp_bench.gate.rules import available, load_gate

HEAD = 'schema = 1\nname = "g"\n'
RULE = '[[rule]]\nname = "r"\nmetric = "acc1"\n'


@pytest.mark.parametrize("name", available())
def test_shipped_gates_are_valid_and_their_baselines_are_there(name: str) -> None:
    gate, path = load_gate(name)
    assert gate.name == name and gate.description
    assert gate.baseline is None or (path.parent / gate.baseline).is_file()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD + RULE + "tolerence = 1.0\n", "unknown key 'rule.0.tolerence' (did you mean 'tolerance'?)"),
        (HEAD + "baselin = 'x'\n" + RULE + "tolerance = 1\n", "did you mean 'baseline'?"),
        (HEAD + RULE + "flop = 1\n", "rule.0.flop"),
        (HEAD + RULE, "needs a criterion (tolerance, tolerance_se, flips"),
        (HEAD, "rule: Field required"),
        (HEAD + "rule = []\n", "at least 1 item"),
        (HEAD + RULE + "tolerance = -1\n", "greater than or equal to 0"),
        (HEAD + RULE + "tolerance = nan\n", "finite"),
        (HEAD + RULE + "tolerance = 1\ntolerance_se = 1\n", "not both"),
        (HEAD + RULE + "significance = 5\n", "less than 1"),
        (HEAD + RULE + 'significance = 0.05\ndirection = "same"\n', "needs a direction"),
        (HEAD + RULE + 'ratio = 1.1\ndirection = "same"\n', "needs a direction"),
        (HEAD + RULE + "ratio = 0.9\n", "greater than or equal to 1"),
        (HEAD + RULE + 'floor = 1\nagainst = "m"\n', "against needs a criterion"),
        (HEAD + RULE + 'floor = 1\ndirection = "up"\n', "'higher', 'lower' or 'same'"),
        (HEAD + RULE + 'floor = 1\nacross = ["protocol"]\n', "'dtype', 'resolution' or 'host'"),
        (HEAD + (RULE + "floor = 1\n") * 2, "two rules have one name"),
        (HEAD + '[[require]]\nsuite = "s"\ntask = ["t"]\n' + RULE + "floor = 1\n", "did you mean 'tasks'?"),
        (HEAD.replace("1", "2") + RULE + "floor = 1\n", "schema: Input should be 1"),
        ("schema = \n", "not valid TOML"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "g.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_gate(str(path))
    assert says in str(caught.value) and str(path) in str(caught.value)


def test_unknown_gates_get_near_matches() -> None:
    with pytest.raises(UsageError, match="Did you mean 'embedded'"):
        load_gate("embeded")
    with pytest.raises(UsageError, match="no such file of rules"):
        load_gate("nowhere.toml")
