"""Talks to the origin of the tests through the proxy, by the HTTP client of Python's library.

Called as `client.py HOST:PORT [CA]`, the latter for HTTPS; prints `fine` if every answer was right. All on one connection.
"""

import http.client
import ssl
import sys


def pattern(length):
    return bytes(i % 251 for i in range(length))


if len(sys.argv) > 2:
    context = ssl.create_default_context(cafile=sys.argv[2])
    connection = http.client.HTTPSConnection(sys.argv[1], timeout=60, context=context)
else:
    connection = http.client.HTTPConnection(sys.argv[1], timeout=10)


def ask(method, path, body=None, **options):
    connection.request(method, path, body, **options)
    response = connection.getresponse()
    return response.status, response.read()


for length in (0, 1, 4096, 300_000):
    assert ask("POST", "/echo", pattern(length)) == (200, pattern(length)), length
    assert ask("GET", f"/bytes/{length}") == (200, pattern(length)), length
    assert ask("GET", f"/chunked/{length}") == (200, pattern(length)), length

pieces = [pattern(10), pattern(5000), b"end"]
chunked = {"Transfer-Encoding": "chunked"}
assert ask("PUT", "/echo", iter(pieces), headers=chunked, encode_chunked=True) == (200, b"".join(pieces))

assert ask("HEAD", "/bytes/1000") == (200, b"")
assert ask("DELETE", "/status/204") == (204, b"")
assert ask("GET", "/status/304") == (304, b"")
assert ask("GET", "/status/503")[0] == 503
assert ask("OPTIONS", "/")[0] == 200
print("fine")
