"""What the device, the edge and the coordinator share: the core, the wire and the emulated link."""

__version__ = "0.1.0"
