"""Drives a cluster as a Python program would; endpoints come as arguments. Prints one line at the end."""
import sys

import grpc
from hansard.v1 import channel_service_pb2, channel_service_pb2_grpc
from hansard.v1 import cluster_service_pb2, cluster_service_pb2_grpc
from hansard.v1 import common_pb2, content_pb2, event_service_pb2, event_service_pb2_grpc
from hansard.v1 import exchange_service_pb2, exchange_service_pb2_grpc
from hansard.v1 import message_service_pb2 as api
from hansard.v1 import message_service_pb2_grpc

CHANNEL = "python/höhe 🐍"
first, other = sys.argv[1], sys.argv[2]


def message(text, **fields):
    part = content_pb2.Part(text=content_pb2.TextPart(text=text))
    content = content_pb2.MessageContent(role=content_pb2.ROLE_USER, author="py", parts=[part])
    return api.NewMessage(message=content, **fields)


with grpc.insecure_channel(first) as one, grpc.insecure_channel(other) as two:
    messages = message_service_pb2_grpc.MessageServiceStub(one)
    elsewhere = message_service_pb2_grpc.MessageServiceStub(two)

    # An append, the same again by its key, and one that is refused as a whole.
    append = api.AppendMessagesRequest(
        channel=CHANNEL, messages=[message("one", key="k1"), message("zwei", key="k2", message_id="id-2")]
    )
    done = messages.AppendMessages(append, timeout=20)
    assert (done.first_seq, done.count, done.duplicate) == (1, 2, False), done
    again = elsewhere.AppendMessages(append, timeout=20)
    assert (again.first_seq, again.duplicate) == (1, True), again
    try:
        messages.AppendMessages(
            api.AppendMessagesRequest(
                channel=CHANNEL,
                condition=api.AppendCondition(expected_head_seq=7),
                messages=[message("never")],
            ),
            timeout=20,
        )
        raise AssertionError("the condition did not hold")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.ABORTED, error
        assert any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata())

    # Read from another node what was just written, by the commit token.
    page = elsewhere.ListMessages(
        api.ListMessagesRequest(
            channel=CHANNEL,
            read=common_pb2.ReadOptions(
                level=common_pb2.READ_LEVEL_SESSION, commit_tokens=[done.commit_token]
            ),
        ),
        timeout=20,
    )
    texts = [event.message.parts[0].text.text for event in page.events]
    assert texts == ["one", "zwei"] and [event.seq for event in page.events] == [1, 2], page
    got = elsewhere.GetMessage(api.GetMessageRequest(channel=CHANNEL, message_id="id-2"), timeout=20)
    assert got.event.seq == 2 and len(got.event.commitment) == 32, got
    info = channel_service_pb2_grpc.ChannelServiceStub(two).GetChannel(
        channel_service_pb2.GetChannelRequest(channel=CHANNEL), timeout=20
    )
    assert info.channel.head_seq == 2, info
    cluster = cluster_service_pb2_grpc.ClusterServiceStub(one).GetCluster(
        cluster_service_pb2.GetClusterRequest(), timeout=20
    )

    # Many calls in one frame.
    calls = [
        exchange_service_pb2.Call(
            id=i,
            method="hansard.v1.MessageService/AppendMessages",
            timeout_ms=20_000,
            request=api.AppendMessagesRequest(
                channel=CHANNEL, messages=[message(f"framed {i}")]
            ).SerializeToString(),
        )
        for i in range(1, 21)
    ]
    frames = exchange_service_pb2_grpc.ExchangeServiceStub(one).Exchange(
        iter([exchange_service_pb2.ExchangeRequest(calls=calls)]), timeout=30
    )
    seqs = {}
    for frame in frames:
        for answer in frame.answers:
            assert answer.code == 0, answer
            seqs[answer.id] = api.AppendMessagesResponse.FromString(answer.response).first_seq
    assert seqs == {i: i + 2 for i in range(1, 21)}, seqs

    # Follow from the start until the last of them.
    tailed = []
    # One request and no grants of credit behind it.
    request = event_service_pb2.TailChannelRequest(channel=CHANNEL, after_seq=0)
    stream = event_service_pb2_grpc.EventServiceStub(two).TailChannel(iter([request]), timeout=30)
    for item in stream:
        tailed.extend(event.seq for event in item.events.events)
        if len(tailed) == 22:
            break
    stream.cancel()
    assert tailed == list(range(1, 23)), tailed

print(f"{len(cluster.nodes)} nodes, {len(tailed)} events")
