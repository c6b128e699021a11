"""`make bench`: what a judgement costs, beside the least that it could cost and beside peers."""
