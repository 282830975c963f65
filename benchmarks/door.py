"""Completions and responses through OpenAI's API against the same turns by our own route, on one server, by CPU."""

import msgspec

from benchmarks import servers
from benchmarks.load import Report, Sender
from benchmarks.measuring import CLIENTS, Row, cost, cpu, interleaved
from benchmarks.servers import MESSAGE, User, running
from tests.support.postgres import Postgres

MODEL = "openai:benchmark"


def completion(user: User, *, manner: str = "", streamed: bool = False) -> Sender:
    """A user's completion: with a conversation as a turn of it, else without any."""
    message = {"role": "user", "content": f"{manner} {MESSAGE}".strip()}
    head = ["POST /v1/chat/completions HTTP/1.1", "Content-Type: application/json"]
    head += [f"{name}: {value}" for name, value in user.authorization.items()]
    if user.conversation_id is not None:
        head.append(f"X-Conversation-Id: conv_{user.conversation_id}")
    return Sender(
        head="\r\n".join(head),
        body=msgspec.json.encode({"model": MODEL, "messages": [message], "stream": streamed}).decode(),
        expects="[DONE]" if streamed else '"choices"',
    )


def response(user: User, *, manner: str = "", streamed: bool = False) -> Sender:
    """A user's response: in their conversation, if they have one, else in a new one."""
    head = ["POST /v1/responses HTTP/1.1", "Content-Type: application/json"]
    head += [f"{name}: {value}" for name, value in user.authorization.items()]
    body = {"model": MODEL, "input": f"{manner} {MESSAGE}".strip(), "stream": streamed}
    if user.conversation_id is not None:
        body["conversation"] = f"conv_{user.conversation_id}"
    return Sender(
        head="\r\n".join(head),
        body=msgspec.json.encode(body).decode(),
        expects="response.completed" if streamed else '"output"',
    )


def scenario(postgres: Postgres) -> list[Row]:
    """CPU of a completion and of a response, of that of a turn: in a conversation and without, and streamed; 32 callers."""
    with (
        running(servers.the_model()) as (model,),
        running(servers.chatapi(postgres, model=model)) as (server,),
    ):
        new = [User(f"new-{number}") for number in range(CLIENTS)]
        begun = [User(f"begun-{number}").begin(server) for number in range(CLIENTS)]
        pairs = {
            "a completion, nothing stored": (
                [user.turn(expects='"response"') for user in new],
                [completion(user) for user in new],
            ),
            "a completion as a turn of a conversation": (
                [user.turn(expects='"response"') for user in begun],
                [completion(user) for user in begun],
            ),
            "a completion, nothing stored, 40 tokens streamed": (
                [user.turn(manner="forty", streamed=True, expects='"type":"finish"') for user in new],
                [completion(user, manner="forty", streamed=True) for user in new],
            ),
            "a response": (
                [user.turn(expects='"response"') for user in new],
                [response(user) for user in new],
            ),
            "a response in a conversation": (
                [user.turn(expects='"response"') for user in begun],
                [response(user) for user in begun],
            ),
            "a response, 40 tokens streamed": (
                [user.turn(manner="forty", streamed=True, expects='"type":"finish"') for user in new],
                [response(user, manner="forty", streamed=True) for user in new],
            ),
        }
        found = interleaved([(server, senders) for pair in pairs.values() for senders in pair])
    rows = []
    for what, native, door in zip(pairs, found[::2], found[1::2], strict=True):
        rows.append(row_of(what, native, door))
    return rows


def row_of(what: str, native: list[Report], door: list[Report]) -> Row:
    ratio = cost(door, native)
    return Row(
        f"CPU of {what}, of a turn by our own route",
        f"{ratio:.2f} x ({cpu(door) * 1000:.2f} ms, {cpu(native) * 1000:.2f} ms)",
        "≤ 1.1",
        ratio <= 1.1,
    )
