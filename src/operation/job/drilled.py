"""The homeserver's own Synapse beside a drill: waits for a configuration, then runs on it, with no way out.

    python3 -c "$THIS" DIRECTORY

In the directory: homeserver.yaml, which the drill writes; then `synapse.log`, what it prints; `refused`, whom it wanted to
talk to; and `ended`, how it ended, if it did.
"""

import ipaddress
import os
import runpy
import signal
import socket
import sys
import time

CONFIG, LOG, REFUSED, ENDED = (os.path.join(sys.argv[1], name) for name in ("homeserver.yaml", "synapse.log", "refused", "ended"))
# CPython tells these before it does them; what raises here is not done (PEP 578). Such a hook cannot be taken away again.
LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")
SENDS = ("socket.connect", "socket.sendto", "socket.sendmsg")


def append(path):
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def shut_in():
    """Nothing is sent but to Unix sockets, such as PostgreSQL's, and nobody is asked for a name."""
    refused, own_name = append(REFUSED), socket.gethostname()

    def is_known(name):
        try:
            ipaddress.ip_address(str(name))
        except ValueError:
            return name is None or name == own_name
        return True

    def refuse(event, arguments):
        if event in LOOKUPS:
            wanted = arguments[0]
            if is_known(wanted):
                return
        elif event in SENDS and arguments[0].family != socket.AF_UNIX:
            wanted = arguments[1]
        else:
            return
        os.write(refused, f"{wanted}\n".encode())
        raise PermissionError(f"in a drill nothing leaves: {event} {wanted}")

    sys.addaudithook(refuse)


def become_synapse():
    log = append(LOG)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(sys.argv[1])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    shut_in()
    sys.argv = ["synapse", "--config-path", CONFIG]
    runpy.run_module("synapse.app.homeserver", run_name="__main__", alter_sys=True)


def tell_the_end(how):
    with open(ENDED + ".new", "w") as file:
        file.write(str(how))
    os.rename(ENDED + ".new", ENDED)


def stop(*_):
    if synapse:
        os.kill(synapse, signal.SIGKILL)
    os._exit(0)


synapse = None
# The first process of a container has no handler of its own.
signal.signal(signal.SIGTERM, stop)
if os.path.exists(LOG):
    # This is another container in its place: the whole of it was killed.
    tell_the_end(-signal.SIGKILL)
else:
    while not os.path.exists(CONFIG):
        time.sleep(0.2)
    synapse = os.fork()
    if synapse == 0:
        become_synapse()
        sys.exit()
    status = os.waitpid(synapse, 0)[1]
    synapse = None
    tell_the_end(os.waitstatus_to_exitcode(status))
while True:
    time.sleep(3600)
