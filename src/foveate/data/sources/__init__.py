"""Where labelled images come from: one file a kind, and what they all offer in ``base``."""
