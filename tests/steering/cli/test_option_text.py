from __future__ import annotations

from steering import cli
from steering.cli._option_text import isotopes_named


def test_no_isotopes_are_none():
    assert isotopes_named(None) == {}
    assert isotopes_named("H=D") == {"H": "D"}


def test_a_mixture_of_isotopes_is_predicted(capsys, tmp_path):
    ask = ["predict", "germanium", "--quantity", "dos", "--json", "--isotopes"]
    assert cli.run([*ask, "Ge=70Ge:0.5+76Ge:0.5"]) == 0
    assert '"Ge"' in capsys.readouterr().out
    assert cli.run([*ask, "Ge=70Ge,Ge=76Ge"]) == 2
    assert "names Ge twice" in capsys.readouterr().err
