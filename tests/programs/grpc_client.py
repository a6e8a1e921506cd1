"""Calls `t.Echo` through the proxy by grpcio: all four kinds of calls, metadata, errors, deadlines, cancellation.

Called as `grpc_client.py HOST:PORT [CA NAME]`, the latter for TLS to a server of that name; prints `fine` if every answer was right, and
`missing` with a reason where grpcio is not installed.
"""

import os
import queue
import sys
import time

try:
    import grpc
except ImportError as error:
    print(f"missing {error}")
    sys.exit(0)

# What the host says about proxies is not meant for the tests.
os.environ["no_proxy"] = os.environ["no_grpc_proxy"] = "*"
PATIENCE = 60
if len(sys.argv) > 3:
    credentials = grpc.ssl_channel_credentials(open(sys.argv[2], "rb").read())
    channel = grpc.secure_channel(sys.argv[1], credentials, [("grpc.ssl_target_name_override", sys.argv[3])])
else:
    channel = grpc.insecure_channel(sys.argv[1])


def unary(name):
    return channel.unary_unary(f"/t.Echo/{name}")


def streamed(name):
    return channel.unary_stream(f"/t.Echo/{name}")


def pattern(length):
    return (bytes(range(251)) * (length // 251 + 1))[:length]


def fails(call, code):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, error
        return error
    raise AssertionError(f"it ended without {code}")


# Unary, with metadata in both directions, before and behind the message.
for length in (0, 5, 16_384, 65_536, 3_000_000):
    assert unary("Unary")(pattern(length), timeout=PATIENCE) == pattern(length), length
fields = (("x-kind", "one"), ("x-bytes-bin", bytes(range(256))))
message, call = unary("Unary").with_call(b"hello", metadata=fields, timeout=PATIENCE)
assert message == b"hello"
assert ("x-kind", "one") in tuple(call.initial_metadata()), call.initial_metadata()
assert ("x-bytes-bin", bytes(range(256))) in tuple(call.trailing_metadata()), call.trailing_metadata()

# Many at once.
calls = [unary("Unary").future(pattern(nth * 100), timeout=PATIENCE) for nth in range(200)]
assert all(call.result() == pattern(nth * 100) for nth, call in enumerate(calls))

# Streams of messages in one direction.
for length in (0, 100, 200_000):
    assert list(streamed("Repeat")(pattern(length), timeout=PATIENCE)) == [pattern(length)] * 10, length
    messages = (pattern(length) for _ in range(20))
    total = channel.stream_unary("/t.Echo/Count")(messages, timeout=PATIENCE)
    assert total == f"20 {20 * length}".encode(), total

# In both, each message after the answer to the one before.
asked = queue.SimpleQueue()
answers = channel.stream_stream("/t.Echo/Chat")(iter(asked.get, None), timeout=PATIENCE)
for nth in range(100):
    asked.put(pattern(nth))
    assert next(answers) == pattern(nth), nth
asked.put(None)
assert list(answers) == []
assert answers.code() == grpc.StatusCode.OK

# Errors of the server, before and behind messages.
error = fails(lambda: unary("Fail")(b"", timeout=PATIENCE), grpc.StatusCode.NOT_FOUND)
assert error.details() == "no such thing: 100%", error.details()
assert ("x-why", "because") in tuple(error.trailing_metadata()), error.trailing_metadata()
messages = streamed("Broken")(b"part", timeout=PATIENCE)
assert [next(messages) for _ in range(3)] == [b"part"] * 3
assert fails(lambda: next(messages), grpc.StatusCode.DATA_LOSS).details() == "lost"
fails(lambda: unary("NoSuchCall")(b"", timeout=PATIENCE), grpc.StatusCode.UNIMPLEMENTED)

# Ends that the client chooses, of which the server learns.
fails(lambda: unary("Never")(b"", timeout=0.3), grpc.StatusCode.DEADLINE_EXCEEDED)
messages = streamed("Stall")(b"first", timeout=PATIENCE)
assert next(messages) == b"first"
messages.cancel()
fails(lambda: next(messages), grpc.StatusCode.CANCELLED)
waiting = unary("Never").future(b"", timeout=PATIENCE)
waiting.cancel()
deadline = time.monotonic() + PATIENCE
while int(unary("Cancelled")(b"", timeout=PATIENCE)) < 2:
    assert time.monotonic() < deadline, "the server has not learnt of the cancelled calls"
    time.sleep(0.02)

channel.close()
print("fine")
