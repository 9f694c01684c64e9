from __future__ import annotations

import os
from datetime import date

import pytest
import yaml

from simulations.errors import InputError
from steering.web.people_file import (
    LOOK_SECONDS,
    PREFIX,
    People,
    add_person,
    hashed,
    new_token,
    read_people,
)


def test_a_token_is_given_once_and_its_hash_alone_is_kept(tmp_path):
    path = tmp_path / "people.yaml"
    ada = add_person(path, name="Ada Lovelace", role="admin")
    ben = add_person(path, name="Ben", role="viewer", until=date(2026, 5, 1))
    assert ada.startswith(PREFIX)
    assert len(ada) > 40
    assert ada not in path.read_text()
    assert hashed(ada) in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    people = People(path=path, today=lambda: date(2026, 5, 1))
    assert (people.who(ada).name, people.who(ada).role) == ("Ada Lovelace", "admin")
    assert people.who(ben).role == "viewer"
    assert people.who(new_token()) is None
    assert people.who("") is None
    later = People(path=path, today=lambda: date(2026, 5, 2))
    assert later.who(ben) is None  # his last day is over
    assert later.who(ada) is not None


def test_who_is_struck_out_is_out_within_a_second_and_a_bad_file_changes_nothing(tmp_path):
    path, clock = tmp_path / "people.yaml", [0.0]
    ada = add_person(path, name="Ada", role="admin")
    ben = add_person(path, name="Ben", role="operator")
    people = People(path=path, monotonic=lambda: clock[0])
    assert people.who(ben) is not None
    document = yaml.safe_load(path.read_text())
    document["people"] = [one for one in document["people"] if one["name"] != "Ben"]
    path.write_text(yaml.safe_dump(document))
    clock[0] += LOOK_SECONDS + 0.1
    assert people.who(ben) is None
    assert people.who(ada) is not None
    path.write_text("people: [")
    clock[0] += LOOK_SECONDS + 0.1
    assert people.who(ada) is not None


def test_the_one_token_is_an_admin_named_so_beside_people(tmp_path):
    path = tmp_path / "people.yaml"
    ada = add_person(path, name="Ada", role="viewer")
    people = People(path=path, token="a-token-of-good-length")  # noqa: S106
    found = people.who("a-token-of-good-length")
    assert found is not None
    assert (found.name, found.role, found.named) == ("token", "admin", False)
    assert people.who(ada).role == "viewer"
    assert not People().guards


OPENID = {"issuer": "https://a.b", "audience": "a", "roles": {}}
ENTRY = {"name": "Ada", "role": "admin", "token": hashed("x")}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("people: [", "no YAML"),
        ("[1, 2]", "expected people"),
        ({"peple": []}, "peple"),
        ({"people": [ENTRY | {"role": "god"}]}, "people.0.role"),
        ({"people": [ENTRY | {"token": "secret"}]}, "64 hexadecimal digits"),
        ({"people": [ENTRY | {"name": "a\nb"}]}, "people.0.name"),
        ({"people": [ENTRY | {"name": ""}]}, "people.0.name"),
        ({"people": [ENTRY | {"until": "soon"}]}, "people.0.until"),
        ({"people": [ENTRY, ENTRY | {"name": "Ben"}]}, "comes twice"),
        ({"openid": {"issuer": "http://login.example", "audience": "a", "roles": {}}}, "https"),
        ({"openid": OPENID | {"algorithms": ["HS256"]}}, "algorithms"),
        ({"openid": OPENID | {"algorithms": []}}, "algorithms"),
        ("\x00", "no YAML"),
        ("a: &a [*a, *a]", "expected people"),
    ],
)  # fmt: skip
def test_a_file_that_makes_no_sense_is_refused_without_any_token(tmp_path, document, says):
    path = tmp_path / "people.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    path.chmod(0o600)
    with pytest.raises(InputError, match=says) as refused:
        read_people(path)
    assert "secret" not in str(refused.value).replace("secret token", "")
    assert str(path) in str(refused.value)


def test_a_file_that_others_may_write_or_that_is_not_there_is_refused(tmp_path):
    path = tmp_path / "people.yaml"
    with pytest.raises(InputError, match="beamsteer token"):
        read_people(path)
    add_person(path, name="Ada", role="admin")
    for mode in (0o620, 0o602):
        path.chmod(mode)
        with pytest.raises(InputError, match="chmod 600"):
            read_people(path)
    path.chmod(0o600)
    with pytest.raises(InputError, match="one line"):
        add_person(path, name="a\nb", role="admin")
    assert os.listdir(tmp_path) == ["people.yaml"]
