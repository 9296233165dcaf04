"""Operators of our own for decoding on a CPU.

- `kernels`: compiled on first use, checked, and cached for the user.
- `forms`: forms of the plain operators for a CPU without sharding.
"""
