"""Publishes and consumes with plain messages, through code generated from proto/quorate/v1 alone.

usage: client.py DIRECTORY-OF-GENERATED-CODE HOST:PORT QUEUE
"""

import os
import queue
import struct
import sys

sys.path.insert(0, sys.argv[1])

import grpc
from quorate.v1 import consumer_pb2, consumer_pb2_grpc, queue_pb2, queue_pb2_grpc

MESSAGES = 100
LIMIT_S = 30


def publish(channel, name):
    """Publishes one by one; each enters once, however often it is sent."""
    service = queue_pb2_grpc.QueueServiceStub(channel)
    producer = queue_pb2.Producer(id="python-" + os.urandom(8).hex())
    for number in range(MESSAGES):
        header = queue_pb2.Header(key="number", value=str(number).encode())
        message = queue_pb2.Message(body=b"message %d" % number, headers=[header])
        request = queue_pb2.PublishRequest(
            queue=name, messages=[message], producer=producer, sequence=number
        )
        receipt = service.Publish(request, timeout=LIMIT_S).receipt
        assert (receipt.first_offset, receipt.count, receipt.duplicate) == (number, 1, False), receipt
    again = service.Publish(request, timeout=LIMIT_S).receipt
    assert (again.first_offset, again.duplicate) == (MESSAGES - 1, True), again


def refusal(channel):
    """A refusal is a gRPC status with details, readable without knowing them."""
    service = queue_pb2_grpc.QueueServiceStub(channel)
    request = queue_pb2.PublishRequest(queue="nowhere", messages=[queue_pb2.Message(body=b"x")])
    try:
        service.Publish(request, timeout=LIMIT_S)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        assert b"QUEUE_NOT_FOUND" in details, details
        return
    raise AssertionError("a publish to a queue that does not exist was accepted")


def bodies(frame):
    """Frame layout 1: u32 length | u16 headers | (u16 key | key | u32 value | value)* | body."""
    assert frame.layout == 1
    data, at, found = frame.messages, 0, []
    while at < len(data):
        length, headers = struct.unpack_from("<IH", data, at)
        end, at, pairs = at + 4 + length, at + 6, {}
        for _ in range(headers):
            (size,) = struct.unpack_from("<H", data, at)
            key, at = data[at + 2 : at + 2 + size].decode(), at + 2 + size
            (size,) = struct.unpack_from("<I", data, at)
            pairs[key], at = data[at + 4 : at + 4 + size], at + 4 + size
        found.append((data[at:end], pairs))
        at = end
    assert len(found) == frame.count
    return found


def consume(channel, name):
    """Takes and acks everything, with a few messages in hand at a time."""
    requests = queue.Queue()
    attach = consumer_pb2.Attach(queue=name, session=os.urandom(16), name="python", prefetch=10)
    requests.put(consumer_pb2.ConsumeRequest(attach=attach))
    service = consumer_pb2_grpc.ConsumerServiceStub(channel)
    answers = service.Consume(iter(requests.get, None), timeout=LIMIT_S)
    delivered, settled, settles = 0, 0, {}
    for answer in answers:
        kind = answer.WhichOneof("response")
        if kind == "delivery":
            delivery = answer.delivery
            for body, headers in bodies(delivery.frame):
                assert body == b"message %d" % delivered, body
                assert headers == {"number": str(delivered).encode()}, headers
                delivered += 1
            item = consumer_pb2.SettleItem(
                kind=consumer_pb2.SETTLE_KIND_ACK,
                token=delivery.token,
                first_offset=delivery.first_offset,
                count=delivery.frame.count,
            )
            settle = consumer_pb2.Settle(id=len(settles) + 1, items=[item])
            settles[settle.id] = delivery.frame.count
            requests.put(consumer_pb2.ConsumeRequest(settle=settle))
        elif kind == "settled":
            assert not answer.settled.lost and not answer.settled.HasField("failure"), answer
            settled += settles[answer.settled.id]
            if settled == MESSAGES:
                requests.put(consumer_pb2.ConsumeRequest(detach=consumer_pb2.Detach()))
                requests.put(None)
    assert (delivered, settled) == (MESSAGES, MESSAGES), (delivered, settled)


def main():
    with grpc.insecure_channel(sys.argv[2]) as channel:
        publish(channel, sys.argv[3])
        refusal(channel)
        consume(channel, sys.argv[3])
    print(f"{MESSAGES} published, delivered and acked")


if __name__ == "__main__":
    main()
