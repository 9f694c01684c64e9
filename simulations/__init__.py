"""Forward physics: crystal, dynamics, scattering, instrument, reciprocal space, virtual."""
