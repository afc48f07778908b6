"""Data, heads and training."""
