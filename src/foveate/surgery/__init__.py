"""Changing models that are already built."""
