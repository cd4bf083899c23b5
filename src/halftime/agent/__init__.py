"""Guests in the user's process: standard library only, nothing at import, Python 3.9."""
