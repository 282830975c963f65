"""The four wire formats of model providers, with our own clients; docs/adr (own wire) says why.

`formats` defines what a format is. Each has its module: `chat_completions`, `responses`, `gemini`, `anthropic`.
`sse` splits event streams, `speech` cleans a model's text, `trouble` lists what can go wrong, and `http` alone sends
requests.
"""
