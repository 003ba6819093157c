"""The messages and methods that a server of bundles speaks, made where they are imported.

`inference.GRPCInferenceService` is the Open Inference Protocol, version 2, as KServe and Triton
have it; `fedlite.Operation` is what labels, alarms and candidates need beside it. Both are written
below as a .proto file writes them. They are in a pool of their own, as a process that also holds
another library's copy of the protocol could not have both in one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

INFERENCE, OPERATION = "inference.GRPCInferenceService", "fedlite.Operation"

_INFERENCE = """
message ServerLiveRequest {}
message ServerLiveResponse { bool live = 1; }
message ServerReadyRequest {}
message ServerReadyResponse { bool ready = 1; }
message ModelReadyRequest { string name = 1; string version = 2; }
message ModelReadyResponse { bool ready = 1; }
message ServerMetadataRequest {}
message ServerMetadataResponse {
  string name = 1; string version = 2; repeated string extensions = 3; }
message ModelMetadataRequest { string name = 1; string version = 2; }
message ModelMetadataResponse.TensorMetadata {
  string name = 1; string datatype = 2; repeated int64 shape = 3; }
message ModelMetadataResponse {
  string name = 1; repeated string versions = 2; string platform = 3;
  repeated ModelMetadataResponse.TensorMetadata inputs = 4;
  repeated ModelMetadataResponse.TensorMetadata outputs = 5; }
message InferParameter {
  choice bool bool_param = 1; choice int64 int64_param = 2; choice string string_param = 3;
  choice double double_param = 4; choice uint64 uint64_param = 5; }
message InferTensorContents {
  repeated bool bool_contents = 1; repeated int32 int_contents = 2; repeated int64
  int64_contents = 3;
  repeated uint32 uint_contents = 4; repeated uint64 uint64_contents = 5;
  repeated float fp32_contents = 6; repeated double fp64_contents = 7; repeated bytes
  bytes_contents = 8; }
message ModelInferRequest.InferInputTensor {
  string name = 1; string datatype = 2; repeated int64 shape = 3;
  map InferParameter parameters = 4; InferTensorContents contents = 5; }
message ModelInferRequest.InferRequestedOutputTensor {
  string name = 1; map InferParameter parameters = 2; }
message ModelInferRequest {
  string model_name = 1; string model_version = 2; string id = 3; map InferParameter
  parameters = 4;
  repeated ModelInferRequest.InferInputTensor inputs = 5;
  repeated ModelInferRequest.InferRequestedOutputTensor outputs = 6; repeated bytes
  raw_input_contents = 7; }
message ModelInferResponse.InferOutputTensor {
  string name = 1; string datatype = 2; repeated int64 shape = 3;
  map InferParameter parameters = 4; InferTensorContents contents = 5; }
message ModelInferResponse {
  string model_name = 1; string model_version = 2; string id = 3; map InferParameter
  parameters = 4;
  repeated ModelInferResponse.InferOutputTensor outputs = 5; repeated bytes
  raw_output_contents = 6; }
"""
_OPERATION = """
message StatusRequest {}
message StatusResponse { string json = 1; }
message FeedbackRequest { string id = 1; repeated string labels = 2; }
message FeedbackResponse { uint32 taken = 1; }
message ResetRequest { string why = 1; }
message ResetResponse { string json = 1; }
message WithdrawRequest { string why = 1; }
message WithdrawResponse { string json = 1; }
message LogRequest { uint32 last = 1; }
message LogResponse { repeated string lines = 1; }
"""
_FIELD = descriptor_pb2.FieldDescriptorProto
_METHODS = {
    INFERENCE: tuple(
        "ServerLive ServerReady ModelReady ServerMetadata ModelMetadata ModelInfer".split()
    ),
    OPERATION: ("Status", "Feedback", "Reset", "Withdraw", "Log"),
}


def methods(service: str) -> tuple[str, ...]:
    """Return the names of a service's methods, each of one request and one response."""
    return _METHODS[service]


def _fields(body: str) -> Iterator[tuple[str, str, str, int]]:
    for one in re.findall(r"(?:(repeated|map|choice)\s+)?(\S+)\s+(\w+)\s+=\s+(\d+);", body):
        yield one[0], one[1], one[2], int(one[3])


def _add(message: Any, path: str, body: str) -> None:
    """Add the fields of `body` to a message; path: its full name, with a dot before it."""
    package = path.split(".")[1]
    for how, kind, name, number in _fields(body):
        field = message.field.add(name=name, number=number, label=_FIELD.LABEL_OPTIONAL)
        if how in ("repeated", "map"):
            field.label = _FIELD.LABEL_REPEATED
        if how == "choice":
            if not message.oneof_decl:
                message.oneof_decl.add(name="parameter_choice")
            field.oneof_index = 0
        scalar = getattr(_FIELD, f"TYPE_{kind.upper()}", None)
        if how == "map":
            # What a .proto file writes as map<string, KIND> is this pair.
            pair = message.nested_type.add(name=f"{name.title()}Entry")
            pair.options.map_entry = True
            _add(pair, f"{path}.{pair.name}", f"string key = 1; {kind} value = 2;")
            field.type, field.type_name = _FIELD.TYPE_MESSAGE, f"{path}.{pair.name}"
        elif scalar is not None:
            field.type = scalar
        else:
            field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{package}.{kind}"


def _file(name: str, text: str, service: str) -> descriptor_pb2.FileDescriptorProto:
    package, _, title = service.rpartition(".")
    file = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax="proto3")
    made: dict[str, Any] = {}
    bodies = dict(re.findall(r"message (\S+) \{(.*?)\}", text, re.S))
    # Outer messages first, as the inner ones are added to them.
    for full in sorted(bodies, key=lambda one: one.count(".")):
        outer, _, inner = full.rpartition(".")
        made[full] = (made[outer].nested_type if outer else file.message_type).add(name=inner)
        _add(made[full], f".{package}.{full}", bodies[full])
    told = file.service.add(name=title)
    for method in methods(service):
        request, response = f".{package}.{method}Request", f".{package}.{method}Response"
        told.method.add(name=method, input_type=request, output_type=response)
    return file


POOL = descriptor_pool.DescriptorPool()
POOL.Add(_file("open_inference_grpc.proto", _INFERENCE, INFERENCE))
POOL.Add(_file("fedlite_operation.proto", _OPERATION, OPERATION))


def message(name: str) -> Any:
    """Return the class of the message of a full name, such as `inference.ModelInferRequest`.

    >>> message("inference.ServerLiveResponse")(live=True).SerializeToString()
    b'\\x08\\x01'
    """
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))


def classes(service: str) -> Mapping[str, tuple[Any, Any]]:
    """Return the request and the response of each method of a service."""
    package = service.rpartition(".")[0]
    return {
        name: (message(f"{package}.{name}Request"), message(f"{package}.{name}Response"))
        for name in methods(service)
    }
