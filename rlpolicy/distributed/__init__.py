"""Training on several processes and machines: by torchrun, and with collectors on a Ray cluster."""

from rlpolicy.distributed.torchrun import RankDied, broadcast_policy, init, is_main_process

__all__ = ["RankDied", "broadcast_policy", "init", "is_main_process"]
