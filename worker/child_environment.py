"""Variables of child processes, which never include the keys of the service."""

from __future__ import annotations

import os
from collections.abc import Mapping

SECRETS = frozenset({"SNF_API_KEYS", "SNF_API_KEY"})
"""Variables that no child process inherits: anyone who can read a process's files under `/proc` sees them.

Their names count in any case, as they do for the settings.
"""


def child_environment(*changes: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of this process without its keys, with ``changes`` applied in order."""
    variables = {name: value for name, value in os.environ.items() if name.upper() not in SECRETS}
    for change in changes:
        variables |= change
    return variables
