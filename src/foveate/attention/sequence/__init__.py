"""Sequence attention: 1-D patterns and aligners."""
