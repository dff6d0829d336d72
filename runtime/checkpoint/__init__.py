"""Checkpoints that survive a kill at any moment: whole files, the manifest last, verified bit by bit when read.

:func:`save`, :func:`load`, :func:`latest` and :func:`available` are all there is to it, and :class:`Saver` to save in
the background, alone or several workers together. They lie in a directory or behind an object store (`runtime.store`).
`layout` says what lies there, `writer` and `reader` do it, `saver` does it meanwhile.

>>> import tempfile
>>> import numpy as np
>>> with tempfile.TemporaryDirectory() as root:
...     for step in (10, 20):
...         saved = save(root, step, {"layer.weight": np.full(2, step)}, {"epoch": 1})
...     saved.remove("arrays.safetensors")
...     found = latest(root, lambda damage: print(damage.store.name, "is damaged"))
step-0000000020 is damaged
>>> found.step, found.arrays["layer.weight"].tolist(), found.meta
(10, [10, 10], {'epoch': 1})
"""

from runtime.checkpoint.layout import Part
from runtime.checkpoint.reader import Checkpoint, CheckpointDamaged, available, latest, load
from runtime.checkpoint.saver import Outcome, Saver
from runtime.checkpoint.writer import CheckpointNotSaved, save

__all__ = [
    "Checkpoint",
    "CheckpointDamaged",
    "CheckpointNotSaved",
    "Outcome",
    "Part",
    "Saver",
    "available",
    "latest",
    "load",
    "save",
]
