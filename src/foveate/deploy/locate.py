"""Where a file departs from its model: the first module whose output leaves the bound.

The model is written once more with what every sub-module gives as a further output. It is done only
when a file was found to be wrong.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from foveate.deploy.format import Format
from foveate.deploy.program import Deployment, ExportError, images_of, tensors_of
from foveate.deploy.request import Size
from foveate.deploy.verify import difference


def first_module_beyond(
    deployment: Deployment, format_: Format, folder: Path, size: Size, bound: float
) -> str:
    """In a sentence, where outputs leave ``bound`` for images of ``size``.

    Args:
        deployment: whose file is wrong.
        format_: of the file.
        folder: to write into.
        size: of images on which it is.
        bound: of the relative difference.
    """
    images = images_of(size, deployment.request, seed=1)
    twice = [deployment.outputs(images) for _ in range(2)]
    if difference(*twice) > 0:
        return "the model itself gives other numbers each time, or NaN, for the same images"
    fused = list(deployment.module(images))
    if difference(fused, deployment.outputs(images)) > bound:
        return "the fused form already differs, before anything is written: foveate.fuse"
    watched = _Watched(deployment.module)
    expected = list(watched(images))
    names = list(watched.names)
    again = Deployment(watched, watched, deployment.request)
    path = folder / f"watched{format_.suffix}"
    try:
        format_.write(again, path)
        given = format_.open(path)(images)
    except Exception as error:  # the file with all outputs is a help, not what was asked for
        return f"which module is the first could not be found ({type(error).__name__})"
    for name, theirs, ours in zip(names, given, expected, strict=True):
        far = difference([theirs], [ours])
        if far > bound:
            kind = type(deployment.module.get_submodule(f"model.{name}")).__name__
            return f"{name} ({kind}) is the first module whose output leaves it, by {far:.1e}"
    return (
        "with the outputs of all modules written no module leaves it: what the runtime makes of "
        "several modules together is at fault"
    )


class _Watched(nn.Module):
    """A model that gives what each of its sub-modules gave, in the order in which they ended."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.names: list[str] = []

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        names: list[str] = []
        found: list[Tensor] = []

        def keep(name: str, output: object) -> None:
            try:
                tensors = [x for x in tensors_of(output) if x.is_floating_point()]
            except ExportError:
                return
            names.extend([name] * len(tensors))
            found.extend(tensors)

        hooks = [
            module.register_forward_hook(lambda module, args, output, name=name: keep(name, output))
            for name, module in self.model.model.named_modules()  # pyrefly: ignore
            if name
        ]
        try:
            self.model(images)
        finally:
            for hook in hooks:
                hook.remove()
        self.names = names
        return tuple(x.clone() for x in found)
