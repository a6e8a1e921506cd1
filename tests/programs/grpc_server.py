"""A gRPC server by grpcio: the calls of `t.Echo`, whose messages are plain bytes.

Called as `grpc_server.py [KEY CERT]`, the latter for TLS; prints its port, and serves until its standard input ends. Prints `missing`
with a reason where grpcio is not installed.
"""

import sys
import threading
from concurrent import futures

try:
    import grpc
except ImportError as error:
    print(f"missing {error}")
    sys.exit(0)

cancelled = 0
lock = threading.Lock()


def wait_for_the_end(context):
    """Returns when the call is over on the other side, and counts it."""
    global cancelled
    over = threading.Event()
    if context.add_callback(over.set):
        over.wait()
    with lock:
        cancelled += 1


def unary(request, context):
    fields = dict(context.invocation_metadata())
    if "x-kind" in fields:
        context.send_initial_metadata((("x-kind", fields["x-kind"]),))
    if "x-bytes-bin" in fields:
        context.set_trailing_metadata((("x-bytes-bin", fields["x-bytes-bin"]),))
    return request


def fail(request, context):
    context.set_trailing_metadata((("x-why", "because"),))
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: 100%")


def never(request, context):
    wait_for_the_end(context)
    return b""


def repeat(request, context):
    for _ in range(10):
        yield request


def broken(request, context):
    for _ in range(3):
        yield request
    context.abort(grpc.StatusCode.DATA_LOSS, "lost")


def stall(request, context):
    yield request
    wait_for_the_end(context)


def count(requests, context):
    lengths = [len(request) for request in requests]
    return f"{len(lengths)} {sum(lengths)}".encode()


def chat(requests, context):
    yield from requests


def cancelled_calls(request, context):
    return str(cancelled).encode()


handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Never": grpc.unary_unary_rpc_method_handler(never),
    "Cancelled": grpc.unary_unary_rpc_method_handler(cancelled_calls),
    "Repeat": grpc.unary_stream_rpc_method_handler(repeat),
    "Broken": grpc.unary_stream_rpc_method_handler(broken),
    "Stall": grpc.unary_stream_rpc_method_handler(stall),
    "Count": grpc.stream_unary_rpc_method_handler(count),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
}
server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.Echo", handlers),))
if len(sys.argv) > 2:
    key, cert = (open(path, "rb").read() for path in sys.argv[1:3])
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, cert)]))
else:
    port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
sys.stdin.read()
server.stop(None)
