"""Image vectors into the text embeddings."""

from __future__ import annotations

from mindspore import nn
from mindspore import ops as P

__all__ = ["ImageMerge"]


class ImageMerge(nn.Cell):
    """Put image vectors into the text embeddings.

    Inputs:
        text: [B, S, H].
        images: [B * N, Q, H].
        positions: int32 [B, N, Q, 2] of (row, position). A negative position marks an image that only fills the
            batch: it changes nothing and its gradient is zero. The row numbers are not read, because positions[b]
            belong to row b: numbers counted from 0 on each card would be wrong in a batch that several cards share.

    A product with a matrix of zeros and ones puts the vectors in their places. It is exact, and unlike a scatter it can
    be split over the cards by rows.
    """

    def __init__(self, dp: int = 1):
        super().__init__()
        rows = (dp, 1, 1)
        self.cast = P.Cast()
        self.reshape = P.Reshape()
        self.slice = P.StridedSlice().shard(((dp, 1, 1, 1),))
        self.equal = P.Equal().shard((rows, (1, 1, 1)))
        self.place = P.BatchMatMul().shard((rows, rows))
        self.any = P.ReduceSum(keep_dims=True).shard((rows,))
        self.keep = P.Sub().shard(((), rows))
        self.mul = P.Mul().shard((rows, rows))
        self.add = P.Add().shard((rows, rows))

    def construct(self, text, images, positions):
        batch, length, hidden = text.shape
        _, count, queries, _ = positions.shape
        positions = self.slice(positions, (0, 0, 0, 1), (batch, count, queries, 2), (1, 1, 1, 1))
        positions = self.reshape(positions, (batch, 1, count * queries))
        column = self.reshape(P.arange(0, length, 1), (1, length, 1))
        here = self.cast(self.equal(positions, column), text.dtype)  # [B, S, N * Q]
        images = self.reshape(self.cast(images, text.dtype), (batch, count * queries, hidden))
        kept = self.mul(text, self.keep(1, self.any(here, -1)))
        return self.add(kept, self.place(here, images))
