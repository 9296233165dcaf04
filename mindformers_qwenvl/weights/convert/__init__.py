"""Weights from one layout and format to another, streaming."""
