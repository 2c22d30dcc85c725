"""The command line ``snf``. Heavy imports stay inside the functions, so that ``snf --help`` is instant."""
