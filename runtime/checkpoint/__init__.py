"""Checkpoints that survive a kill at any moment: written beside and renamed, verified bit by bit when read.

:func:`save`, :func:`load`, :func:`latest` and :func:`available` are all there is to it. ``layout`` says what
lies on disk, ``writer`` and ``reader`` do it, ``store`` holds the file-system operations with their rules of
durability.

>>> import tempfile
>>> import numpy as np
>>> with tempfile.TemporaryDirectory() as root:
...     for step in (10, 20):
...         path = save(root, step, {"layer.weight": np.full(2, step)}, {"epoch": 1})
...     (path / "arrays.safetensors").unlink()
...     found = latest(root, lambda damage: print(damage.path.name, "is damaged"))
step-0000000020 is damaged
>>> found.step, found.arrays["layer.weight"].tolist(), found.meta
(10, [10, 10], {'epoch': 1})
"""

from runtime.checkpoint.reader import Checkpoint, CheckpointDamaged, available, latest, load
from runtime.checkpoint.writer import CheckpointNotSaved, save

__all__ = ["Checkpoint", "CheckpointDamaged", "CheckpointNotSaved", "available", "latest", "load", "save"]
