"""One client and several servers: rewards while servers are killed, and how caches are hit."""
