"""The mechanisms, one file each, in rooms by what they look at."""
