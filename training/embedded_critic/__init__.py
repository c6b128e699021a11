"""Trains and measures the small critic that ships inside `adjudge_server`.

`python -m embedded_critic.train --out DIR` trains it from nothing; `python -m
embedded_critic.evaluate DIR` measures a checkpoint. Nothing here is imported by the server.
"""
