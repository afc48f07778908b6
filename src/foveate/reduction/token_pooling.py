"""Token pooling: at some depths tokens are clustered, and each cluster becomes one token.

    l = sum_i w_i min_k ||x_i - c_k||^2,   w_i = sum over heads and queries of the attention to i

The K new tokens c are those from which the old ones are best put together again: clusters' means
weighted by w (K-means), or the token of each cluster that is cheapest as its center (K-medoids).
Pooling stands between the attention and the MLP of a block, with that attention's weights. Nothing
is learnt: a trained model is pooled as it is, or trained on with pooling.

Shapes: x (B, P + N, C), P class and register tokens, which are not pooled; w (B, N); c (B, K, C).
Cost: that of the blocks on fewer tokens, and for each pooling ``N^2 C`` multiply-adds for the
distances (K-medoids), or ``T N K C`` in T iterations (K-means).

Paper: Marin et al., "Token Pooling in Vision Transformers", arXiv:2110.03860. Its authors published
no code. Published code: JoakimHaurum/TokenReduction@88fe07e ``models/kmedoids.py`` (MIT) by others,
whose K-medoids differs (:func:`~foveate.reduction._clusters.k_medoids_of_rows`) and which pools
before a block by the attention of the one before: ``clustering="rows"``, ``before="block"``.
Where the text that we have leaves a choice: clusters begin with the K tokens of largest w, weighted
or not; how many there are is a share here, where the paper finds a number a block by training; a
pooled token has the rotary position of its center, a mean that of the token its cluster began with;
a token that is a center is in its own cluster, and one of equal cost does not replace it; where the
head reads patches' tokens, each token is put back at all of its patches behind the last block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foveate.arguments import flag, one_of, positive
from foveate.reduction._blocks import ReducedBlocks
from foveate.reduction._clusters import (
    Clusters,
    gather,
    k_means,
    k_medoids,
    k_medoids_of_rows,
    means,
)
from foveate.reduction._options import each_stage, left, shares
from foveate.reduction._vit import (
    Vit,
    attend_and_score,
    finish,
    plus_attention,
    plus_mlp,
    project,
    rope_of,
)
from foveate.registry import register


class Pooled(NamedTuple):
    """What the blocks hand on.

    Attributes:
        patches: of the image, N.
        position: patch at whose place each patches' token stands (B, K); None while all are there.
        token: token of each patch (B, N); None likewise.
    """

    patches: int
    position: Tensor | None = None
    token: Tensor | None = None


@register(
    "token_pooling",
    family="tokens",
    title="Clusters of tokens become one token each, without training (Token Pooling)",
    paper="Marin et al., Token Pooling in Vision Transformers, arXiv:2110.03860",
    source="JoakimHaurum/TokenReduction@88fe07ebbc5ffbf3a36814526577f1a8576e048d",
    license="MIT",
    parity='the code is by others and is clustering="rows", before="block"; the default is the '
    "paper's algorithm, of which there are no published numbers",
)
class TokenPooling(ReducedBlocks):
    """Cluster the tokens of patches at a few depths.

    Args:
        vit: what is read of the model.
        keep: share of the tokens that each stage leaves of those that came to it; or for each stage
            the share of all patches of the image.
        stages: blocks in which tokens are pooled, counted from 0; after each quarter of them by
            default.
        clustering: ``"medoids"``; ``"means"``; or ``"rows"``, K-medoids as in the published code.
        weighted: whether a token counts by the attention that it gets, or all alike.
        iterations: of the clustering, T.
        before: ``"mlp"``, between attention and MLP of a stage's block; or ``"block"``, before that
            block, by the attention of the one before it, as in the published code.
    """

    unreduced = {"keep": 1.0}  # noqa: RUF012

    def __init__(
        self,
        vit: Vit,
        keep: float | Sequence[float] = 0.7,
        stages: Sequence[int] | None = None,
        *,
        clustering: str = "medoids",
        weighted: bool = True,
        iterations: int = 5,
        before: str = "mlp",
    ) -> None:
        super().__init__(vit)
        self.stages = each_stage(stages, len(self))
        self.keep = shares(keep, len(self.stages))
        self.clustering = one_of(clustering, ("means", "medoids", "rows"), "clustering")
        self.weighted = flag(weighted, "weighted")
        self.iterations = positive(iterations, "iterations")
        self.before = one_of(before, ("block", "mlp"), "before")
        if self.before == "block" and self.stages[0] == 0:
            raise ValueError(
                'before="block" pools by the attention of the block before, and stage 0 has none: '
                "stages begin at 1"
            )

    def begin(self, x: Tensor) -> Pooled:
        return Pooled(x.shape[1] - self.prefix)

    def layer(
        self, index: int, block: Any, x: Tensor, state: Pooled, rope: Tensor | None
    ) -> tuple[Tensor, Pooled]:
        attention, score = block.attn, x
        rope = rope_of(rope, state.position)
        stage = index if self.before == "mlp" else index + 1
        count = self._left(state.patches, stage)
        if count == x.shape[1] - self.prefix:
            return (block(x) if rope is None else block(x, rope=rope)), state

        def attended(x: Tensor) -> Tensor:
            nonlocal score
            q, k, v = project(attention, x, rope)
            y, scores = attend_and_score(attention, q, k, v)
            score = scores[:, self.prefix :]
            return finish(attention, x, y)

        x = plus_attention(block, x, attended)
        if self.before == "block":
            return self._pool(stage, plus_mlp(block, x), score, count, state)
        x, state = self._pool(stage, x, score, count, state)
        return plus_mlp(block, x), state

    def _pool(
        self, stage: int, x: Tensor, score: Tensor, count: int, state: Pooled
    ) -> tuple[Tensor, Pooled]:
        apart, patches = x[:, : self.prefix], x[:, self.prefix :]
        score = score.to(x.dtype)
        weight = score if self.weighted else torch.ones_like(score)
        clusters = self._clusters(patches, score, weight, count)
        means_of = self.clustering == "means"
        pooled = means(patches, weight, clusters) if means_of else gather(patches, clusters.place)
        if self.watch is not None:
            self.watch.moved(stage, clusters.number)
        number, place = clusters
        token = number if state.token is None else number.gather(1, state.token)
        position = place if state.position is None else state.position.gather(1, place)
        return torch.cat([apart, pooled], 1), Pooled(state.patches, position, token)

    def _clusters(self, x: Tensor, score: Tensor, weight: Tensor, count: int) -> Clusters:
        if self.clustering == "rows":
            given = weight if self.weighted else None
            return k_medoids_of_rows(x, given, count, self.iterations)
        cluster = k_means if self.clustering == "means" else k_medoids
        return cluster(x, weight, score.topk(count, 1).indices, self.iterations)

    def end(self, x: Tensor, state: Pooled) -> Tensor:
        return self.put_back(x, state.token) if self.reads_patches else x

    def _left(self, patches: int, block: int) -> int:
        return left(patches, self.stages, self.keep, block)

    def counts(self, patches: int) -> list[tuple[int, int]]:
        late = self.before == "mlp"
        return [
            (self._left(patches, index - late), self._left(patches, index))
            for index in range(len(self))
        ]

    def own_multiply_adds(self, patches: int) -> int:
        total = 0
        for stage in self.stages:
            before, after = (self._left(patches, block) for block in (stage - 1, stage))
            pairs = self.iterations * after if self.clustering == "means" else before
            total += before * pairs * self.dim * (after < before)
        return total

    def tokens_out(self, patches: int) -> int:
        return patches if self.reads_patches else super().tokens_out(patches)
