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
MEMORY = 4e9
"""Bytes per second of a copy within main memory."""


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
    """Of the learner's CPU: fetch a block and ask for the next one."""
    per_add: float = 6e-5
    """Of the learner's CPU: unpack and store one step of a block, for all environments of its worker."""
    per_row: float = 2e-6
    """The same, for each of these environments in addition."""
    copies: int | None = None
    """Nodes that each rank sends its weights to; None: its workers are spread over as many as there are."""
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
        """Of one transition: obs, obs_next, act, rew, three flags, env_id twice. Headers of blocks are left out."""
        return 2 * self.obs_bytes + self.act_bytes + 8 + 3 + 8 + 8

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
    """Share of the time in which each part works; that with the greatest is what all wait for."""
    learner: dict[str, float]
    """Share of the time in which a learner does what."""
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
    nodes = max(1, plan.workers // plan.workers_per_node)
    copies = plan.copies or min(workers, nodes)
    send, put = plan.weight_bytes / link, plan.weight_bytes / MEMORY
    store = plan.per_block + plan.steps_per_env * plan.per_add + rows * plan.per_row
    now = link_free = weights_begin = weights_end = 0.0
    cpu = updating = working = 0.0
    coming: dict[int, tuple[float, int]] = {}
    ages: list[int] = []
    count = 0

    def ask(worker: int, begin: float, round_: int) -> None:
        nonlocal link_free, working
        # the nodes fetch the weights one after the other, each once
        done = max(begin, weights_begin + (worker % copies + 1) * send) + work
        working += work
        link_free = max(link_free, done) + rows * plan.row_bytes / link
        coming[worker] = (link_free, round_)

    for number in range(1, rounds + 1):
        now += put
        cpu += put
        weights_begin = max(weights_end, now)
        weights_end = weights_begin + copies * send
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
            now = max(now, arrival) + store
            cpu += store
            got += rows
            ages.append(number - asked)
            if plan.max_staleness:
                ask(worker, now, number)
            if got < wanted and (not due or plan.max_staleness > 1):
                due = set(coming)
        count += got
        spent = plan.updates_per_round * (plan.update + plan.exchange)
        now += spent
        updating += spent
    rate, updates = count / now, rounds * plan.updates_per_round / now
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
            "learner": (cpu + updating) / now,
            "learner's link": max(learner_in, learner_out) / plan.learner_link,
            "worker node's link": max(worker_out, worker_in) / plan.worker_link,
        },
        learner={
            "storing": cpu / now,
            "updates": plan.update * updates,
            "exchange": plan.exchange * updates,
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
    "128 workers, 8 GPUs": replace(BASE, workers=128, ranks=8),
    "base, each rank's workers on one node": replace(BASE, copies=1),
    "base, workers wait for updates": replace(BASE, max_staleness=0),
    "base, an update per 2 rows": replace(BASE, updates_per_round=64),
    "base, 8 environments per worker": replace(BASE, envs_per_worker=8),
    "base, 32 steps per block and round": replace(BASE, steps_per_env=32, updates_per_round=32),
    "base, 0.1 ms per environment step": replace(BASE, env_step=1e-4),
    "base, images of 4 x 84 x 84 bytes": replace(BASE, obs_bytes=4 * 84 * 84, act_bytes=8),
    "images, 8 environments per worker": replace(BASE, obs_bytes=4 * 84 * 84, act_bytes=8, envs_per_worker=8),
    "base, networks of 100 MB": replace(BASE, weight_bytes=100_000_000, gradient_bytes=50_000_000, update=2e-2),
    "100 MB, each rank's workers on one node": replace(
        BASE, weight_bytes=100_000_000, gradient_bytes=50_000_000, update=2e-2, copies=1
    ),
}


def tables() -> None:
    """As in docs/scale.md."""
    print(f"| plan | env steps/s | updates/s | {' | '.join(simulate(BASE).busy)} | of the learner |")
    print("| --- " * 8 + "|")
    for name, plan in PLANS.items():
        found = simulate(plan)
        parts = ", ".join(f"{part} {share:.0%}" for part, share in found.learner.items())
        busy = " | ".join(f"{share:.0%}" for share in found.busy.values())
        print(f"| {name} | {found.steps:,.0f} | {found.updates:,.0f} | {busy} | {parts} |")
    print("\n| link, MB/s | base | images | 100 MB |\n| --- | --- | --- | --- |")
    names = ("base: 1,024 workers, 64 GPUs", "base, images of 4 x 84 x 84 bytes", "base, networks of 100 MB")
    chosen = [simulate(PLANS[name]) for name in names]
    for link in chosen[0].bytes:
        print(f"| {link} | " + " | ".join(f"{found.bytes[link] / 1e6:,.0f}" for found in chosen) + " |")


def measure() -> None:
    """Cost of a block on this machine, without Ray's own part."""
    import numpy as np

    from rlpolicy.data.batch import Batch
    from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
    from rlpolicy.data.staging import packed, store, unpacked

    for obs, steps, envs in ((376, 8, 1), (376, 64, 1), (376, 8, 8), (376, 8, 64), (3, 8, 1)):
        row = {"obs": np.zeros((envs, obs), np.float32), "act": np.zeros((envs, 17), np.float32)}
        row |= {"obs_next": row["obs"], "info": Batch(env_id=np.arange(envs)), "policy": Batch()}
        row |= {name: np.zeros(envs, bool) for name in ("terminated", "truncated", "done")} | {"rew": np.zeros(envs)}
        block = pickle.dumps(packed([(Batch(row), np.arange(envs)) for _ in range(steps)]), protocol=5)
        buffer = VectorReplayBuffer(10_000, envs)
        spent = [0.0, 0.0]
        for _ in range(300):
            begin = time.process_time()
            kept = unpacked(pickle.loads(block))
            middle = time.process_time()
            store(kept, buffer)
            spent = [spent[0] + middle - begin, spent[1] + time.process_time() - middle]
        a, b = (seconds / 300 / steps * 1e6 for seconds in spent)
        print(
            f"{steps} steps of {envs} environments, {obs} numbers: {len(block) / steps / envs:,.0f} bytes per row, "
            f"{a:.1f} us to unpack a step, {b:.1f} us to store it"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the cost of blocks here")
    measure() if parser.parse_args().measure else tables()
