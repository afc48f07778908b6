"""The closed form of a mechanism's cost is what it computes."""

from __future__ import annotations

from foveate.analysis.flops import count_flops
from foveate.checks.running import check, require
from foveate.checks.subject import Size, Subject

_SIZES: tuple[Size, ...] = ((8, 8), (7, 5), (12, 9))


@check()
def check_multiply_adds(subject: Subject) -> None:
    """``multiply_adds`` is half of what the FLOP counter counts for one sample."""
    module = subject.build()
    for size in _SIZES:
        stated = module.multiply_adds(*subject.cost_size(size))
        counted = count_flops(module, *subject.inputs(size, batch=1)) / 2
        require(
            stated == counted,
            f"at size {size}, multiply_adds states {stated}, the counter counts {counted:g}",
        )
