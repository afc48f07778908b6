"""Local mixers: a query attends to a window around itself."""
