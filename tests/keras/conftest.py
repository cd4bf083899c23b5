"""Runs of small Keras scripts under the agent."""

from tests.observed import kept_runs, trial  # noqa: F401  # fixtures
