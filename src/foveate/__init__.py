"""Foveate: visual attention, exact to its publications, with CPU kernels in C.

Names load when they are first used, so that ``foveate --help`` need not wait for PyTorch. A public
name is stated twice: in ``_HOME`` or ``_MODULES`` for running, and among the imports that only
type checkers read. A test holds that the two agree.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from foveate._version import __version__ as __version__

if TYPE_CHECKING:
    # `as` says that a name is meant for others, not left over.
    from foveate import analysis as analysis
    from foveate import attention as attention
    from foveate import average_precision as average_precision
    from foveate import checks as checks
    from foveate import contracts as contracts
    from foveate import data as data
    from foveate import deploy as deploy
    from foveate import heads as heads
    from foveate import integrations as integrations
    from foveate import layout as layout
    from foveate import metrics as metrics
    from foveate import models as models
    from foveate import ops as ops
    from foveate import prediction as prediction
    from foveate import published as published
    from foveate import reduction as reduction
    from foveate import registry as registry
    from foveate import saved as saved
    from foveate import study as study
    from foveate import surgery as surgery
    from foveate import tasks as tasks
    from foveate import trainer as trainer
    from foveate import training as training
    from foveate.analysis.attention_map import AttentionMap as AttentionMap
    from foveate.analysis.attention_map import attention_map as attention_map
    from foveate.analysis.attention_map import what_a_query_sees as what_a_query_sees
    from foveate.analysis.attention_maps import AttentionMaps as AttentionMaps
    from foveate.analysis.attention_maps import attention_maps as attention_maps
    from foveate.analysis.flops import count_flops as count_flops
    from foveate.analysis.profile import Profile as Profile
    from foveate.analysis.profile import profile as profile
    from foveate.attention.adapt import create_attention as create_attention
    from foveate.deploy.export import ExportResult as ExportResult
    from foveate.deploy.export import export as export
    from foveate.models import list_backbones as list_backbones
    from foveate.prediction.predict import predict as predict
    from foveate.published import load_published as load_published
    from foveate.reduction.whole import reduce as reduce
    from foveate.registry import Spec as Spec
    from foveate.registry import describe as describe
    from foveate.registry import list_attention as list_attention
    from foveate.registry import list_reducers as list_reducers
    from foveate.registry import register as register
    from foveate.saved.load import load as load
    from foveate.study.compare import compare as compare
    from foveate.surgery.change import insert as insert
    from foveate.surgery.change import replace as replace
    from foveate.surgery.fuse import fuse as fuse
    from foveate.surgery.places import places as places
    from foveate.surgery.recipe import added as added
    from foveate.surgery.recipe import apply as apply
    from foveate.surgery.recipe import changes as changes
    from foveate.surgery.recipe import finish as finish
    from foveate.surgery.recipe import freeze as freeze
    from foveate.surgery.recipe import restore as restore
    from foveate.trainer.run import train as train

# The module that defines each public class and function.
_HOME = {
    "AttentionMap": "analysis.attention_map",
    "AttentionMaps": "analysis.attention_maps",
    "ExportResult": "deploy.export",
    "Profile": "analysis.profile",
    "Spec": "registry",
    "added": "surgery.recipe",
    "apply": "surgery.recipe",
    "attention_map": "analysis.attention_map",
    "attention_maps": "analysis.attention_maps",
    "changes": "surgery.recipe",
    "compare": "study.compare",
    "count_flops": "analysis.flops",
    "create_attention": "attention.adapt",
    "describe": "registry",
    "export": "deploy.export",
    "finish": "surgery.recipe",
    "freeze": "surgery.recipe",
    "fuse": "surgery.fuse",
    "insert": "surgery.change",
    "list_attention": "registry",
    "list_backbones": "models",
    "list_reducers": "registry",
    "load": "saved.load",
    "load_published": "published",
    "places": "surgery.places",
    "predict": "prediction.predict",
    "profile": "analysis.profile",
    "reduce": "reduction.whole",
    "register": "registry",
    "replace": "surgery.change",
    "restore": "surgery.recipe",
    "train": "trainer.run",
    "what_a_query_sees": "analysis.attention_map",
}
# The public modules and packages themselves.
_MODULES = [
    "analysis",
    "attention",
    "average_precision",
    "checks",
    "contracts",
    "data",
    "deploy",
    "heads",
    "integrations",
    "layout",
    "metrics",
    "models",
    "ops",
    "prediction",
    "published",
    "reduction",
    "registry",
    "saved",
    "study",
    "surgery",
    "tasks",
    "trainer",
    "training",
]

__all__ = [*_HOME, *_MODULES]


if not TYPE_CHECKING:  # for type checkers an unknown name is an error

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return import_module(f"foveate.{name}")
        if name not in _HOME:
            raise AttributeError(f"module 'foveate' has no attribute {name!r}")
        value = getattr(import_module(f"foveate.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
