"""Certificates for brokers with TLS."""

from __future__ import annotations

from pathlib import Path

import trustme


class Certificates:
    """An authority, and its certificate for 127.0.0.1 or other names."""

    def __init__(self, folder: Path, *names: str) -> None:
        authority = trustme.CA()
        mine = authority.issue_cert(*names or ("127.0.0.1", "localhost"))
        self.authority = folder / "ca.pem"
        self.certificate = folder / "certificate.pem"
        self.key = folder / "key.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        mine.cert_chain_pems[0].write_to_path(str(self.certificate))
        mine.private_key_pem.write_to_path(str(self.key))
