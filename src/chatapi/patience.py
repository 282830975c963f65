"""How long the service waits, pauses and leaves alone, where a test wants it otherwise than production does."""

from msgspec import Struct


class Patience(Struct, frozen=True, kw_only=True):
    """Time-outs, pauses and periods, in seconds. The defaults are production's.

    A time that no test changes is a constant beside its use. What an operator may want otherwise is in `Settings`.
    """

    # The database.
    database_connect: float = 10.0  # Neon wakes a sleeping database in a few seconds
    database_statement: float = 5.0  # no statement of ours is long; one that is has lost its database
    # For a connection of the pool: a burst is better kept waiting than refused, and a dead database is the breaker's.
    database_pool: int = 15
    database_locked: float = 5.0  # how long another process may write to a SQLite file
    database_probe: float = 5.0  # how long the breaker waits for an answer; Neon takes a few seconds to wake
    database_probe_pause: float = 0.25  # between two probes of a database that is away

    # A turn.
    # How soon a cancel from another process is noticed, and how often what was said is written for readers elsewhere: a
    # statement or two a process, whatever it runs.
    watch: float = 0.5
    poll: float = 0.25  # what is said is written every 0.5 s, so it is seen elsewhere within 0.75 s
    settle: float = 1.0  # between tries to write a turn's end while the database is away
    # A turn begins by renewing a lease that is older than this: half of the lease, so that a late heartbeat costs no turn.
    lease_renewal: float = 6.0
    stream_heartbeat: float = 15.0  # proxies end what is silent for longer, as a rule after 60 s

    # The end of a process, for which an orchestrator gives 30 s.
    drain: float = 15.0  # for turns under way at SIGTERM
    grace: int = 20  # for requests under way at SIGTERM; Uvicorn takes whole seconds
    traces: float = 3.0  # to send the last traces

    # Clients.
    # How long a connection stays open after its refusal. Closed while the client still sends, the connection would be
    # reset and the answer lost (RFC 9112, section 9.6).
    client_linger: float = 1.0
    client_stall: float = 30.0  # a client that does not take 48 KiB of its answer in this time is dropped
    # At the end, a connection without a request may have been opened for one that is on its way; it is here by then.
    client_opening: float = 0.5

    # Tokens.
    token_leeway: float = 30.0  # clocks of two machines differ by less
    keys_fetch: float = 3.0  # all of it: a server that drips its answer is cut off, too

    # Redis. One that is well answers in a millisecond, but the wait for a turn in a busy event loop counts, too.
    redis: float = 1.0

    # Models.
    model_pause: float = (
        0.25  # before the list of models is gone through a second time, doubled before the third
    )
    # A provider that wants more is not waited for: the client is told how long it takes.
    model_longest_pause: float = 2.0

    # MCP servers.
    mcp_start: float = 5.0  # how long a start waits for servers; those that take longer come later
    mcp_connect: float = 15.0  # a server in a package that is fetched first needs a while
    mcp_call: float = 30.0  # half of an answer's default time
    mcp_probe: float = 30.0  # how soon a server that fell silent, or that has other tools now, is noticed
    mcp_retry: float = 1.0  # the first pause before another try, doubled up to the longest
    mcp_longest_retry: float = 30.0

    # `chatapi check-config --connect`: a database that sleeps takes a few seconds to wake.
    check: float = 15.0
