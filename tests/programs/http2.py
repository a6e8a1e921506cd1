"""Talks HTTP/2 to the origin of the tests through the proxy, by httpx with its h2 (not the crate of that name).

Called as `http2.py ORIGIN URL [CA]`, ORIGIN being `files` where only files are served; prints `fine` if every answer was right, and
`missing` with a reason where httpx is not installed.
"""

import sys

try:
    import h2  # noqa: F401
    import httpx
except ImportError as error:
    print(f"missing {error}")
    sys.exit(0)


def pattern(length):
    return bytes(i % 251 for i in range(length))


origin, url = sys.argv[1:3]
verify = httpx.create_ssl_context(verify=sys.argv[3]) if len(sys.argv) > 3 else False
# In clear text it speaks HTTP/2 only where HTTP/1.1 is switched off.
client = httpx.Client(http1=False, http2=True, verify=verify, timeout=60, trust_env=False)

for length in (1, 1000, 300_000):
    answer = client.get(f"{url}/bytes/{length}")
    assert (answer.status_code, answer.http_version) == (200, "HTTP/2"), answer
    assert answer.content == pattern(length), length
    if origin != "files":
        answer = client.post(f"{url}/copy", content=pattern(length))
        assert (answer.status_code, answer.content) == (200, pattern(length)), length
        pieces = client.post(f"{url}/copy", content=iter([pattern(length), b"end"]))
        assert pieces.content == pattern(length) + b"end", length
assert client.head(f"{url}/bytes/1000").headers["content-length"] == "1000"
client.close()
print("fine")
