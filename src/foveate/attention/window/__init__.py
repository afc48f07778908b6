"""Window and stripe mixers: a query attends to its window, stripe or spread group."""
