"""Operators of our own for decoding on a CPU."""
