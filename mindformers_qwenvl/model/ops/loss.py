"""The training loss: cross-entropy averaged over the label tokens (original: QWenLMHeadModel.forward).

Two forms: MindFormers' cross-entropy, which the cards can split by rows and vocabulary, and plain operators.
"""

from __future__ import annotations

import mindspore as ms
from mindformers.core.loss import CrossEntropyLoss
from mindspore import Tensor, nn
from mindspore import ops as P

from mindformers_qwenvl.model.ops.device import unsharded

__all__ = ["LabelLoss", "LabelTokens"]


class LabelTokens(nn.Cell):
    """The positions that have something to learn, so that the head need not be computed at the others.

    Shapes then depend on the data. Where they may not, positions is None and the labels are returned unchanged.

    Inputs:
        labels: int32 [B, S].

    Outputs:
        positions int32 [K + 1] in the flattened [B * S], and their labels int32 [K + 1], for K label tokens. The first
        one is position 0 with a label that is ignored, because operators would fail on no rows at all.
    """

    def __init__(self, ignore_token_id: int):
        super().__init__()
        self.picks_positions = unsharded()
        self.ignore_token_id = ignore_token_id
        self.first, self.ignored = Tensor([0], ms.int32), Tensor([ignore_token_id], ms.int32)
        self.reshape = P.Reshape()
        self.non_zero = P.NonZero()
        self.concat = P.Concat()
        self.gather = P.Gather()
        self.cast = P.Cast()

    def construct(self, labels):
        if not self.picks_positions:
            return None, labels
        labels = self.reshape(labels, (-1,))
        positions = self.cast(self.reshape(self.non_zero(labels != self.ignore_token_id), (-1,)), ms.int32)
        learnt = self.gather(labels, positions, 0)
        return self.concat((self.first, positions)), self.concat((self.ignored, learnt))


class LabelLoss(nn.Cell):
    """Cross-entropy, averaged over the labels that are not ignored; 0 if there are none.

    Inputs:
        logits: [..., V]; the computation is in float32.
        labels: int32 [...].

    Outputs:
        float32 scalar.
    """

    def __init__(self, config):
        super().__init__()
        self.ignore_token_id = config.ignore_token_id
        self.cast = P.Cast()
        self.reshape = P.Reshape()
        dp = config.parallel_config.data_parallel
        self.not_equal = P.NotEqual().shard(((dp,), ()))
        # The host's cross-entropy can be split by rows and vocabulary; on one CPU it takes four times as long as this.
        self.plain = unsharded()
        if self.plain:
            self.log_softmax = P.LogSoftmax(-1)
            self.negative_likelihood = P.NLLLoss("sum", ignore_index=config.ignore_token_id)
            self.weight = P.ones(config.llm.vocab_size, ms.float32)
        else:
            self.cross_entropy = CrossEntropyLoss(parallel_config=config.parallel_config)
            self.pad_token_id = config.pad_token_id
            self.select = P.Select().shard(((dp,), (dp,), (dp,)))

    def construct(self, logits, labels):
        labels = self.reshape(labels, (-1,))
        learnt = self.not_equal(labels, self.ignore_token_id)
        logits = self.cast(self.reshape(logits, (-1, logits.shape[-1])), ms.float32)
        if self.plain:
            total, _ = self.negative_likelihood(self.log_softmax(logits), labels, self.weight)
            return total / P.maximum(self.cast(learnt, ms.float32).sum(), 1.0)
        targets = self.select(learnt, labels, P.full_like(labels, self.pad_token_id))
        return self.cross_entropy(logits, targets, self.cast(learnt, ms.float32))
