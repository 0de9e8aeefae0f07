"""Free ports on this machine."""

import socket


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for item in held:
        item.bind(("127.0.0.1", 0))
    ports = [item.getsockname()[1] for item in held]
    for item in held:
        item.close()
    return ports
