"""What several test files share."""

import shutil
import signal
from pathlib import Path

import pytest
import torch
from prepare_tools import corpus, data_settings
from tools import make_store

from bert_lamb.hardware import cache_by_processor
from bert_lamb.training.repeatable import set_deterministic
from data_prep.prepare import prepare

# A shell starts background jobs with Ctrl-C ignored, nohup with SIGHUP; programs that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

cache_by_processor()  # also for the same machine with some of its instructions masked


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_the_users(tmp_path_factory):
    """Nothing is read from the user's own cache or written to it, by subprocesses neither."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    return corpus(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def finished(text, tmp_path_factory) -> Path:
    """A store made by one process; tests that change one take a copy."""
    folder = tmp_path_factory.mktemp("finished") / "store"
    prepare(data_settings(paths=[text]), folder)
    return folder


@pytest.fixture
def store(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "store"))


@pytest.fixture(autouse=True)
def torch_as_it_comes():
    """What a run asks of torch for the whole process ends with its test."""
    yield
    set_deterministic(False)
    assert torch._C._len_torch_dispatch_stack() == 0, "a dispatch mode outlived its test"


@pytest.fixture(scope="module")
def one_thread():
    """As the subprocesses that tests start, so that sums are the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder of the module's own, with the store of `tools.tiny` in it."""
    folder = tmp_path_factory.mktemp("place")
    make_store(folder / "data" / "made")
    return folder
