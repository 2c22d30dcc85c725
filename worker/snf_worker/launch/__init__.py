"""Start and supervision of all processes on a machine, behind ``snf up`` and ``snf worker``."""
