"""Full mixers: a query attends to the whole map, or to a summary of it."""
