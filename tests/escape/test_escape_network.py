"""A program reaches nobody: no network, no socket of the host, no socket of another kind."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator

import psutil  # type: ignore[import-untyped]  # its stubs are no dependency of ours
import pytest

from box_stage import Stage

CONNECT = """
    import socket, sys
    for host in sys.argv[2:]:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            try:
                with socket.socket(family, kind) as client:
                    client.settimeout(0.5)
                    client.connect((host, int(sys.argv[1])))
                    client.send(b"out")
                    print("reached", host)
            except OSError:
                pass
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("0.0.0.0", 0)) as listener:  # noqa: S104 - to be found, if it can be
        listener.setblocking(False)
        yield listener


def addresses() -> list[str]:
    families = {socket.AF_INET, socket.AF_INET6}
    found = [each for nic in psutil.net_if_addrs().values() for each in nic]
    return [each.address.split("%")[0] for each in found if each.family in families]


def test_no_address_of_the_host_is_reached(stage: Stage, listener: socket.socket) -> None:
    port = str(listener.getsockname()[1])
    outcome = stage.python(CONNECT, port, "127.0.0.1", "::1", *addresses(), "192.0.2.1")
    assert (outcome.exit_code, outcome.stdout) == (0, b""), outcome.stderr
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_no_abstract_socket_of_the_host_is_reached(stage: Stage) -> None:
    name = f"cupel-test-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        outcome = stage.python(
            """
            import socket, sys
            try:
                socket.socket(socket.AF_UNIX).connect("\\0" + sys.argv[1])
                print("reached")
            except ConnectionRefusedError:
                print("nobody there")
            """,
            name,
        )
    assert outcome.stdout == b"nobody there\n"


FAMILIES = {
    "NETLINK": 16,
    "PACKET": 17,
    "RDS": 21,
    "CAN": 29,
    "TIPC": 30,
    "BLUETOOTH": 31,
    "ALG": 38,
    "VSOCK": 40,
    "QIPCRTR": 42,
    "XDP": 44,
}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
def test_sockets_of_other_kinds_are_refused(stage: Stage, family: int) -> None:
    outcome = stage.python(
        """
        import errno, socket, sys
        for make in (lambda n, k: socket.socket(n, k), lambda n, k: socket.socketpair(n, k)):
            for kind in (1, 2, 3, 5):  # SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET
                try:
                    make(int(sys.argv[1]), kind)
                    print("made")
                except OSError as error:
                    assert error.errno == errno.EAFNOSUPPORT, error
        """,
        str(family),
    )
    assert (outcome.exit_code, outcome.stdout) == (0, b""), outcome.stderr


def test_raw_sockets_are_refused(stage: Stage) -> None:
    outcome = stage.python(
        """
        import errno, socket
        for protocol in (socket.IPPROTO_ICMP, socket.IPPROTO_RAW, socket.IPPROTO_TCP):
            try:
                socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
                print("made")
            except OSError as error:
                assert error.errno in (errno.EPERM, errno.EAFNOSUPPORT)
        """
    )
    assert (outcome.exit_code, outcome.stdout) == (0, b""), outcome.stderr


def test_no_interface_but_the_loopback_is_there(stage: Stage) -> None:
    lines = stage.sh("cat /proc/net/dev").stdout.decode().splitlines()[2:]
    assert all(line.split(":")[0].strip() in {"lo", "sit0", "tunl0", "ip6tnl0"} for line in lines)
    routes = stage.sh("cat /proc/net/route").stdout.decode().splitlines()[1:]
    assert routes == []


def test_names_are_not_resolved_beyond_the_box(stage: Stage) -> None:
    outcome = stage.python(
        """
        import socket
        try:
            print(socket.getaddrinfo("example.com", 80))
        except socket.gaierror:
            print("unknown")
        """
    )
    assert outcome.stdout == b"unknown\n"


def test_a_socket_of_one_run_is_not_there_in_the_next(stage: Stage) -> None:
    listen = """
        import os, socket
        one = socket.socket(socket.AF_UNIX); one.bind("\\0name"); one.listen()
        two = socket.socket(socket.AF_UNIX); two.bind("/tmp/name"); two.listen()
        if not os.fork():
            os.setsid()
            while True: one.accept()
    """
    assert stage.python(listen).exit_code == 0
    outcome = stage.python(
        """
        import socket
        for address in ("\\0name", "/tmp/name"):
            try:
                socket.socket(socket.AF_UNIX).connect(address)
                print("reached", address)
            except (ConnectionRefusedError, FileNotFoundError):
                pass
        """
    )
    assert (outcome.exit_code, outcome.stdout) == (0, b""), outcome.stderr


def test_files_in_flight_between_sockets_do_not_survive(stage: Stage) -> None:
    """Two sockets that hold each other, and an unlinked file, are garbage only the kernel sees."""
    outcome = stage.python(
        """
        import os, socket
        for number in range(20):
            one, two = socket.socketpair(socket.AF_UNIX)
            file = os.open(f"/tmp/{number}", os.O_RDWR | os.O_CREAT)
            os.write(file, b"x" * 100000)
            os.unlink(f"/tmp/{number}")
            socket.send_fds(one, [b"x"], [one.fileno(), two.fileno(), file])
            socket.send_fds(two, [b"x"], [one.fileno(), two.fileno(), file])
            one.detach(), two.detach()
        """
    )
    assert outcome.exit_code == 0, outcome.stderr
    assert stage.is_usable()


def test_no_port_is_left_taken_for_the_next_run(stage: Stage) -> None:
    """A connection that ended holds its port for a minute: a message to whoever comes next."""
    take = """
        import socket, sys
        try:
            server = socket.create_server(("127.0.0.1", 4242), reuse_port=False)
            client = socket.create_connection(("127.0.0.1", 4242), timeout=1)
            server.accept()[0].close()
            client.close()
            print("left")
        except OSError as error:
            print(error.errno)
    """
    first, second = (stage.python(take).stdout for _ in range(2))
    assert first == second != b"left\n"
