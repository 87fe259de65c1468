"""A server of gRPC, as a process of its own. Needs grpcio.

    python3 -m drills.grpc_pod PORT

It sends back what it gets: `/drill.Echo/Unary` one message, `/drill.Echo/Both` every message of a
stream as it comes.
"""

import sys
import threading
from concurrent import futures

import grpc


class Echo(grpc.GenericRpcHandler):
    """Messages are bytes: nothing is generated."""

    def service(self, details):
        if details.method == "/drill.Echo/Unary":
            return grpc.unary_unary_rpc_method_handler(lambda message, _: message)
        if details.method == "/drill.Echo/Both":
            return grpc.stream_stream_rpc_method_handler(lambda messages, _: messages)
        return None


def main(port):
    server = grpc.server(futures.ThreadPoolExecutor(64), handlers=(Echo(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]))
