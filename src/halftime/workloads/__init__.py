"""Bundled training scripts, written as a user would write them, knowing nothing of halftime."""
