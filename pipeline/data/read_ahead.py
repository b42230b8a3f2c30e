"""The images of numbered batches; while one is decoded and trained on, the next are read: a far disk is not waited for.

The order is arithmetic, so what comes next is known. Threads of TensorFlow only take what was read.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np

from pipeline.data.records import RecordSet
from pipeline.data.sampler import Interleaved
from pipeline.reading import READS, submit

WINDOWS = 3  # a batch ends one and begins the next, while the one after that is read


class RecordsAhead:
    """Each record is read alone, and those of at least the next batch, and of READS records, are begun.

    `items_of`: the number of a batch → its records, int64 [b]; none beyond the last. `size`: b.
    """

    def __init__(self, records: RecordSet, items_of: Callable[[int], np.ndarray], size: int):
        self.records, self.items_of, self.ahead = records, items_of, -(-READS // size)
        self._begun: dict[int, list[Future[bytes]]] = {}  # by batch
        self._lock = threading.Lock()

    def images(self, number: int) -> list[bytes]:
        """The encoded images of a batch; raises BadInput as `RecordSet.image`."""
        with self._lock:
            wanted = range(number, number + self.ahead + 1)
            self._begun = {each: self._begun.get(each) or self._begin(each) for each in wanted}
            found = self._begun.pop(number)
            begun = list(self._begun.values())
        try:
            return [image.result() for image in found]
        except BaseException:
            for image in (one for each in (found, *begun) for one in each):
                image.cancel()  # or the process would wait for all of them before it ends
            raise

    def _begin(self, number: int) -> "list[Future[bytes]]":
        return [submit(self.records.image, item) for item in self.items_of(number).tolist()]


class BlocksAhead:
    """Blocks of an interleaved order are read whole, and those of the next window are begun."""

    def __init__(self, records: RecordSet, order: Interleaved, batch_size: int):
        self.records, self.order, self.batch_size = records, order, batch_size
        self._first = np.flatnonzero(np.diff(order.blocks, prepend=-1))  # [M], records
        self._last = np.append(self._first[1:], len(order.blocks)) - 1
        self._begun: OrderedDict[int, Future[bytes]] = OrderedDict()  # by block, least used first
        self._lock = threading.Lock()

    def images(self, number: int) -> list[bytes]:
        """The encoded images of a batch; raises BadInput as `RecordSet.image`."""
        positions = number * self.batch_size + np.arange(self.batch_size, dtype=np.int64)
        items = self.order.at(positions)
        blocks = self._begin(items)
        self._begin(self.order.at(positions + self.order.window))
        try:
            return [self._image(item, blocks[self.order.blocks[item]].result()) for item in items.tolist()]
        except BaseException:
            for block in self._begun.values():
                block.cancel()  # or the process would wait for all of them before it ends
            raise

    def _image(self, item: int, block: bytes) -> bytes:
        begin = int(self.records.spans[self._first[self.order.blocks[item]], 0])
        offset, length = self.records.spans[item].tolist()
        return self.records.record(item, block[offset - begin : offset - begin + length]).encoded

    def _begin(self, items: np.ndarray) -> "dict[int, Future[bytes]]":
        """The blocks of `items`, read or being read."""
        found = {}
        with self._lock:
            for block in np.unique(self.order.blocks[items]).tolist():
                if block not in self._begun:
                    self._begun[block] = submit(self._block, block)
                self._begun.move_to_end(block)
                found[block] = self._begun[block]
            while len(self._begun) > max(WINDOWS * self.order.shards_at_a_time, len(found)):
                self._begun.popitem(last=False)
        return found

    def _block(self, block: int) -> bytes:
        return self.records.read_block(int(self._first[block]), int(self._last[block]))
