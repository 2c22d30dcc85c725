"""Who counts as one caller."""

import pytest

from snf_app.access.permissions import caller_of


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("192.0.2.7", "address:192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "address:2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "address:2001:db8:1:2::/64"),
    ],
)
def test_one_machine_is_one_caller_whichever_of_its_addresses_it_uses(host: str, name: str) -> None:
    caller = caller_of({"type": "http", "client": (host, 50000)})
    assert (caller.name, caller.address) == (name, host)
