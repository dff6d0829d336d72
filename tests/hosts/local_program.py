"""What the workers of the tests run: ops that only add up who takes part, by the rules of `runtime.member`.

Each op prints `op NUMBER size SIZE pid PID at TIME`. The arguments are how many ops there are, and the name of a
function below that is called before each.
"""

import os
import sys
import threading
import time

from runtime.group import GroupBroken
from runtime.member import Position, current

member = current()


def run(count, before):
    session, done, stale = member.next_session(), -1, False
    while done < count:
        try:
            if member.group is None or member.group.broken or stale:
                formation = member.form(Position(session, done))
                stale, done = False, max(0, formation.position.op)
                if formation.past:
                    return
            before(done)
            member.progress(done, "exchange")
            group = member.group
            said = group.gather_objects((done, member.regroup_wanted))
            assert {op for op, _ in said} == {done}
            assert group.all_reduce([1.0]) == [group.size]
            done, stale = done + 1, any(wanted for _, wanted in said)
            member.progress(done, "apply")
            print(f"op {done} size {group.size} pid {os.getpid()} at {time.monotonic()}", flush=True)
        except GroupBroken:
            continue


def nothing(op):
    pass


def slowly(op):
    time.sleep(0.01)


def stubborn(op):
    """Take no notice of an interrupt, see below."""
    slowly(op)


def chosen(op):
    """Worker 1, the first time it comes to op 3."""
    return member.worker == 1 and op == 3 and member.group.generation == 1


def raises(op):
    if chosen(op):
        raise ZeroDivisionError("op 3 went wrong")


def hangs(op):
    slowly(op)
    if chosen(op):
        member.progress(op, "shard 0")
        time.sleep(1000)


def keeps_the_lock(op):
    """Compute for two seconds in one call, during which no other thread of the process runs."""
    if chosen(op):
        begun = time.thread_time()
        sum(range(10**6))
        sum(range(int(10**6 * 2 / (time.thread_time() - begun))))


def forks(op):
    """Leave a child behind that holds all that this process holds, and have one that goes on with the program."""
    if chosen(op):
        if os.fork() == 0:
            time.sleep(3)
            os._exit(0)
        if os.fork() == 0:
            try:
                member.form(Position(0, op))
            except RuntimeError as error:
                print(error, flush=True)
            sys.exit(0)
        os.wait()
    slowly(op)


def in_a_thread(op):
    assert threading.current_thread() is not threading.main_thread()
    slowly(op)


if __name__ == "__main__":
    count, before = int(sys.argv[1]), globals()[sys.argv[2] if len(sys.argv) > 2 else "nothing"]
    try:
        run(count, before)
    except KeyboardInterrupt:
        if before is not stubborn:
            raise
        print("interrupted", flush=True)
        time.sleep(1000)
    print("done", flush=True)
