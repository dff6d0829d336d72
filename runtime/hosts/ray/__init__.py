"""Workers of a run on a Ray cluster: a driver that places them, a coordinator actor, and an actor for each worker.

    host.py               the driver: starts and ends what the coordinator decides, shows what workers print
    rooms.py              where workers may be: placement groups, lost and drained nodes
    coordinator_actor.py  `runtime.coordinator` as a named actor that restarts
    worker_actor.py       runs the program as a worker
    member.py             `RayMember`: the worker among the others
    cluster.py            connecting to a cluster, and what may be wrong with it
    metrics.py            events as `ray.util.metrics`

Nothing here is imported unless a run is on Ray.
"""
