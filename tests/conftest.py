import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Started in the background, we would ignore Ctrl-C, and so would every program that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes depends on the machine, and the first one may load a library: no reason to fail.
settings.register_profile("workspan", deadline=None)
settings.load_profile("workspan")

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def mast():
    """The folder of original MAST files."""
    return _folder("mast")


@pytest.fixture(scope="session")
def groundtruth():
    """The folder of runs recorded on real GPUs."""
    return _folder("groundtruth")


def _folder(name):
    if not (SHARED / name).is_dir():
        pytest.skip(f"no folder {name} beside the checkout (../shared/{name})")
    return SHARED / name
