"""Slide attention: local attention over depthwise-convolved keys and values."""
