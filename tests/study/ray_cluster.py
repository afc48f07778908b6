"""A Ray cluster on this machine, bound to it alone, for tests and benchmarks."""

from __future__ import annotations

import os

# Read when Ray is imported: without it the addresses of nodes are those of a network.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

LOCAL = {"node_ip_address": "127.0.0.1", "include_dashboard": False}
QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 10,
}
"""A node is missed after five seconds, in place of fifteen."""


def start(system=QUICK):
    """A head that takes no work."""
    from ray.cluster_utils import Cluster

    return Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": system, **LOCAL}
    )


def add(cluster, cpus=1):
    """A node that takes work."""
    return cluster.add_node(num_cpus=cpus, **LOCAL)
