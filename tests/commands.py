"""The command, run in this process."""

from typer.testing import CliRunner

from pipeline.cli import main as cli


def run_command(*arguments):
    """Run the command; an exception that is no exit is an error of ours."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
