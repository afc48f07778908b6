"""Items of a data set by (epoch, index), batch by batch, in this process or in others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from foveate._random import undisturbed

Key = tuple[int, int]


class KeyedLoader:
    """Loads batches of keys; the processes stay from epoch to epoch.

    Args:
        dataset: gives an item for (epoch, index).
        collate: makes a batch of a list of items.
        processes: that load; 0 for the process at hand.
    """

    def __init__(self, dataset: Dataset, collate: Callable[[list], Any], processes: int) -> None:
        self.dataset, self.collate, self.processes = dataset, collate, processes
        self._chunks: list[list[Key]] = []
        self._loader: DataLoader | None = None

    def __call__(self, chunks: list[list[Key]]) -> Iterator[Any]:
        """The batches of ``chunks``, in order."""
        if self.processes == 0:
            for chunk in chunks:
                with undisturbed():
                    batch = self.collate([self.dataset[key] for key in chunk])
                yield batch
            return
        # The list is changed in place: the loader and its processes stay.
        self._chunks[:] = chunks
        if self._loader is None:
            self._loader = DataLoader(
                self.dataset,
                batch_sampler=self._chunks,
                num_workers=self.processes,
                collate_fn=self.collate,
                persistent_workers=True,
            )
        yield from self._loader
