"""What several test files share."""

import shutil
from pathlib import Path

import pytest
from prepare_tools import corpus, data_settings

from data_prep.prepare import prepare


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
