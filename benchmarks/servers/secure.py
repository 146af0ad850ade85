"""The TLS context of the servers: that of the certificate in CERTIFICATE, None without one."""

import os
import ssl


def context():
    path = os.environ.get("CERTIFICATE")
    if path is None:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(path)
    return made
