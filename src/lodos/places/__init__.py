"""Paths that a user names, on this machine or on a remote store, and what can be done there."""
