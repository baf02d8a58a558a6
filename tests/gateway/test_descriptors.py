"""How many open files a gateway may have, as it says itself."""

import subprocess
import sys

import pytest

_CODE = """
import resource
from gateway.descriptors import describe_shortage, raise_limit
raise_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], describe_shortage())
"""


def limited(limits: str, *command: str) -> str:
    """What a Python says that is run with these limits."""
    shell = f'ulimit {limits} && exec "$0" "$@"'
    ran = subprocess.run(
        ["bash", "-c", shell, sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return ran.stdout


def test_the_limit_is_raised_as_far_as_it_goes() -> None:
    assert limited("-Sn 300 && ulimit -Hn 700", "-c", _CODE).startswith("700 This process may have")


@pytest.mark.parametrize(("limit", "told"), [(9_999, True), (10_000, False)])
def test_only_a_low_limit_is_told(limit: int, told: bool) -> None:
    said = limited(f"-n {limit}", "-c", _CODE)
    assert (f"may have {limit} open files" in said) is told


def test_check_says_that_the_limit_is_low() -> None:
    assert "may have 700 open files" in limited("-n 700", "-m", "gateway", "check").replace(
        "\n", " "
    )
