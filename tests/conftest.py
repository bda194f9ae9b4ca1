"""The processor whose kernels the tests run with, which tests compute with them, and what many tests need."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from processors import PROCESSORS, can_stand_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--processor",
        choices=PROCESSORS,
        default="native",
        help="run with the kernels of another processor (tests/helpers/processors.py)",
    )


def pytest_configure(config: pytest.Config) -> None:
    name = config.getoption("processor")
    if not can_stand_for(name):
        raise pytest.UsageError(f"--processor {name}: this processor cannot stand for it")
    os.environ.update(PROCESSORS[name])


def pytest_report_header(config: pytest.Config) -> str:
    return f"processor: {config.getoption('processor')}"


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "vllm" not in config.option.markexpr:  # minutes in another environment: for those who ask for them
        apart = [item for item in items if item.get_closest_marker("vllm")]
        config.hook.pytest_deselected(items=apart)
        items[:] = [item for item in items if item not in apart]
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item.module, "torch"):
            item.add_marker("numerical")
    # A file is one worker's: what takes long must not be left to one of them at the end.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    from browser import browser  # here, as not every environment has one

    with browser() as started:
        yield started


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
