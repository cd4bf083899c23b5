"""Runs of small PyTorch scripts under the agent."""

from tests.observed import kept_runs, trial  # noqa: F401  # fixtures
