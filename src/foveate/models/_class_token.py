"""Backbones whose last stage has a class token, which the classifier reads."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from foveate.models._backbone import Backbone

MapAndToken = tuple[Tensor, Tensor]
"""A map (B, C, h, w) and a class token (B, C)."""


class TokenBackbone(Backbone):
    """A backbone whose last stage gives a map and a class token.

    Its ``global_pool`` may also be ``"token"``: the class token is classified. Pruning may leave
    the last stage out; what remains gives maps alone.
    """

    def __init__(self, *args: Any, global_pool: str = "token", **kwargs: Any) -> None:
        pool = "avg" if global_pool == "token" else global_pool
        super().__init__(*args, global_pool=pool, **kwargs)
        self.pools_token = global_pool == "token"
        self.stages_in_all = len(self.stages)

    @property
    def has_token(self) -> bool:
        """Whether the stage with the class token is there."""
        return len(self.stages) == self.stages_in_all

    def finish(self, x: MapAndToken | Tensor) -> MapAndToken | Tensor:
        """The map and the class token after the norm; a pruned network's map as it is."""
        if not self.has_token:
            return x
        return self.norm(x[0]), self.norm(x[1][..., None, None]).flatten(1)

    def as_map(self, x: MapAndToken | Tensor) -> Tensor:
        """The map without the class token."""
        return x if isinstance(x, Tensor) else x[0]

    def forward_head(self, x: MapAndToken | Tensor, pre_logits: bool = False) -> Tensor:
        """The class token, or the pooled map, dropout and, unless ``pre_logits``, the classifier.

        Args:
            x: what ``forward_features`` gives.
            pre_logits: leave the classifier out.
        """
        if self.has_token:
            x = x[1][..., None, None] if self.pools_token else x[0]
        return self.head(x, pre_logits=pre_logits)

    def reset_classifier(
        self,
        num_classes: int,
        global_pool: str | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        """Put a new classifier in place; see :meth:`Backbone.reset_classifier`."""
        token = self.pools_token if global_pool is None else global_pool == "token"
        pool = "avg" if global_pool == "token" else global_pool
        super().reset_classifier(num_classes, pool, device, dtype)
        self.pools_token = token
