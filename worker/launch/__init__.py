"""The processes that ``snf up`` and ``snf worker`` start and restart."""
