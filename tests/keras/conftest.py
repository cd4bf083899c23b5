"""Runs of small Keras scripts under the agent."""

from tests.observed import plain_runs, trial  # noqa: F401  # fixtures
