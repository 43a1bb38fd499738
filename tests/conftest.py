import signal
from pathlib import Path

import pytest

# Started in the background, we would ignore Ctrl-C, and so would every program that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: Files whose tests take real time: they run one after the other, so that none disturbs another.
REAL_TIME = {f"test_{name}" for name in ["client", "compare", "draws", "fake", "from_server", "measure", "validate"]}

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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """That of ``--dist loadfile``, for which the files that take real time are one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduler(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "real time" if Path(file).stem in REAL_TIME else file

    return Scheduler(config, log) if config.getvalue("dist") == "loadfile" else None
