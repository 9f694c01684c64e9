import pytest
from pydantic import ValidationError

from simulations.fold import BackgroundSection


def test_everything_is_off_by_default():
    section = BackgroundSection()
    assert not section.bragg_tails
    assert not section.elastic_band
    assert section.can_sigma is None


def test_the_strength_of_a_can_is_known_better_when_it_was_measured():
    assert BackgroundSection(can="can.nxs.h5").can_sigma == 0.05
    assert BackgroundSection(can_material="aluminium", can_atoms=2.0).can_sigma == 0.3
    assert BackgroundSection(can="can.nxs.h5", can_relative_sigma=0.01).can_sigma == 0.01


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"can": "a", "can_material": "aluminium", "can_atoms": 1.0}, "expected one of them"),
        ({"can_material": "aluminium"}, "can_material and can_atoms belong together"),
        ({"can_atoms": 1.0}, "can_material and can_atoms belong together"),
        ({"can_material": "lead", "can_atoms": 1.0}, "aluminium"),
        ({"can": "a", "can_transmission": 0.0}, "can_transmission"),
        ({"can": "a", "can_transmission": 1.1}, "can_transmission"),
        ({"bragg_tails": True, "mosaic_deg": -0.1}, "mosaic_deg"),
        ({"reflection_width": 0.0}, "reflection_width"),
        ({"cans": "a"}, "cans"),
    ],
)
def test_what_cannot_be_is_refused(fields, told):
    with pytest.raises(ValidationError, match=told):
        BackgroundSection(**fields)
