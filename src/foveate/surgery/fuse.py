"""The cheaper, exact form that modules take for deployment."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

from torch import nn

from foveate.surgery._ledger import Ledger, ledger_of

#: The methods by which a module takes its cheaper form, first choice first; timm's order.
FUSING_METHODS = ("fuse", "reparameterize", "switch_to_deploy")

_Module = TypeVar("_Module", bound=nn.Module)


def fuse(model: _Module) -> _Module:
    """Give every sub-module its exact, cheaper form for deployment, in place.

    Calls ``fuse()`` where a module has it, else ``reparameterize()``, else
    ``switch_to_deploy()``, once each; what such a method returns, as timm's do, takes the
    module's place. The numbers stay those of eval mode; batch statistics may be folded away, so
    do not train the model any further. A module that holds a place inside of it where something was
    inserted or replaced keeps its form, since merging its parts would leave that out.

    Args:
        model: any module.

    Returns:
        ``model``.

    Warns:
        UserWarning: which modules keep their form.

    Raises:
        TypeError: if ``model`` is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module to fuse, got {type(model).__name__}")
    ledger = ledger_of(model)
    around = {} if ledger is None else _around_places(model, ledger)
    kept = [name for module, name in around.items() if name and _method(module) is not None]
    if kept:
        more = f" and {len(kept) - 1} more keep their" if len(kept) > 1 else " keeps its"
        warnings.warn(
            f"{kept[0]}{more} form: merging their parts would leave out what foveate put between "
            "them. What is put behind whole modules (where=, at='stage') does not stand in the way",
            stacklevel=2,
        )
    fused = _fuse(model, set(around), {})
    if ledger is not None:
        ledger.mend(fused)  # what was inserted hangs on modules that fusing may exchange
    return fused


def _around_places(model: nn.Module, ledger: Ledger) -> dict[nn.Module, str]:
    """The modules inside of which something stands, with their names."""
    paths = [one.host for one in ledger.attached]
    paths += [name for one in ledger.swapped for name in one.names]
    parents = {}
    for path in paths:
        parts = path.split(".")
        for i in range(len(parts)):
            parent = ".".join(parts[:i])
            parents.setdefault(model.get_submodule(parent), parent)
    return parents


def _fuse(module: nn.Module, kept: set[nn.Module], done: dict[nn.Module, nn.Module]) -> nn.Module:
    """The fused form of ``module``, unless it is kept; its parts are fused after it."""
    if module in done:
        return done[module]
    fused = done[module] = module if module in kept else _own_form(module)
    for name, child in list(fused.named_children()):
        replacement = _fuse(child, kept, done)
        if replacement is not child:
            setattr(fused, name, replacement)
    return fused


def _method(module: nn.Module) -> Callable[[], object] | None:
    found = (getattr(module, name, None) for name in FUSING_METHODS)
    return next((method for method in found if callable(method)), None)


def _own_form(module: nn.Module) -> nn.Module:
    method = _method(module)
    result = None if method is None else method()
    return result if isinstance(result, nn.Module) else module
