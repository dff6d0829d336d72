"""Runs a script as a worker: `local_worker_main.py SCRIPT ARGUMENTS...`; of a failure, reports what a test looks at."""

import sys
import traceback

from runtime.hosts.program import run_program
from runtime.launch import run_as_main, within


def report(error):
    frames = within(sys.argv[0], error.__traceback__)
    text = "".join(traceback.format_exception(type(error), error, frames))
    return {"error": type(error).__name__, "message": str(error), "traceback": text}


if __name__ == "__main__":
    script, *arguments = sys.argv[1:]
    sys.exit(run_program(lambda: run_as_main(script, arguments), report))
