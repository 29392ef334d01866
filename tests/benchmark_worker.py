"""A worker of the benchmark that does nothing: two steps' worth of losses, then it breaks."""

from __future__ import annotations

from benchmarks.baton import Baton
from benchmarks.task import Task


def main() -> None:
    task = Task.from_argv()
    baton = Baton(task.device)
    print("what a library prints is not the protocol")
    baton.ready(rows=task.rows)
    plan = baton.receive_plan()
    for rows in plan:
        if not baton.wait():
            return
        with baton.part("writing"):
            baton.count_work(len(rows), {"writing": 1e9})
        baton.add_loss(float(sum(rows)))
    baton.wait()
    raise SystemExit("the plan is over")


if __name__ == "__main__":
    main()
