"""What the device, the edge and the coordinator share: the core, the wire and the emulated link."""

import os
import sys

__version__ = "0.1.0"

GRPC_CAME_FIRST = "grpc" in sys.modules
"""Whether what stands below came too late: grpc reads its environment once, when it is first imported."""

ONLY_TLS_1_3 = "ECDHE-PSK-AES128-CBC-SHA"
"""For ``GRPC_SSL_CIPHER_SUITES``, which names suites of TLS 1.2: one that needs a key shared beforehand, which nobody
has. TLS 1.2 then finds no suite that both ends know, and those of TLS 1.3 are not touched; grpc has no other way."""

os.environ.setdefault("GRPC_SSL_CIPHER_SUITES", ONLY_TLS_1_3)
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # what strangers do at the door fills no log
