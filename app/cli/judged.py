"""The exit codes of commands that judge images, as their help says them."""

EXIT_CODES = (
    "Exit codes: 0 every file was judged; 1 an anomaly, with --fail-on-anomaly; 2 wrong usage; 3 the service or this "
    "program failed; 4 at least one file was not judged, whatever else was found."
)
