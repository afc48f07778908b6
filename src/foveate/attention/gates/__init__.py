"""Gates: features re-weighted by channel or place."""
