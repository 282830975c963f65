"""The four wire formats of model providers, spoken by clients of our own: why, in docs/adr (own wire).

`formats` says what a format is. A module for each: `chat_completions`, `responses`, `gemini`, `anthropic`.
`sse` splits event streams, `speech` cleans what a model says, `trouble` says what can go wrong, and `http` is the one
place that sends a request.
"""
