"""Ports are reserved once: two pipelines never have the same one, and a stranger's is not taken for ours."""

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from app.errors import PortTakenError, UserError
from app.processes.ports import Port, listening, require_host, reserve, reserve_exactly

HOST = "127.0.0.1"


@pytest.fixture
def port() -> Iterator[Port]:
    found = reserve(HOST)
    yield found
    found.release()


def server(number: int) -> socket.socket:
    """What a server of ours does: SO_REUSEADDR, and listen."""
    return socket.create_server((HOST, number))


def test_a_reserved_port_is_nobody_elses_and_our_own_server_can_listen_there(port: Port) -> None:
    other = reserve(HOST, port.number)
    with pytest.raises(PortTakenError, match=f"port {port.number} on {HOST}"):
        reserve_exactly(HOST, port.number)
    assert other.number != port.number
    other.release()
    with server(port.number):
        pass


def test_a_port_can_be_had_again_as_soon_as_it_is_released(port: Port) -> None:
    port.release()
    again = reserve(HOST, port.number)
    assert again.number == port.number
    again.release()


def test_a_port_that_served_a_moment_ago_can_be_had_at_once(port: Port) -> None:
    """A connection that the server has closed keeps the port in TIME_WAIT for a minute."""
    with server(port.number) as listens, socket.create_connection((HOST, port.number)) as client:
        accepted, _ = listens.accept()
        accepted.close()
        assert client.recv(1) == b""
    port.release()
    again = reserve_exactly(HOST, port.number)
    again.release()


def test_a_strangers_port_is_left_alone() -> None:
    with socket.create_server((HOST, 0)) as stranger:
        taken = stranger.getsockname()[1]
        found = reserve(HOST, taken)
        assert found.number not in (0, taken)
        found.release()


def test_a_stranger_who_takes_our_port_all_the_same_is_seen(port: Port) -> None:
    with server(port.number):
        assert port.is_taken
    assert_is_free(port)


def assert_is_free(port: Port) -> None:
    assert not port.is_taken


def test_a_strangers_server_on_every_address_has_the_port_too() -> None:
    with socket.create_server(("0.0.0.0", 0)) as stranger, pytest.raises(PortTakenError):
        reserve_exactly(HOST, stranger.getsockname()[1])


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "2001:db8::1"])
def test_an_address_that_is_not_ours_is_one_line(host: str) -> None:
    with pytest.raises(
        UserError, match=f"nothing can listen on {host}: .*; use an address of this"
    ) as refused:
        require_host(host)
    assert "\n" not in str(refused.value)


def test_an_address_in_brackets_is_one_too() -> None:
    with closing(socket.socket(socket.AF_INET6)) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
    port = reserve("[::1]")
    with closing(listening("[::1]", port.number)):
        assert port.is_taken
    port.release()
