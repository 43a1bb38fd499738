import signal
from pathlib import Path

import pytest

# Started in the background, we would ignore Ctrl-C, and so would every program that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: Files that one process takes, one after the other: what is timed is not disturbed, and one vLLM is shared.
TOGETHER = {
    **dict.fromkeys(("test_from_server", "test_validate"), "real time"),
    **dict.fromkeys(("test_client", "test_compare", "test_draws", "test_fake", "test_measure"), "real time"),
    **dict.fromkeys(("test_replay", "test_tools_live"), "vLLM"),
}

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
    """As ``--dist loadfile``, but for the files that stay together."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduler(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return TOGETHER.get(Path(file).stem, file)

    return Scheduler(config, log) if config.getvalue("dist") == "loadfile" else None
