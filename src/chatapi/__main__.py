"""`python -m chatapi` is `chatapi`."""

from chatapi.cli import main

main()
