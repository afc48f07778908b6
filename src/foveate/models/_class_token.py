"""Backbones whose last stage has a class token, which the classifier reads."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import ClassifierHead
from torch import Tensor, nn

from foveate.layout import map_to_tokens
from foveate.models._backbone import Backbone

MapAndToken = tuple[Tensor, Tensor]
"""A map (B, C, h, w) and a class token (B, C)."""


class TokenPool(nn.Flatten):
    """What pools a class token (B, C, 1, 1): nothing but a name, which timm saves."""

    pool_type = "token"

    def feat_mult(self) -> int:
        """Features of the pooled token over its channels."""
        return 1


class TokenHead(ClassifierHead):
    """Timm's head, which can be told to classify the class token."""

    def reset(self, num_classes: int, pool_type: str | None = None, **more: Any) -> None:
        """Put a new classifier in place, after ``"token"`` or any of timm's poolings."""
        super().reset(num_classes, "avg" if pool_type == "token" else pool_type, **more)
        if pool_type == "token":
            self.global_pool = TokenPool()


class TokenBackbone(Backbone):
    """A backbone whose last stage gives a map and a class token.

    ``forward_features`` gives both as tokens (B, 1 + h*w, C), the class token in front, as timm's
    vision transformers do. ``global_pool`` may also be ``"token"``: the class token is classified;
    ``""`` gives the tokens. Pruning may leave the last stage out; what remains gives maps alone,
    as all of it does where it was built without a class token.
    """

    def __init__(
        self, *args: Any, global_pool: str = "token", class_token: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(*args, global_pool="", **{**kwargs, "num_classes": 0})
        self.head = TokenHead(self.map_channels, 0, "", self.drop_rate)
        self.stages_in_all = len(self.stages)
        self.class_token = class_token
        self.reset_classifier(kwargs.get("num_classes", 1000), global_pool)

    @property
    def has_token(self) -> bool:
        """Whether the stage with the class token is there."""
        return self.class_token and len(self.stages) == self.stages_in_all

    def finish(self, x: MapAndToken | Tensor) -> MapAndToken | Tensor:
        """The map and the class token after the norm; of a pruned network there is none."""
        if isinstance(x, Tensor):
            return self.norm(x)
        return self.norm(x[0]), self.norm(x[1][..., None, None]).flatten(1)

    def as_map(self, x: MapAndToken | Tensor) -> Tensor:
        """The map without the class token."""
        return x if isinstance(x, Tensor) else x[0]

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens in front of the map's in what ``forward_features`` gives."""
        return int(self.has_token)

    def as_features(self, x: MapAndToken | Tensor) -> Tensor:
        """Tokens (B, 1 + h*w, C), the class token in front; a pruned network's map as it is."""
        if not self.has_token:
            return x
        return torch.cat([x[1][:, None], map_to_tokens(x[0])], 1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The class token, or the pooled map, dropout and, unless ``pre_logits``, the classifier.

        Args:
            x: what ``forward_features`` gives.
            pre_logits: leave the classifier out.
        """
        pool = self.head.global_pool.pool_type
        if self.has_token and pool:
            tokens = x[:, :1] if pool == "token" else x[:, 1:]
            x = tokens.mT[..., None]  # (B, C, N, 1)
        return self.head(x, pre_logits=pre_logits)
