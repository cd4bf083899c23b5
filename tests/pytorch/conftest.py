"""Runs of small PyTorch scripts under the agent."""

from tests.observed import trial  # noqa: F401  # a fixture
