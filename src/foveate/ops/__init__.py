"""Attention operators without parameters: one meaning each, several backends."""
