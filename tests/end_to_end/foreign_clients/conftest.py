"""The programs here run in the environment of the clients, which the tests themselves cannot import."""

collect_ignore = ["kserve_client.py", "triton_client.py"]
