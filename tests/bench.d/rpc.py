"""XML-RPC over a unix socket, as bytes: what a call costs the daemon, and not what parsing costs the client."""
import re
import socket
import xmlrpc.client


class Failed(Exception):
    """Something could not be measured; the text says why."""


def request(method, *params):
    """The bytes of a call."""
    body = xmlrpc.client.dumps(params, method)
    return (f'POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/xml\r\n'
            f'Content-Length: {len(body)}\r\n\r\n{body}').encode()


def whole_answer(data):
    """The body once all of it is in `data`, else None."""
    head, separator, body = data.partition(b'\r\n\r\n')
    if not separator:
        return None
    if not re.match(rb'HTTP/1\.\d 200', head):
        raise Failed(f'the answer is {head.splitlines()[0].decode(errors="replace")}')
    length = re.search(rb'(?im)^content-length:\s*(\d+)', head)
    if not length:
        raise Failed('the answer has no Content-Length')
    if len(body) < int(length[1]):
        return None
    if b'<fault>' in body:
        text = re.search(rb'<string>([^<]*)', body)
        raise Failed(f'fault {text[1].decode(errors="replace") if text else body!r}')
    return body


class Connection:
    """One kept connection; `call` sends a method and returns the body of the answer."""

    def __init__(self, path, seconds=120):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(seconds)
        self.socket.connect(path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def call(self, method, *params):
        self.socket.sendall(request(method, *params))
        data = bytearray()
        while True:
            try:
                got = self.socket.recv(1 << 20)
            except TimeoutError:
                raise Failed(f'{method} was not answered in {self.socket.gettimeout():g} s') from None
            if not got:
                raise Failed(f'the connection was closed during {method}')
            data += got
            # Looked through only once it can be whole: large answers arrive in many pieces.
            if data.endswith((b'</methodResponse>\n', b'</methodResponse>', b'\n')):
                body = whole_answer(bytes(data))
                if body is not None:
                    return body
