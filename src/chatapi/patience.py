"""The time-outs, pauses and periods that tests set otherwise than production does."""

from msgspec import Struct


class Patience(Struct, frozen=True, kw_only=True):
    """Time-outs, pauses and periods, in seconds. The defaults are production's.

    A time that no test changes is a constant beside its use. A time that an operator may change is in `Settings`.
    """

    # The database.
    database_connect: float = 10.0  # Neon wakes a sleeping database in a few seconds
    # The same for each of several hosts. They do not sleep, and a probe must get past one that swallows everything.
    database_host: float = 2.0
    database_statement: float = 5.0  # all our statements are short: a longer one has lost its database
    # The wait for a connection of the pool. A burst had better wait than be refused; the breaker sees a dead database.
    database_pool: int = 15
    database_locked: float = 5.0  # how long another process may write to a SQLite file
    search: float = 2.0  # of a search, which reads all that its user has said
    database_probe: float = 5.0  # how long the breaker waits for an answer; Neon takes a few seconds to wake
    database_probe_pause: float = 0.25  # between two probes of a database that is away
    schema_mending: float = 60.0  # between two tries to migrate, where an operator has to do something first

    # A turn.
    # The period of the look for cancels from other processes, with which new text for readers there is written. It takes a
    # process one statement, however many turns it runs.
    watch: float = 0.5
    # Text is written every 0.5 s, so other processes see it within 0.75 s; a turn's first text within a second, because
    # nothing is written in a turn's first quarter of a second.
    poll: float = 0.25
    settle: float = 1.0  # between tries to write a turn's end while the database is away
    # A turn first renews a lease that is older than this, half of the lease, so that a late heartbeat costs no turn.
    lease_renewal: float = 6.0
    expiry: float = 60.0  # how often turns that have waited for too long are looked for while turns run
    queue: float = 4.0  # how often a process that has seen something queued looks whether nobody begins it
    stream_heartbeat: float = 15.0  # proxies close a stream that is silent for long, most of them after 60 s

    title: float = 20.0  # how long a model may take for a title
    titles: float = 30.0  # between two looks for titles that other processes have left
    summary: float = 90.0  # how long a model may take for a summary, which nobody waits for
    summaries: float = 30.0  # between two looks for summaries, likewise

    # The end of a process, for which an orchestrator gives 30 s.
    drain: float = 15.0  # for turns under way at SIGTERM
    grace: int = 20  # for requests under way at SIGTERM; Uvicorn takes whole seconds
    traces: float = 3.0  # to send the last traces

    # The period of the look for files that nobody wants any more, which takes a process one statement.
    files_sweep: float = 3_600.0

    # Clients.
    # How long a connection stays open after its refusal. Closed while the client still sends, the connection would be
    # reset and the answer lost (RFC 9112, section 9.6).
    client_linger: float = 1.0
    client_stall: float = 30.0  # a client that does not take 48 KiB of its answer in this time is dropped
    # At the end, a request may still be on its way on a connection that was just opened. It arrives within this time.
    client_opening: float = 0.5

    # Tokens.
    token_leeway: float = 30.0  # clocks of two machines differ by less
    keys_fetch: float = 3.0  # the whole fetch, so that a server that drips its answer is cut off, too

    # Redis. It answers in a millisecond, but a busy event loop may see the answer later.
    redis: float = 1.0

    # Models.
    # Before the second pass over the list of models, doubled before the third.
    model_pause: float = 0.25
    # If a provider asks for a longer pause, we do not wait: the client is told the time.
    model_longest_pause: float = 2.0

    # MCP servers.
    mcp_start: float = 5.0  # how long a start waits for servers; slower ones are connected later
    mcp_connect: float = 15.0  # a server in a package that is fetched first needs a while
    mcp_call: float = 30.0  # half of an answer's default time
    mcp_probe: float = 30.0  # how soon we notice that a server is silent or has other tools
    mcp_retry: float = 1.0  # the first pause before another try, doubled up to the longest
    mcp_longest_retry: float = 30.0

    # `chatapi check-config --connect`: a database that sleeps takes a few seconds to wake.
    check: float = 15.0
