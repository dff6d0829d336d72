"""How a command ends otherwise than well: its exit codes, and what the user can put right, told in a line."""

import click

FAILED, LOST, INTERRUPTED = 1, 3, 130


class Refused(click.ClickException):
    """Something that the user can put right, told in a line."""

    exit_code = 2
