"""From the bytes of one message to the value it carries, chosen by content and not by topic.

What a `RawMessage` may hold, in the order in which it is looked for:

1. **A bluesky document with its name beside it** (ZMQ, and tapes of it): the message has the
   header ``("document", name)``, name being ``b"start"``, ``b"descriptor"``, ``b"event"``,
   ``b"event_page"`` or ``b"stop"``, and ``value`` is the msgpack of the document alone. A ZMQ
   source splits bluesky's frame ``prefix SP name SP payload`` and puts name and payload there.
   Where pickle is switched on, it is the source that unpickles and packs the document again with
   `consumers.wire.msgpack_codec.pack`, so that neither a tape nor this module ever meets a pickle.
2. **An ESS flatbuffer**: bytes 4 to 8 are one of ``pl72 6s4t f144 ev44 da00 x5f2``
   (`consumers.wire.flatbuffers_codec`).
3. **A bluesky document as bluesky-kafka sends it**: msgpack of the pair ``[name, document]``
   (`consumers.wire.bluesky_documents`).

Everything else is refused: `WireError` is the only exception that leaves `decode`. Its text names
schema or document, field, value and expectation, and is what a dead letter carries as its reason.
"""

from __future__ import annotations

from consumers.wire.bluesky_documents import value_of_document
from consumers.wire.flatbuffers_codec import SCHEMAS, decode_flatbuffer
from consumers.wire.msgpack_codec import MAX_MESSAGE_BYTES, refuse_pickle, unpack
from consumers.wire.values import FAULT_HEADER, RawMessage, WireError, WireValue

DOCUMENT_HEADER = "document"


def decode(raw: RawMessage) -> WireValue:
    """Value that a message carries.

    Parameters
    ----------
    raw : RawMessage
        Only ``value`` and the headers ``document`` and ``FAULT_HEADER`` are looked at.

    Returns
    -------
    WireValue
        Arrays may be read-only views into ``raw.value``.

    Raises
    ------
    WireError
        If the bytes are none of the known kinds, or are damaged, implausible or too large, or the
        transport left them out.
    """
    value = raw.value
    for name, content in raw.headers:
        if name == FAULT_HEADER:
            raise WireError(content.decode("utf-8", "replace"))
    if len(value) > MAX_MESSAGE_BYTES:
        raise WireError(
            f"message: has {len(value)} bytes; expected at most {MAX_MESSAGE_BYTES}. "
            "Split it at the sender."
        )
    try:
        for name, content in raw.headers:
            if name == DOCUMENT_HEADER:
                return value_of_document(_document_name(content), unpack(value))
        if bytes(value[4:8]) in SCHEMAS:
            return decode_flatbuffer(value)
        if value[:1] == b"\x92":
            return value_of_document(*_pair(unpack(value)))
    except WireError:
        raise
    except Exception as error:
        # A hole in a codec must cost one message, not the run; its class tells it in the reason.
        raise WireError(f"message: {type(error).__name__}: {str(error)[:300]}") from error
    refuse_pickle(value)
    return decode_flatbuffer(value)  # which says what is wrong with it


def _document_name(content: bytes) -> str:
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        raise WireError(
            f"header {DOCUMENT_HEADER}: is {content[:40]!r}; expected the name of a document"
        ) from None


def _pair(content: object) -> tuple[str, object]:
    """Name and document of bluesky-kafka's message."""
    if not isinstance(content, list) or len(content) != 2 or not isinstance(content[0], str):
        raise WireError("msgpack: is no pair; expected [name, document] as bluesky-kafka sends it")
    return content[0], content[1]
