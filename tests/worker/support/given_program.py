"""Runs a program that is given as text, which can be forked: `python -m tests.worker.support.given_program PROGRAM`."""

import sys

if __name__ == "__main__":
    program = sys.argv.pop(1)
    exec(program)
