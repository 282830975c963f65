"""What can go wrong, by room. No framework here: `web/problems.py` makes RFC 9457 responses of these errors.

All rooms are imported here, so that the catalogue in `errors.base` is whole wherever one of them is used.
"""

from chatapi.errors import auth, base, database, domains, files, mcp, models, openai_api, requests, turns

__all__ = ["auth", "base", "database", "domains", "files", "mcp", "models", "openai_api", "requests", "turns"]
