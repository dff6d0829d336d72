"""Where a run lives: the fixed order of the sum, digests, fingerprints, events, checkpoints and the run lock.

This package knows arrays, bytes and functions, never tensors or models, and imports nothing of ``dist_dp``.
"""
