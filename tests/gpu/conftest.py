"""Tests that need an NVIDIA GPU; elsewhere they are left out, and fakes stand for it."""

import pytest
import torch

from tests.observed import kept_runs, trial  # noqa: F401  # fixtures


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave these tests out where there is no GPU."""
    if torch.cuda.is_available():
        return
    for item in items:
        if "tests/gpu" in str(item.path):
            item.add_marker(pytest.mark.skip(reason="there is no GPU"))
