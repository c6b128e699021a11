"""What an operator sees of a server: metrics, logs, traces, and the audit. No request body is ever
in the first three; the audit holds digests."""
