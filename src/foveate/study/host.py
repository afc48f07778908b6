"""What ``--host`` names: a backbone with a place for attention by name, or a model of the user's.

pyramid_pico           a timm model whose blocks take attention by name
timm/NAME              any timm model, in which mechanisms are put by foveate.insert or replace
FILE.py:FUNCTION       likewise what FUNCTION(num_classes) of a file gives
"""

from __future__ import annotations

from typing import Literal, NamedTuple

_TIMM = "timm/"
FORMS = "timm/NAME or FILE.py:FUNCTION"


class OwnHost(NamedTuple):
    """A model that mechanisms are put into.

    Attributes:
        kind: where it comes from.
        name: of timm's model, or the path of a Python file.
        function: of the file, which gives the model; empty where none was named.
    """

    kind: Literal["timm", "file"]
    name: str
    function: str = ""

    def __str__(self) -> str:
        return f"{_TIMM}{self.name}" if self.kind == "timm" else f"{self.name}:{self.function}"


def own_host(host: str) -> OwnHost | None:
    """The model of the user's that ``host`` names; None for a backbone with a place by name."""
    if host.startswith(_TIMM):
        return OwnHost("timm", host.removeprefix(_TIMM))
    file, _, function = host.rpartition(":")
    if file.endswith(".py"):
        return OwnHost("file", file, function)
    return OwnHost("file", host) if host.endswith(".py") else None


def stated_size(host: str) -> tuple[int, int]:
    """Height and width of the images that weights of ``host`` want: timm's statement, or 224."""
    own = own_host(host)
    if own is None or own.kind == "file":
        return (224, 224)
    import timm  # late: reading options should not wait for it

    config = timm.get_pretrained_cfg(own.name) if timm.is_model(own.name) else None
    return (224, 224) if config is None else config.input_size[1:]
