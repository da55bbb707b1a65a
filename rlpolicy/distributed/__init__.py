"""Training on several processes and machines: by torchrun, and with collectors on a Ray cluster."""

from rlpolicy.distributed.deaths import RankDied
from rlpolicy.distributed.ray_collector import RayCollector, RayCollectStats
from rlpolicy.distributed.torchrun import broadcast_policy, init, is_main_process

__all__ = ["RankDied", "RayCollectStats", "RayCollector", "broadcast_policy", "init", "is_main_process"]
