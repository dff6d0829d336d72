"""Checkpoints that survive a kill at any moment: written beside and renamed, verified bit by bit when read.

:func:`save`, :func:`load`, :func:`latest` and :func:`available` are all there is to it. ``layout`` says what
lies on disk, ``writer`` and ``reader`` do it, ``store`` holds the file-system operations with their rules of
durability.
"""

from runtime.checkpoint.reader import Checkpoint, CheckpointDamaged, available, latest, load
from runtime.checkpoint.writer import CheckpointNotSaved, save

__all__ = ["Checkpoint", "CheckpointDamaged", "CheckpointNotSaved", "available", "latest", "load", "save"]
