"""The command `dist-dp`: run a script, look into a run directory, look at this machine.

Exit codes: 0 success; 1 the program failed, or what was inspected is damaged; 2 a wrong option, argument or setting,
told in a line; 3 the run was lost, and the same command resumes it; 130 Ctrl-C. A program's own `sys.exit(code)` comes
through. Everything that is heavy is imported where it is needed.
"""

from __future__ import annotations

import click

from ._version import __version__
from .commands.doctor import doctor
from .commands.inspect import inspect
from .commands.profile import profile
from .commands.run import run
from .commands.submit import submit
from .commands.verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dist-dp", message="%(prog)s %(version)s")
def main() -> None:
    """Differentiable programs, trained data-parallel: one run, one answer."""


for command in (run, submit, verify, inspect, profile, doctor):
    main.add_command(command)

if __name__ == "__main__":
    main()
