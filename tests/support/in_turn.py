"""Commands of `snf` one after the other in a process of their own, which loads once what takes seconds."""

import json
import sys

PROGRAM = """
import json, sys
from snf_app.cli.main import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["snf", *arguments]
    try:
        main()
    except SystemExit as end:
        for stream in sys.stdout, sys.stderr:
            print("ended with", end.code, file=stream, flush=True)
"""


def in_turn(*commands: list[str]) -> list[str]:
    """Return a command line that runs commands as the command line does, and says how each of them ended."""
    return [sys.executable, "-c", PROGRAM, json.dumps(commands)]
