import json

import pytest

from consumers.state import Manifest, claim_state, only_model_server, read_state, write_manifest

ONE = {"source.t0_us": "null", "program.fold": "1"}
OTHER = {"source.t0_us": "12.5", "program.fold": "1", "instrument.mask": '"sha256:ab"'}


def test_a_state_has_a_random_name_that_stays(tmp_path):
    first = claim_state(tmp_path / "a", ONE)
    assert claim_state(tmp_path / "a", ONE) == first == read_state(tmp_path / "a")
    assert 0 <= int(first.state_id, 16) < 2**63
    assert claim_state(tmp_path / "b", ONE).state_id != first.state_id


def test_a_change_is_refused_with_every_key_and_both_values_and_nothing_is_written(tmp_path):
    claim_state(tmp_path, ONE)
    before = (tmp_path / "state.json").read_bytes()
    with pytest.raises(ValueError, match=r"state\.json") as refused:
        claim_state(tmp_path, OTHER)
    told = str(refused.value)
    assert "source.t0_us was null and is 12.5" in told
    assert 'instrument.mask was not there and is "sha256:ab"' in told
    assert "program.fold" not in told
    assert (tmp_path / "state.json").read_bytes() == before


def test_a_lost_name_is_made_again_from_a_manifest(tmp_path):
    folder = tmp_path / "partition-2"
    folder.mkdir()
    write_manifest(folder, Manifest(partition=2, state_id="0abc", fingerprint=ONE))
    assert claim_state(tmp_path, ONE).state_id == "0abc"


@pytest.mark.parametrize("text", ["", "[]", '{"schema_version": 1}', '{"schema_version": 7}'])
def test_a_damaged_name_is_refused_with_what_to_do(text, tmp_path):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ValueError, match="Remove it where the manifests are whole"):
        read_state(tmp_path)


def test_only_one_may_write_estimates_at_a_time(tmp_path):
    with only_model_server(tmp_path) as first:
        assert first
        with only_model_server(tmp_path) as second:
            assert not second
    with only_model_server(tmp_path) as third:
        assert third


def test_the_name_is_plain_json(tmp_path):
    found = claim_state(tmp_path, ONE)
    told = json.loads((tmp_path / "state.json").read_text())
    assert told == {"schema_version": 1, "state_id": found.state_id, "fingerprint": ONE}
