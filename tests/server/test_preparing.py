"""What a prompt has in common with its head."""

from hypothesis import given
from hypothesis import strategies as st

from adjudge_server.critics.preparing import SEAM, common_prefix

TOKENS = st.lists(st.integers(0, 2), max_size=3 * SEAM)


@given(shared=TOKENS, head_only=TOKENS, own=TOKENS.filter(bool))
def test_the_common_prefix_is_all_that_is_equal_and_never_the_whole(
    shared: list[int], head_only: list[int], own: list[int]
) -> None:
    whole, head = [*shared, *own], [*shared, *head_only]
    if not head:
        return
    count = common_prefix(whole, head)
    assert whole[:count] == head[:count]
    shorter = min(len(whole), len(head))
    assert count == shorter - 1 or whole[count] != head[count]
