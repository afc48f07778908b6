"""Window and stripe mixers: a query sees the part of the map it falls in."""
