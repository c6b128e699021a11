"""A policy that learns to read digits by PPO from a critic's rewards: `python -m examples.ppo`.

Needs the packages of `pip install adjudge[server]`, and matplotlib for the plot. docs/ppo.md shows
what comes out.
"""
