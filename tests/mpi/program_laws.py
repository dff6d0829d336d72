"""Started by mpirun: every law of groups, over MPI; says so when all of them hold."""

from transports.laws import LAWS

from runtime.hosts.mpi import MpiMember
from runtime.member import Position


def main() -> None:
    member = MpiMember.from_environment()
    formation = member.form(Position(member.next_session(), -1))
    assert (formation.donor, formation.newcomers, formation.past) == (None, frozenset(), False)
    group = formation.group
    assert (group.rank, group.size) == (member.worker, member.workers)
    for law in LAWS:
        law(group)
        group.barrier()
    print(f"{len(LAWS)} laws hold on worker {group.rank}", flush=True)


if __name__ == "__main__":
    main()
