from __future__ import annotations

import pytest

from steering.predict import open_structure
from steering.predict.structure_file import StructureTextError, structure_as_file


def test_a_file_is_opened_only_where_files_are_allowed(tmp_path):
    path = tmp_path / "POSCAR"
    path.write_text("x")
    with open_structure(str(path), files=True) as opened:
        assert opened == path
    with pytest.raises(ValueError, match="expected one of"), open_structure(str(path), files=False):
        pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x" * 2_000_001, "expected at most 2,000,000"),
        ("  \n ", "empty"),
        ("a\n\0", "binary"),
        ("unit_cell: !!python/object/apply:os.system ['true']\n", "with the tag"),
        ("%TAG ! tag:yaml.org,2002:\n---\nunit_cell: !python/name:os.system x\n", "with the tag"),
        ("unit_cell: [1\n", "no valid YAML"),
    ],
)
def test_hostile_structure_texts_are_refused(text, message):
    with pytest.raises(StructureTextError, match=message), structure_as_file(text):
        pytest.fail("was let through")
