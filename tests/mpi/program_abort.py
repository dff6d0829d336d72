"""Started by mpirun: one worker ends the generation while the others wait; all form the next, and exchange in it."""

import sys
import time

from runtime.group import GroupBroken
from runtime.hosts.mpi import MpiMember
from runtime.member import Position


def main() -> None:
    member = MpiMember.from_environment()
    session = member.next_session()
    for turn in range(int(sys.argv[1])):
        group = member.form(Position(session, -1)).group
        assert group.generation == turn + 1
        assert group.all_reduce([1.0]).tolist() == [member.workers]
        begin = time.monotonic()
        try:
            if member.worker == turn % member.workers:
                time.sleep(0.05)
                group.abort()
            group.all_reduce([1.0])
            raise AssertionError("the generation went on after it was aborted")
        except GroupBroken:
            assert time.monotonic() - begin < 5
        assert group.broken
    print("broken off", flush=True)


if __name__ == "__main__":
    main()
