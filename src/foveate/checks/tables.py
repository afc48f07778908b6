"""What the checks know of single mechanisms: how to build them small, where they must fail."""

from __future__ import annotations

from typing import Any

#: Options that make a small example of a mechanism whose defaults are too large to examine
#: quickly. ``dim=16``, and ``num_heads=2`` where a mechanism has that option, need no entry.
EXAMPLES: dict[str, dict[str, Any]] = {
    "axial_deeplab": {"span": 6},
    "cross_shaped": {"split_size": 2},
    "global_subsampled": {"sr_ratio": 3},
    "local_monotonic": {"window": 2},
    "local_predictive": {"window": 2},
    "locally_grouped": {"window_size": 3},
    "messenger": {"window_size": 3},
    "neighborhood": {"kernel_size": 3},
    "pale": {"pale_size": 2},
    "residual_attention": {"levels": 2},
    "shuffle": {"window_size": 2},
    "sliding_window": {"window": 4},
    "stand_alone": {"kernel_size": 3},
    "window": {"window_size": 4, "shift_size": 2},
}

#: Options that make a reducer do something in a model of four blocks and twenty patches.
REDUCED: dict[str, dict[str, Any]] = {
    "dynamicvit": {"keep": 0.6, "stages": (1, 3)},
    "evovit": {"stages": (1, 3)},
    "token_pooling": {"keep": 0.6, "stages": (1, 3)},
    "tome": {"r": 3},
    "vtp": {"keep": 0.6},
}

#: Models of :data:`foveate.checks.HOSTS` that a reducer refuses, each with the reason.
REFUSED: dict[str, dict[str, str]] = {
    "dvt": {
        "rotary": "stages have position embeddings that are resampled",
        "class_attention": "an exit needs a class token or a mean in every stage",
    },
}

#: Checks that a mechanism is known to fail, each with the reason. Strict: one that passes after
#: all is reported.
EXPECTED_FAILURES: dict[str, dict[str, str]] = {
    "dvt": {
        "check_reduced_multiply_adds": "an image that no exit takes costs more than before",
        "check_reduced_state": "a cascade is a new model, of several under other names",
    },
    "local_predictive": {
        "check_alignment": "weights fall off around the predicted position and are not "
        "normalised again, as published; their sum is less than one",
    },
    "neighborhood": {
        "check_weights_are_distributions": "the padding of a map smaller than the neighbourhood "
        "is attended, as published; its share is missing from the rows",
    },
    "psvit": {
        "check_tokens_stand_for_patches": "a pooled token is the largest of its patches in each "
        "channel and not their mean",
    },
    "routing": {
        "check_quantized": "which tokens a cluster takes is a choice, and rounding changes it",
    },
    "stand_alone": {
        "check_weights_are_distributions": "zero vectors beyond the border take part, as in the "
        "public code; their share is missing from the rows",
    },
    "vtp": {
        "check_reduced_state": "channels that stay have their scores in their weights, which a "
        "plain model has not",
        "check_tokens_stand_for_patches": "channels are removed and no tokens",
    },
}
