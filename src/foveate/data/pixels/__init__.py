"""From image files to 8-bit pixels: decoded, reduced, cached, gathered in one file."""
