"""Full mixers: a query sees the whole map, or a summary of it."""
