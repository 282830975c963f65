"""chatapi: the back end between a chat front end, its users' sign-in, a database and a language model."""

from importlib.metadata import version

__version__ = version("chatapi")
