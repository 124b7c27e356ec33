"""The wire: protobuf in, checked values out, and back; gRPC on both sides. The only user of the generated stubs."""
