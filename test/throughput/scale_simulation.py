"""A plan on paper for many workers and GPUs: bytes per second on each link, and what is busy first.

python test/throughput/scale_simulation.py             # the tables of docs/scale.md
python test/throughput/scale_simulation.py --measure   # this machine's cost of blocks

Each rank of ``torchrun`` has a RayCollector of its own. One rank is simulated, event by event, with the collector's own
rules (which blocks are waited for, when the next ones are asked for); the others do the same at the same time.
"""

import argparse
import math
import pickle
import time
from dataclasses import dataclass, replace

GIGABIT = 1e9 / 8


@dataclass(frozen=True)
class Plan:
    """A cluster and a job. Seconds and bytes; what is not measured is assumed, and says so in docs/scale.md."""

    ranks: int = 64
    workers: int = 1024
    envs_per_worker: int = 1
    env_step: float = 2e-3
    """Of one environment."""
    forward: float = 2e-4
    """A worker's policy, per step of its environments."""
    obs_bytes: int = 4 * 376
    """Of one observation."""
    act_bytes: int = 4 * 17
    steps_per_env: int = 8
    """Of each block: n_step = workers per rank x envs_per_worker x this."""
    max_staleness: int = 1
    weight_bytes: int = 4 * 600_000
    """Of actor, critics and targets."""
    gradient_bytes: int = 4 * 300_000
    """Per update, all optimisers together."""
    reductions: int = 3
    """All-reduces per update: critics, actor, temperature."""
    update: float = 1.5e-3
    """One gradient step without the exchange."""
    updates_per_round: int = 8
    per_block: float = 4e-4
    """Of the learner's CPU: fetch and unpack a block."""
    per_row: float = 6e-6
    """Of the learner's CPU: add one transition of a block to the buffer."""
    ranks_per_node: int = 8
    workers_per_node: int = 32
    learner_link: float = 100 * GIGABIT
    """Of each learner node."""
    worker_link: float = 25 * GIGABIT
    """Of each worker node."""
    reduce_link: float = 200 * GIGABIT
    """Between learner nodes, for gradients alone."""
    reduce_latency: float = 3e-5
    """Of one message between GPUs."""

    @property
    def row_bytes(self) -> int:
        """Of one transition: obs, obs_next, act, rew, three flags, env_id; a fifth of a kB of block headers aside."""
        return 2 * self.obs_bytes + self.act_bytes + 8 + 3 + 8

    @property
    def exchange(self) -> float:
        """Seconds per update in which gradients travel: ring all-reduces."""
        share = 2 * (self.ranks - 1) / self.ranks
        hops = 2 * math.ceil(math.log2(max(self.ranks, 1)))
        # between nodes the GPUs of one node share its link, but reduce among themselves first: one share per node
        return self.reductions * hops * self.reduce_latency + share * self.gradient_bytes / self.reduce_link


@dataclass(frozen=True)
class Outcome:
    """What comes of a plan; rates are those of all ranks together."""

    steps: float
    updates: float
    busy: dict[str, float]
    """Share of the time in which each part works, 1: it is what all wait for."""
    bytes: dict[str, float]
    """Per second, on one link of each kind."""
    staleness: float
    greatest: int


