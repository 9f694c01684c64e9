from __future__ import annotations

import pytest

from simulations.errors import InputError
from steering.predict import isotopes_of_text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("H=D,Li=7Li", {"H": "D", "Li": "7Li"}),
        (" H = D , ", {"H": "D"}),
        ("H=D:0.9+1H:0.1", {"H": {"D": 0.9, "1H": 0.1}}),
        ("H = D : 0.5 + H : 0.5,Li=7Li", {"H": {"D": 0.5, "H": 0.5}, "Li": "7Li"}),
    ],
)
def test_isotopes_and_their_shares_are_read(text, found):
    assert isotopes_of_text(text, "isotopes") == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("H=D,H=T", "names H twice.*H=T:0.5[+]D:0.5"),
        ("H=D,H=D", "names H twice"),
        ("H=D:0.9+1H:0.1,H=T", "names H twice"),
        ("{H: {D: 0.5, 1H: 0.5}}", "shares such as H=D:0.9[+]1H:0.1"),
        ("H", "expected pairs such as"),
        ("H=D=T", "expected pairs such as"),
        ("H=D:0.9+1H:0.2", "shares D:0.9[+]1H:0.2 sum to 1.1; expected 1"),
        ("H=D:0.5+D:0.5", "'D:0.5' in it; .*each isotope once"),
        ("H=D+T", "'D' in it; expected an isotope and its share"),
        ("H=D:nan+T:0.5", "'D:nan' in it"),
        ("H=D:-1+T:2", "'D:-1' in it"),
    ],
)
def test_isotopes_that_contradict_each_other_are_refused(text, says):
    with pytest.raises(InputError, match=says):
        isotopes_of_text(text, "isotopes")
