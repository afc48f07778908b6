"""Local mixers: a query sees a window around itself."""
