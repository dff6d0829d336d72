"""A launcher to be killed or interrupted: `local_launcher.py WORKERS SCRIPT ARGUMENTS...` shows what they say."""

import sys
from pathlib import Path

from runtime.coordinator import Limits
from runtime.hosts.local import LocalHost
from runtime.hosts.logs import WorkerLogs

WORKER = [sys.executable, str(Path(__file__).with_name("local_worker_main.py"))]

if __name__ == "__main__":
    workers = int(sys.argv[1])
    logs = WorkerLogs(workers, sys.stdout, sys.stderr, "all")
    host = LocalHost([*WORKER, *sys.argv[2:]], workers, limits=Limits(heartbeat=60), logs=logs)
    over = host.run()
    logs.close()
    print("over", over.code, over.reason, flush=True)
    sys.exit(over.code)
