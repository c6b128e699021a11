"""Who may call: where the server listens, how connections are sealed, which tokens open what.

The rest of the server knows nothing of it: a call that reaches a handler is allowed.
"""