def simulate(plan: Plan, rounds: int = 200) -> Outcome:
    """One rank, for so many rounds of collect and update."""
    workers = plan.workers // plan.ranks
    rows = plan.envs_per_worker * plan.steps_per_env
    wanted = workers * rows
    work = plan.steps_per_env * (plan.envs_per_worker * plan.env_step + plan.forward)
    link = plan.learner_link / plan.ranks_per_node
    send = plan.weight_bytes / link  # each worker node fetches once; see the table for how many these are
    now = link_free = 0.0
    cpu = updating = sending = working = 0.0
    coming: dict[int, tuple[float, int]] = {}
    ages: list[int] = []
    count = 0

    def ask(worker: int, begin: float, round_: int) -> None:
        nonlocal link_free, working
        done = begin + work
        working += work
        link_free = max(link_free, done) + rows * plan.row_bytes / link
        coming[worker] = (link_free, round_)

    for number in range(1, rounds + 1):
        now += send
        sending += send
        for worker in range(workers):
            if worker not in coming:
                ask(worker, now, number)
        got, due = 0, set(coming)
        while True:
            if got >= wanted:
                due = {w for w in due if number - coming[w][1] >= plan.max_staleness}
                if not due:
                    break
            worker = min(due, key=lambda w: coming[w][0])
            due.discard(worker)
            arrival, asked = coming.pop(worker)
            now = max(now, arrival) + plan.per_block + rows * plan.per_row
            cpu += plan.per_block + rows * plan.per_row
            got += rows
            ages.append(number - asked)
            if plan.max_staleness:
                ask(worker, now, number)
            if not due and got < wanted:
                due = set(coming)
        count += got
        spent = plan.updates_per_round * (plan.update + plan.exchange)
        now += spent
        updating += spent
    rate, updates = count / now, rounds * plan.updates_per_round / now
    nodes = max(1, plan.workers // plan.workers_per_node)
    copies = min(workers, nodes)  # of the weights, per rank: its workers are spread over the nodes
    learner_in = plan.ranks_per_node * rate * plan.row_bytes
    learner_out = plan.ranks_per_node * rounds / now * plan.weight_bytes * copies
    per_node = plan.ranks / nodes
    worker_out, worker_in = rate * plan.row_bytes * per_node, rounds / now * plan.weight_bytes * copies * per_node
    share = 2 * (plan.ranks - 1) / plan.ranks
    reduce_bytes = updates * plan.gradient_bytes * share
    return Outcome(
        steps=rate * plan.ranks,
        updates=updates,
        busy={
            "environments": min(working / (workers * now), 1.0),
            "learner's CPU": cpu / now,
            "updates": (updating - rounds * plan.updates_per_round * plan.exchange) / now,
            "gradient exchange": rounds * plan.updates_per_round * plan.exchange / now,
            "learner's link": max(learner_in, learner_out) / plan.learner_link,
            "worker node's link": max(worker_out, worker_in) / plan.worker_link,
        },
        bytes={
            "transitions into a learner node": learner_in,
            "weights out of a learner node": learner_out,
            "transitions out of a worker node": worker_out,
            "weights into a worker node": worker_in,
            "gradients out of a learner node": reduce_bytes,
        },
        staleness=sum(ages) / len(ages),
        greatest=max(ages),
    )


BASE = Plan()
PLANS = {
    "base: 1,024 workers, 64 GPUs": BASE,
    "the same, 128 workers, 8 GPUs": replace(BASE, workers=128, ranks=8),
    "base, workers wait for updates": replace(BASE, max_staleness=0),
    "base, an update per 2 rows": replace(BASE, updates_per_round=64),
    "base, 8 environments per worker": replace(BASE, envs_per_worker=8),
    "base, 0.1 ms per environment step": replace(BASE, env_step=1e-4),
    "the same, 64 steps per block": replace(BASE, env_step=1e-4, steps_per_env=64, updates_per_round=64),
    "base, images of 4 x 84 x 84 bytes": replace(BASE, obs_bytes=4 * 84 * 84, act_bytes=8),
    "images, 8 environments per worker": replace(BASE, obs_bytes=4 * 84 * 84, act_bytes=8, envs_per_worker=8),
    "base, networks of 100 MB": replace(BASE, weight_bytes=100_000_000, gradient_bytes=50_000_000, update=2e-2),
}


def tables() -> None:
    """As in docs/scale.md."""
    print("| plan | env steps/s | updates/s | staleness | busiest | next |\n| --- | --- | --- | --- | --- | --- |")
    for name, plan in PLANS.items():
        found = simulate(plan)
        (a, x), (b, y), *_ = sorted(found.busy.items(), key=lambda item: -item[1])
        print(
            f"| {name} | {found.steps:,.0f} | {found.updates:,.0f} | {found.staleness:.1f} | {a}, {x:.0%} | {b}, {y:.0%} |"
        )
    print("\n| link, MB/s | base | images | 100 MB |\n| --- | --- | --- | --- |")
    chosen = [simulate(PLANS[name]) for name in (list(PLANS)[0], list(PLANS)[7], list(PLANS)[9])]
    for link in chosen[0].bytes:
        print(f"| {link} | " + " | ".join(f"{found.bytes[link] / 1e6:,.0f}" for found in chosen) + " |")


def measure() -> None:
    """Cost of a block on this machine, without Ray's own part."""
    import numpy as np

    from rlpolicy.data.batch import Batch
    from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
    from rlpolicy.data.staging import packed, store, unpacked

    for obs, steps in ((376, 8), (376, 64), (3, 8)):
        row = {"obs": np.zeros((1, obs), np.float32), "act": np.zeros((1, 17), np.float32), "rew": np.zeros(1)}
        row |= {"obs_next": row["obs"], "info": Batch(env_id=np.zeros(1, np.int64)), "policy": Batch()}
        row |= {name: np.zeros(1, bool) for name in ("terminated", "truncated", "done")}
        block = pickle.dumps(packed([(Batch(row), np.zeros(1, np.int64)) for _ in range(steps)]), protocol=5)
        buffer = VectorReplayBuffer(100_000, 1)
        spent = [0.0, 0.0]
        for _ in range(300):
            begin = time.perf_counter()
            kept = unpacked(pickle.loads(block))
            middle = time.perf_counter()
            store(kept, buffer)
            spent = [spent[0] + middle - begin, spent[1] + time.perf_counter() - middle]
        print(
            f"{steps} steps of {obs} numbers: {len(block) / steps:,.0f} bytes per row, "
            f"unpacking {spent[0] / 300 * 1e6:,.0f} us, storing {spent[1] / 300 / steps * 1e6:.1f} us per row"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the cost of blocks here")
    measure() if parser.parse_args().measure else tables()
