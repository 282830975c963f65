"""The conversation in the terminal: one message after the other, and commands that begin with a slash."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import split
from typing import Any, TypeAlias

import click
from rich.console import Console

from chatapi.terminal.client import Chunk, Conversation, Refused, Service, Unreachable, upload
from chatapi.terminal.printing import Printer, as_json, call_line, cleaned, printer, shortened, tell

PROMPT = "> "
ANSWERED, FAILED, NOT_REACHED, INTERRUPTED = 0, 1, 3, 130
NOBODY = "Nobody was there to be asked."
Read: TypeAlias = Callable[[str, str], str]
LAST = 6  # messages that are shown of a conversation that is opened


class Shell:
    """Sends messages and prints what comes of them."""

    def __init__(self, service: Service, conversation_id: int | None, read: Read | None) -> None:
        """`read` asks for a line, with a prompt and what is in it already; None if nobody is there."""
        self._service = service
        self._console = Console(markup=False, highlight=False)
        self._read = read
        self._conversation = Conversation(service, conversation_id)
        self._calls: dict[str, tuple[str, Any]] = {}
        self._files: list[int] = []
        self._prefill = ""
        self._replacing: dict[str, Any] | None = None  # the message that is written anew
        self._commands: dict[str, tuple[str, Callable[[str], None]]] = {
            "/new": ("begin another conversation", self._new),
            "/list": ("the newest conversations", self._list),
            "/open": ("NUMBER: go on with a conversation", self._open),
            "/search": ("WORDS: find messages", self._search),
            "/files": ("PATH …: send files with the next message; no PATH: none", self._attach),
            "/undo": ("change the last message", self._undo),
            "/retry": ("another answer to the last message", self._retry),
            "/usage": ("the tokens that were used", self._usage),
            "/help": ("these lines", self._help),
            "/quit": ("leave; Ctrl-D does, too", self._quit),
        }

    def say(self, message: str) -> int:
        """Send a message and print the answer; the exit code that it stands for."""
        files, self._files = self._files, []
        code = self._print(self._conversation.say(message, files))
        if files and self._was_refused:
            self._files = files
            self._console.print(
                "The files go with the next message; /files alone leaves them out.", style="dim"
            )
        return code

    def run(self, read: Read) -> int:
        """Read messages until the end."""
        self._help("")
        interrupted = False
        while True:
            begun, self._prefill = self._prefill, ""
            try:
                line = read(PROMPT, begun).strip()
                interrupted = False
                self._act(line)
            except EOFError:
                return ANSWERED
            except KeyboardInterrupt:
                if interrupted:
                    return INTERRUPTED
                interrupted = True
                self._replacing = None
                self._console.print("\n(Ctrl-C again, or /quit, to leave)", style="dim")

    def _act(self, line: str) -> None:
        """Do what a line says. Only the line right after /undo replaces a message: the prompt shows that message then."""
        replaced, self._replacing = self._replacing, None
        if line.startswith("/"):
            self._command(line)
        elif line and replaced is not None:
            files = [each["id"] for each in replaced["files"]]
            self._print(self._conversation.answer_again(replaced["turn_id"], line, files))
            if self._was_refused:
                self._prefill, self._replacing = line, replaced
        elif line:
            self.say(line)

    @property
    def _was_refused(self) -> bool:
        """Whether no turn came of what was sent last."""
        return self._conversation.turn_id is None

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name not in self._commands:
            self._console.print(f"There is no {name}; /help lists what there is.", style="dim")
            return
        try:
            self._commands[name][1](rest.strip())
        except (Refused, Unreachable) as error:
            self._trouble(error)

    def _print(self, chunks: Iterator[Chunk]) -> int:
        """Print a turn to its end, and ask for what it waits for."""
        out = printer(self._console)
        waits: list[Chunk] = []
        code = ANSWERED
        try:
            with at_ctrl_c(self._conversation.stop):
                for chunk in chunks:
                    match chunk["type"]:
                        case "text-delta":
                            out.text(chunk["delta"])
                        case "tool-approval-request":
                            waits.append(chunk)
                        case "abort":
                            out.note("Stopped.")
                            code = INTERRUPTED
                        case "error":
                            raise Refused({"detail": chunk["errorText"]})
                        case _:
                            self._note(chunk, out)
        except (Refused, Unreachable) as error:
            out.end()
            self._trouble(error)
            return FAILED if isinstance(error, Refused) else NOT_REACHED
        finally:
            out.end()
        if waits:
            return self._print(self._conversation.answer([self._ask(each) for each in waits]))
        return code

    def _note(self, chunk: Chunk, out: Printer) -> None:
        """A line for a call of a tool, once it is known what came of it."""
        match chunk["type"]:
            case "tool-input-available":
                self._calls[chunk["toolCallId"]] = (chunk["toolName"], chunk["input"])
            case "tool-output-available":
                out.note(self._call(chunk, shortened(chunk["output"])))
            case "tool-output-error":
                out.note(self._call(chunk, f"failed, {chunk['errorText']}"))
            case "tool-output-denied":
                out.note(self._call(chunk, "denied"))

    def _call(self, chunk: Chunk, outcome: str) -> str:
        name, arguments = self._calls.get(chunk["toolCallId"], ("a tool", None))
        return call_line(name, arguments, outcome)

    def _ask(self, request: Chunk) -> dict[str, Any]:
        """Ask whether a call may be made; what is no clear yes is a no."""
        name, arguments = self._calls[request["toolCallId"]]
        if self._read is None:
            return {"id": request["approvalId"], "approved": False, "reason": NOBODY}
        self._console.print(cleaned(f"{name.replace('_', ' ')}: {as_json(arguments)}"))
        approved = self._read("Approve? [y/N] ", "").strip().lower() in {"y", "yes"}
        return {"id": request["approvalId"], "approved": approved}

    def _trouble(self, error: Refused | Unreachable) -> None:
        Console(stderr=True, markup=False, highlight=False).print(cleaned(str(error)), style="red")

    def _new(self, _: str) -> None:
        self._conversation = Conversation(self._service)

    def _list(self, _: str) -> None:
        page = self._service.request("GET", self._service.mine("/conversations?limit=20"))
        if not page["items"]:
            self._console.print("No conversations yet.", style="dim")
        for each in reversed(page["items"]):
            self._console.print(f"{each['id']:>6}  {cleaned(each['title'] or '—')}")

    def _open(self, number: str) -> None:
        if not number.isdecimal():
            self._console.print("Say which: /open 7", style="dim")
            return
        turn_id: int | None = None
        for each in reversed(self._messages(int(number), LAST)):
            if each["status"] in {"running", "waiting"}:
                turn_id = each["turn_id"]
            if each["role"] == "user":
                self._console.print(f"{PROMPT}{cleaned(each['content'])}", style="dim")
            elif each["turn_id"] != turn_id:
                out = printer(self._console)
                out.text(each["content"])
                out.end()
        self._conversation = Conversation(self._service, int(number))
        if turn_id is not None:
            self._print(self._conversation.follow(turn_id))

    def _messages(self, conversation_id: int, limit: int) -> list[dict[str, Any]]:
        path = f"/conversations/{conversation_id}/messages?order=desc&limit={limit}"
        items: list[dict[str, Any]] = self._service.request("GET", self._service.mine(path))["items"]
        return items

    def _search(self, words: str) -> None:
        found = self._service.request("GET", self._service.mine("/search"), params={"q": words})
        if not found["items"]:
            self._console.print("Nothing found.", style="dim")
        for each in found["items"]:
            snippet = cleaned(each["snippet"]).translate({0xE000: None, 0xE001: None})
            self._console.print(f"{each['conversation_id']:>6}  {shortened(snippet)}")

    def _attach(self, paths: str) -> None:
        if not paths:
            self._files = []
            self._console.print("No file goes with the next message.", style="dim")
        for path in words_of(paths):
            try:
                stored = upload(self._service, Path(path).expanduser())
            except (OSError, RuntimeError) as error:  # RuntimeError: ~ names nobody
                self._console.print(f"{path}: {getattr(error, 'strerror', error)}", style="red")
                continue
            self._files.append(stored["id"])
            self._console.print(f"{cleaned(stored['name'])} goes with the next message.", style="dim")

    def _last_question(self) -> dict[str, Any] | None:
        conversation_id = self._conversation.conversation_id
        messages = [] if conversation_id is None else self._messages(conversation_id, 2)
        question = next((each for each in messages if each["role"] == "user"), None)
        if question is None:
            self._console.print("There is no message yet.", style="dim")
        return question

    def _undo(self, _: str) -> None:
        if (question := self._last_question()) is not None:
            self._prefill = question["content"]
            self._replacing = question

    def _retry(self, _: str) -> None:
        if (question := self._last_question()) is not None:
            self._print(self._conversation.answer_again(question["turn_id"]))

    def _usage(self, _: str) -> None:
        total = self._service.request("GET", self._service.mine("/usage"))["total"]
        cost = "" if total.get("cost") is None else f", ${total['cost']}"
        self._console.print(
            f"{total['turns']} turns, {total['input_tokens']} tokens read, {total['output_tokens']} written{cost}"
        )

    def _help(self, _: str) -> None:
        for name, (what, _act) in self._commands.items():
            self._console.print(f"  {name:<9}{what}", style="dim")

    def _quit(self, _: str) -> None:
        raise EOFError


def words_of(text: str) -> list[str]:
    """Words as a shell has them, with quotes around spaces; with a quote that nothing closes, those between spaces."""
    try:
        return split(text)
    except ValueError:
        return text.split()


@contextmanager
def at_ctrl_c(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C stops the turn, and the second raises `KeyboardInterrupt`."""

    def handle(_: int, __: object) -> None:
        signal.signal(signal.SIGINT, before)
        stop()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def once(shell: Shell, message: str) -> int:
    """One message, as a script sends it."""
    try:
        return shell.say(message)
    except KeyboardInterrupt:
        return INTERRUPTED


def answer_as_json(service: Service, conversation_id: int | None, message: str) -> int:
    """One message, with the service's own answer, or its problem document, on standard output."""
    body = {"message": message, "conversation_id": conversation_id}
    try:
        answer = service.request("POST", service.mine("/chat"), json=body, timeout=None)
        code = ANSWERED
    except Refused as error:
        answer, code = error.problem, FAILED
    except Unreachable as error:
        tell(str(error))
        return NOT_REACHED
    except KeyboardInterrupt:
        return INTERRUPTED
    click.echo(as_json(answer))
    return code
