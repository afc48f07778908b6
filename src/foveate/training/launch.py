"""One command on one machine in several processes, as ``torchrun`` would run it.

PyTorch's elastic agent starts the command once for each device, watches, and when one process ends
badly ends the others, within seconds. Where the agent itself is gone, the processes end themselves
(:func:`foveate.training.train` sees to it). They meet at a free port of this machine.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from foveate.arguments import positive
from foveate.training.distributed import ProcessLostError


def launch(command: Sequence[str], devices: int) -> int:
    """Run ``command`` in a process for each of ``devices``, and wait for all of them.

    Args:
        command: the program and its arguments, such as ``[sys.executable, "-m", "foveate", ...]``.
        devices: how many.

    Returns:
        The exit status: 0, or that of the first process that ended with another one.

    Raises:
        ProcessLostError: if a process was ended from outside; which, and by which signal.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=positive(devices, "devices"),
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    # PyTorch would print in each process that it looked for unused parameters and found none.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # What the agent logs of a failure, a page, is said below in a line.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        elastic_launch(config, command[0])(*command[1:])
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        raise ProcessLostError(
            f"process {rank + 1} of {devices} was ended by signal {-failure.exitcode}, and the "
            "others were ended with it: start the command again to go on after the last epoch that "
            "was saved"
        ) from error
    return 0
