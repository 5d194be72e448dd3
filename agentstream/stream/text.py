"""The text of a stream: normalized before it is stored, so that any split of a text into chunks reads the same."""

import codecs
import io


class TextNormalizer:
    """Normalizes a text that arrives in chunks.

    Line breaks become LF, the only one Server-Sent Events can carry (WHATWG HTML, section 9.2.6), and UTF-16
    surrogates, which some models' JSON splits over two chunks, become the character they stand for, or U+FFFD
    where the other half never comes. What can only be judged with the next chunk is held back until then.
    """

    def __init__(self) -> None:
        utf16 = codecs.getincrementaldecoder("utf-16-le")("replace")
        self._decoder = io.IncrementalNewlineDecoder(utf16, translate=True)

    def feed(self, chunk: str, *, last: bool = False) -> str:
        """Return what is certain of the text so far and was not returned before; all of it with ``last``."""
        return self._decoder.decode(chunk.encode("utf-16-le", "surrogatepass"), final=last)


def normalized(text: str) -> str:
    """Return the whole text as a ``TextNormalizer`` gives it, however it is split."""
    return TextNormalizer().feed(text, last=True)


def well_formed(text: str) -> str:
    """Return the text with lone surrogates replaced by U+FFFD, so that it has a UTF-8 encoding."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
