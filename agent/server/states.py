"""The states of a connection, and the transitions between them.

    IDLE <-> BUSY --> ENDED       the client sends no more, and still gets its responses
       \\      |      /
         --> CLOSING <            the final response is known, and follows those before it
                |
            LINGERING             it is sent, and what the client still sends is dropped
                |
             CLOSED               reached from every state

LINGERING is needed because closing a socket with unread bytes resets it, and the client would not
read the final response.
"""

from __future__ import annotations

import enum


class State(enum.Enum):
    """The state of a connection."""

    IDLE = "nothing is under way: no request, no response that the kernel did not take"
    BUSY = "requests or responses are under way"
    ENDED = "the client sends no more, and still gets its responses"
    CLOSING = "the final response is known, and follows those of earlier requests"
    LINGERING = "the final response is sent, and what the client sends is dropped"
    CLOSED = "closed"


class Signal(enum.Enum):
    """What changes the state of a connection."""

    WORK = "there is a request to carry out or a response to send"
    DONE = "everything is carried out and sent"
    END = "the client sends no more"
    FINAL = "there is a response after which the connection closes"
    FINAL_SENT = "that response is sent, or next to be sent"
    CLOSE = "the socket is closed"


TRANSITIONS = {
    (State.IDLE, Signal.WORK): State.BUSY,
    (State.IDLE, Signal.END): State.ENDED,
    (State.IDLE, Signal.FINAL): State.CLOSING,
    (State.IDLE, Signal.CLOSE): State.CLOSED,
    (State.BUSY, Signal.WORK): State.BUSY,
    (State.BUSY, Signal.DONE): State.IDLE,
    (State.BUSY, Signal.END): State.ENDED,
    (State.BUSY, Signal.FINAL): State.CLOSING,
    (State.BUSY, Signal.CLOSE): State.CLOSED,
    (State.ENDED, Signal.WORK): State.ENDED,
    (State.ENDED, Signal.FINAL): State.CLOSING,
    (State.ENDED, Signal.CLOSE): State.CLOSED,
    (State.CLOSING, Signal.WORK): State.CLOSING,
    (State.CLOSING, Signal.END): State.CLOSING,
    # Such as the limit of memory after a line that was too long: the later response is sent.
    (State.CLOSING, Signal.FINAL): State.CLOSING,
    (State.CLOSING, Signal.FINAL_SENT): State.LINGERING,
    (State.CLOSING, Signal.CLOSE): State.CLOSED,
    (State.LINGERING, Signal.WORK): State.LINGERING,
    (State.LINGERING, Signal.CLOSE): State.CLOSED,
}


def next_state(state: State, signal: Signal) -> State:
    """The state after a signal. Raises RuntimeError if it cannot occur in this state."""
    try:
        return TRANSITIONS[state, signal]
    except KeyError:
        raise RuntimeError(f"a connection that is {state.name} got {signal.name}") from None
