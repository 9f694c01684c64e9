"""Fixtures for what a machine may lack; BEAMSTEER_REQUIRE turns their absence into a failure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.kafka_broker import Broker, NoKafkaError, OwnBroker, SharedBroker, Topics, given_broker
from tests.small_disk import NoMountError, SmallDisk

# Two cores run two test workers: every worker gets one thread of each numerical library.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Kernels are compiled once for all workers: `simulations.kernels` lets processes share a cache.
os.environ.setdefault(
    "NUMBA_CACHE_DIR", str(Path(__file__).resolve().parents[1] / "build" / "numba")
)

settings.register_profile("beamsteer", deadline=None)  # a wall clock never decides a test
settings.load_profile("beamsteer")

ROOT = Path(__file__).resolve().parents[1]
REQUIRED = {name for name in os.environ.get("BEAMSTEER_REQUIRE", "").split(",") if name}
KNOWN = {"browser", "kafka", "mount", "shared_data"}


def pytest_configure(config: pytest.Config) -> None:
    unknown = REQUIRED - KNOWN
    if unknown:
        raise pytest.UsageError(
            f"BEAMSTEER_REQUIRE names {', '.join(sorted(unknown))}; expected some of "
            f"{', '.join(sorted(KNOWN))}."
        )


def _absent(component: str, reason: str) -> None:
    """Skip, or fail where the component is required."""
    if component in REQUIRED:
        pytest.fail(f"{reason} BEAMSTEER_REQUIRE names {component}.", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of measured and reference data that is not part of the package."""
    folder = Path(os.environ.get("BEAMSTEER_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "README.md").is_file():
        _absent("shared_data", f"No shared data in {folder}; set BEAMSTEER_SHARED_DATA.")
    return folder.resolve()


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The program of a real Chromium."""
    named = os.environ.get("BEAMSTEER_CHROMIUM")
    for candidate in (named, "chromium", "chromium-browser", "google-chrome"):
        program = shutil.which(candidate) if candidate else None
        if program:
            return Path(program)
    _absent("browser", "No Chromium; run `make system`, or set BEAMSTEER_CHROMIUM.")
    raise AssertionError


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A real file system of 24 MB that this test may fill."""
    try:
        disk = SmallDisk(tmp_path / "disk", 24 * 2**20)
    except NoMountError as reason:
        _absent("mount", f"No file system of this test's own: {reason}")
        raise AssertionError from None
    yield disk
    disk.close()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real Kafka: BEAMSTEER_TEST_KAFKA, else one local broker shared by the run's workers."""
    given = given_broker()
    if given is not None:
        yield given
        return
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    try:
        shared = SharedBroker(folder / "kafka")
    except NoKafkaError as reason:
        _absent("kafka", f"No Kafka: {reason}")
        raise AssertionError from None
    yield shared.broker
    shared.close()


@pytest.fixture
def kafka_topics(kafka: Broker) -> Iterator[Topics]:
    """Makes topics of this test's own in the run's broker: ``kafka_topics("detector")``."""
    topics = Topics(broker=kafka)
    yield topics
    topics.remove()


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[OwnBroker]:
    """A local broker that this test may kill and start again on the same port."""
    try:
        own = OwnBroker(tmp_path / "kafka")
    except NoKafkaError as reason:
        _absent("kafka", f"No Kafka: {reason}")
        raise AssertionError from None
    yield own
    own.close()
