"""`adjudge-server verify`: is this checkpoint, on this machine, the critic it should be?

For whoever has the real weights: what was loaded, the well-known seven in both prompts with the
critic's own words, which verdict form the checkpoint speaks, whether the two readouts agree,
whether company changes anything, and how fast it is. One page of text, and the same as JSON.
"""
