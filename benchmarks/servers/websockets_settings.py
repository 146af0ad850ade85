"""The compression settings of websockets in all benchmarks."""

from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

COMPRESSED = [
    ServerPerMessageDeflateFactory(
        server_no_context_takeover=True,
        client_no_context_takeover=True,
        compress_settings={"level": 1, "memLevel": 8},
    )
]
