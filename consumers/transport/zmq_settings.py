"""Settings of a ZMQ connection in an experiment file; keys lie in files or in the environment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from simulations.section import Section, Text, expected


class ZmqSection(Section):
    """Connection to a ZMQ socket, e.g. the output of a bluesky proxy."""

    address: Text = Field(description="tcp://HOST:PORT or ipc://PATH")
    pattern: Literal["sub", "pull"] = Field(
        default="sub", description="sub: subscribe to publishers; pull: take from pushers"
    )
    bind: bool = Field(default=False, description="true: wait for senders at the address")
    prefix: str = Field(default="", description="take only messages with bluesky's prefix")
    silence_s: float | None = Field(
        default=None,
        gt=0,
        description="without a message for so long the sender counts as lost (not ready): behind "
        "a proxy nothing else tells; absent: only a lost connection does",
    )
    allow_pickle: bool = Field(
        default=False,
        description="true: whoever can send to the address can run any code here; bluesky's "
        "Publisher pickles unless it is given another serializer",
    )
    allow_unencrypted: bool = Field(
        default=False, description="true: leave this machine without CURVE keys"
    )
    secret_certificate: Text | None = Field(
        default=None, description="file with our CURVE keys; else BEAMSTEER_ZMQ_* are looked at"
    )
    server_certificate: Text | None = Field(
        default=None, description="file with the server's public key, where we connect"
    )
    clients: Text | None = Field(
        default=None, description="folder of the public keys that may come, where we bind"
    )

    @model_validator(mode="after")
    def _keys(self) -> ZmqSection:
        if self.secret_certificate and not self.bind and not self.server_certificate:
            raise expected("server_certificate beside secret_certificate. Add it.")
        if (self.server_certificate or self.clients) and not self.secret_certificate:
            raise expected("secret_certificate beside the others' keys. Add it.")
        return self
