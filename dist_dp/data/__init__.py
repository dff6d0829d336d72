"""From data to the batches of logical shards.

============  ==========================================================================================
source        `as_source`: arrays, lists, torch and Hugging Face data sets as one kind of thing, a `Source`
files         `Files`, `Rows`: sources of files, on a shared file system or in a remote store too
order         `Permutation`: a shuffled order of n examples that needs no memory of size n
sharding      `Batches`: which examples stand in which shard of which step
prefetch      `prefetch`: making the next batches in a thread while the current one is computed with
indices       the check of indices that the others share
============  ==========================================================================================

A batch holds NumPy arrays (or plain Python objects); nothing here knows tensors, models or workers.

>>> import numpy as np
>>> source = as_source({"x": np.arange(10.0), "y": np.arange(10)})
>>> batches = Batches(len(source), batch_size=4, shards=2, seed=0)
>>> shards = ((step, shard) for step in range(batches.total_steps) for shard in range(2))
>>> loaded = prefetch(lambda at: source.take(batches.indices(*at)), shards)
>>> sorted(np.concatenate([batch["y"] for batch in loaded]).tolist())
[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
"""

from dist_dp.data.files import Files, Rows
from dist_dp.data.order import Permutation
from dist_dp.data.prefetch import prefetch
from dist_dp.data.sharding import Batches
from dist_dp.data.source import DataError, Source, as_source, default_collate

__all__ = [
    "Batches",
    "DataError",
    "Files",
    "Permutation",
    "Rows",
    "Source",
    "as_source",
    "default_collate",
    "prefetch",
]
