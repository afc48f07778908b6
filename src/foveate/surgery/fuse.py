"""The cheaper, exact form that modules take for deployment."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

#: The methods by which a module takes its cheaper form, first choice first; timm's order.
FUSING_METHODS = ("fuse", "reparameterize", "switch_to_deploy")

_Module = TypeVar("_Module", bound=nn.Module)


def fuse(model: _Module) -> _Module:
    """Give every sub-module its exact, cheaper form for deployment, in place.

    Calls ``fuse()`` where a module has it, else ``reparameterize()``, else
    ``switch_to_deploy()``, once each; what such a method returns, as timm's do, takes the
    module's place. The numbers stay those of eval mode; batch statistics may be folded away, so
    do not train the model any further.

    Args:
        model: any module.

    Returns:
        ``model``.

    Raises:
        TypeError: if ``model`` is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module to fuse, got {type(model).__name__}")
    fused = _fuse(model, {})
    if (ledger := vars(fused).get("_foveate")) is not None:
        ledger.mend(fused)  # what was inserted hangs on modules that fusing may exchange
    return fused


def _fuse(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """The fused form of ``module``, whose parts are fused after it."""
    if module in done:
        return done[module]
    fused = done[module] = _own_form(module)
    for name, child in list(fused.named_children()):
        replacement = _fuse(child, done)
        if replacement is not child:
            setattr(fused, name, replacement)
    return fused


def _own_form(module: nn.Module) -> nn.Module:
    for name in FUSING_METHODS:
        method = getattr(module, name, None)
        if callable(method):
            result = method()
            return result if isinstance(result, nn.Module) else module
    return module
