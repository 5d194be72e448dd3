from hypothesis import given
from hypothesis import strategies as st

from agentstream.stream.text import TextNormalizer, normalized, well_formed

# Any code point, surrogates included, with those that depend on their neighbours often.
texts = st.text(st.one_of(st.sampled_from("\r\n\ud83d\ude00a"), st.characters(exclude_categories=[])))


@given(st.lists(texts))
def test_every_split_of_a_text_reads_the_same(chunks: list[str]) -> None:
    normalizer = TextNormalizer()

    text = "".join(normalizer.feed(chunk) for chunk in chunks) + normalizer.feed("", last=True)

    assert text == normalized("".join(chunks))


@given(texts)
def test_normalized_text_has_only_lf_and_a_utf_8_encoding(text: str) -> None:
    assert normalized(text) == well_formed(text).replace("\r\n", "\n").replace("\r", "\n")
    assert normalized(text).encode().decode() == normalized(text)


def test_an_astral_character_split_over_two_chunks_arrives_whole() -> None:
    normalizer = TextNormalizer()

    assert [normalizer.feed("a\ud83d"), normalizer.feed("\ude00b")] == ["a", "😀b"]


def test_a_crlf_split_over_two_chunks_is_one_line_break() -> None:
    normalizer = TextNormalizer()

    assert [normalizer.feed("a\r"), normalizer.feed("\nb")] == ["a", "\nb"]


def test_half_a_character_at_the_end_is_replaced() -> None:
    normalizer = TextNormalizer()

    assert [normalizer.feed("a\ud83d"), normalizer.feed("", last=True)] == ["a", "\ufffd"]
