"""The common checks that every mechanism of a role passes."""
