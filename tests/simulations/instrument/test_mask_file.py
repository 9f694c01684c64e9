from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulations.instrument import load_instrument, read_mask, with_mask_file
from simulations.instrument.mask_file import write_mask

XML = (
    '<?xml version="1.0"?><detector-masking><group><detids>3,10-12, 20</detids>{}</group>'
    "</detector-masking>"
)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mask"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text", [XML.format(""), "3 10-12\n20 # bad tube", "ISIS mask\n3, 10 - 12\n\n20\n"]
)
def test_identifiers_and_ranges_are_read_from_xml_and_text(tmp_path: Path, text: str) -> None:
    mask = read_mask(written(tmp_path, text))
    assert mask.detector_id.tolist() == [3, 10, 11, 12, 20]
    arcs = load_instrument("ARCS")
    masked, unknown = with_mask_file(arcs, mask)
    assert unknown == 0
    added = masked.masked & ~arcs.masked
    assert set(arcs.detector_id[added]) == {10, 11, 12, 20}  # 3 is at the end of a tube


def test_components_are_packs_of_a_known_spectrometer(tmp_path: Path) -> None:
    cncs = load_instrument("CNCS")
    mask = read_mask(written(tmp_path, XML.format("<component>bank3</component>")))
    masked, _ = with_mask_file(cncs, mask)
    assert masked.masked[2048:3072].all()
    assert not masked.masked[3072:4096].all()
    with pytest.raises(ValueError, match=r"masks component 'bank3'; expected one of B1"):
        with_mask_file(load_instrument("ARCS"), mask)


def test_merged_pixels_are_masked_with_any_member(tmp_path: Path) -> None:
    hyspec = load_instrument("HYSPEC/4")
    masked, unknown = with_mask_file(hyspec, read_mask(written(tmp_path, "50\n999999")))
    assert unknown == 1
    assert hyspec.detector_id[masked.masked & ~hyspec.masked].tolist() == [48]


def test_what_is_written_masks_the_same(tmp_path: Path) -> None:
    for name in ("HYSPEC", "HYSPEC/4"):
        hyspec = load_instrument(name)
        write_mask(tmp_path / "m.xml", hyspec)
        bare = load_instrument(name)
        bare = type(bare)(
            **{f: getattr(bare, f) for f in bare.__dataclass_fields__}
            | {"masked": np.zeros(bare.n_pixels, bool)}
        )
        again, unknown = with_mask_file(bare, read_mask(tmp_path / "m.xml"))
        assert unknown == 0
        assert np.array_equal(again.masked, hyspec.masked)
        with pytest.raises(ValueError, match="no masked pixel"):
            write_mask(tmp_path / "n.xml", bare)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "masks nothing"),
        ("nothing here", "masks nothing"),
        ("1 2\n5-", "line 2 has '5-'; expected an identifier or a range"),
        ("9-5", "line 1 has '9-5'; expected a range that rises"),
        ("1-99999999999", "masks over 20000000"),
        ("<detector-masking><group>", "is no XML"),
        ("<!DOCTYPE x><detector-masking/>", "declares entities"),
        ("<mask/>", "starts with <mask>; expected <detector-masking>"),
        (XML.replace("3,", "three,").format(""), "detids has 'three'"),
    ],
)
def test_a_bad_mask_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=words) as caught:
        read_mask(path)
    assert str(path) in str(caught.value)


def test_a_mask_of_another_instrument_is_refused(tmp_path: Path) -> None:
    mask = read_mask(written(tmp_path, "900000-900100"))
    with pytest.raises(ValueError, match="none of its 101 identifiers is a pixel of HYSPEC"):
        with_mask_file(load_instrument("HYSPEC"), mask)
