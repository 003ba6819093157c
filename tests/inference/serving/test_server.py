"""A server against clients of others, and against whoever means it ill.

Covers fedlite/inference/serving/service.py, fedlite/inference/serving/asking.py,
fedlite/inference/serving/refused.py, fedlite/inference/serving/figures.py,
fedlite/commands/serve.py.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from fedlite.data import load as load_data
from fedlite.inference.bundle import Bundle, load
from fedlite.inference.serving import asking, protocol
from fedlite.inference.serving.batcher import Limits
from fedlite.inference.serving.doors import Door
from fedlite.inference.serving.versions import Mix
from tests.inference.forged import signed_anew
from tests.inference.serving.conftest import Live, asked

DIGITS = load_data("digits").test
assert DIGITS is not None
X = DIGITS.x
FEDLITE = Path(sys.executable).parent / "fedlite"
Start = Callable[..., Live]


def refusal(live: Live, request: Any, method: str = "ModelInfer", **how: Any) -> tuple[str, str]:
    """Return the code and the text by which a request is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        live.ask(method, request, **how)
    return caught.value.code().name, caught.value.details()  # type: ignore[attr-defined]


def test_another_client_gets_what_the_bundle_itself_answers(start: Start, bundle: Bundle) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    live = start(bundle)
    client = triton.InferenceServerClient(live.address)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("routed")
    told = client.get_model_metadata("routed")
    assert list(told.inputs[0].shape) == [-1, 1, 8, 8] and told.inputs[0].datatype == "FP32"
    given = triton.InferInput("x", list(X.shape), "FP32")
    given.set_data_from_numpy(X)
    found, wanted = client.infer("routed", [given]), bundle.predict(X)
    assert 0 < wanted.early.sum() < len(X)
    assert [one.decode() for one in found.as_numpy("label")] == list(wanted.labels)
    np.testing.assert_array_equal(found.as_numpy("probabilities"), wanted.shares)
    np.testing.assert_array_equal(found.as_numpy("early"), wanted.early)
    np.testing.assert_array_equal(found.as_numpy("score"), wanted.scores)
    some = client.infer("routed", [given], outputs=[triton.InferRequestedOutput("class")])
    assert [one.name for one in some.get_response().outputs] == ["class"]
    np.testing.assert_array_equal(some.as_numpy("class"), wanted.classes)


def test_typed_contents_get_the_same_answers_the_same_way(start: Start, bundle: Bundle) -> None:
    live, x = start(bundle), X[:5]
    request = protocol.message("inference.ModelInferRequest")(model_name="routed", id="mine")
    tensor = request.inputs.add(name="x", datatype="FP64", shape=x.shape)
    tensor.contents.fp64_contents.extend(x.astype(np.float64).ravel().tolist())
    found, wanted = live.ask("ModelInfer", request), bundle.predict(x)
    assert found.id == "mine" and not found.raw_output_contents
    by_name = {one.name: one.contents for one in found.outputs}
    assert [one.decode() for one in by_name["label"].bytes_contents] == list(wanted.labels)
    assert list(by_name["probabilities"].fp64_contents) == wanted.shares.ravel().tolist()
    assert list(by_name["early"].bool_contents) == wanted.early.tolist()


def test_requests_that_go_together_get_their_own_answers(start: Start, bundle: Bundle) -> None:
    live = start(bundle, limits=Limits(batch=64, wait=0.05))
    sizes = [1, 3, 1, 7, 2, 1, 5]
    with grpc.insecure_channel(live.address) as channel:
        call = channel.unary_unary(
            f"/{protocol.INFERENCE}/ModelInfer",
            lambda one: one.SerializeToString(),
            protocol.message("inference.ModelInferResponse").FromString,
        )
        starts = np.cumsum([0, *sizes])
        parts = [X[a:b] for a, b in zip(starts, starts[1:], strict=False)]
        futures = [call.future(asked(part), timeout=20) for part in parts]
        found = [one.result() for one in futures]
    for part, one in zip(parts, found, strict=True):
        classes = np.frombuffer(one.raw_output_contents[1], "<i8")
        np.testing.assert_array_equal(classes, bundle.predict(part).classes)
    assert live.service.batcher.batches < len(sizes), "none went together"


def spoilt(**how: Any) -> Any:
    """Return a good request in which one thing is wrong."""
    request = asked(X[:2])
    tensor = request.inputs[0]
    for name, value in how.items():
        if name == "raw":
            del request.raw_input_contents[:]
            request.raw_input_contents.extend(value)
        elif name == "shape":
            del tensor.shape[:]
            tensor.shape.extend(value)
        elif name == "typed":
            tensor.contents.fp32_contents.extend(value)
        elif name == "output":
            for one in value:
                request.outputs.add(name=one)
        elif name == "twice":
            request.inputs.add().CopyFrom(tensor)
        elif name in ("datatype", "name"):
            setattr(tensor, name, value)
        else:
            setattr(request, name, value)
    return request


NAN = X[:2].copy()
NAN[1, 0, 3, 3] = np.nan


@pytest.mark.parametrize(
    ("how", "code", "text"),
    [
        ({"model_name": "other"}, "NOT_FOUND", "model: must be 'routed', got 'other'"),
        ({"model_version": "7"}, "NOT_FOUND", "model_version: must be empty or"),
        ({"name": "y"}, "INVALID_ARGUMENT", "inputs: must be one tensor called 'x', got 'y'"),
        ({"twice": True}, "INVALID_ARGUMENT", "inputs: must be one tensor"),
        ({"datatype": "FP31"}, "INVALID_ARGUMENT", "x: datatype must be FP32 or FP64"),
        ({"datatype": "BYTES"}, "INVALID_ARGUMENT", "x: datatype must be FP32 or FP64"),
        ({"datatype": "FP64"}, "INVALID_ARGUMENT", "must have 1024 bytes for FP64"),
        ({"datatype": "INT32"}, "INVALID_ARGUMENT", "must hold floating-point numbers"),
        ({"shape": []}, "INVALID_ARGUMENT", "x: must have the shape"),
        ({"shape": [2, 64]}, "INVALID_ARGUMENT", "x: must have the shape [n, 1, 8, 8]"),
        ({"shape": [-1, 1, 8, 8]}, "INVALID_ARGUMENT", "n at least 1"),
        ({"shape": [0, 1, 8, 8]}, "INVALID_ARGUMENT", "n at least 1"),
        ({"shape": [2**62, 1, 8, 8]}, "INVALID_ARGUMENT", "at most 100 rows"),
        ({"shape": [101, 1, 8, 8]}, "INVALID_ARGUMENT", "x: must have at most 100 rows, got 101"),
        ({"shape": [3, 1, 8, 8]}, "INVALID_ARGUMENT", "x: must have 768 bytes"),
        ({"shape": [1] * 5000}, "INVALID_ARGUMENT", "and more"),
        ({"raw": []}, "INVALID_ARGUMENT", "it has nothing"),
        ({"raw": [b"", b""]}, "INVALID_ARGUMENT", "once; got both"),
        ({"typed": [1.0]}, "INVALID_ARGUMENT", "once; got both"),
        ({"raw": [], "typed": [1.0]}, "INVALID_ARGUMENT", "must have 128 numbers"),
        ({"raw": [NAN.tobytes()]}, "INVALID_ARGUMENT", "must be finite, and row 1 has NaN"),
        ({"output": ["nothing"]}, "INVALID_ARGUMENT", "outputs: must be among label"),
        ({"output": ["early", "early"]}, "INVALID_ARGUMENT", "outputs: must name each once"),
        ({"id": "i" * 129}, "INVALID_ARGUMENT", "id: must have at most 128"),
        ({"raw": [np.full(128, 1e38, "<f4").tobytes()]}, "INVALID_ARGUMENT", "is NaN"),
    ],
)
def test_what_is_no_request_is_refused_in_one_line(
    hosted: Live, how: dict[str, Any], code: str, text: str
) -> None:
    found = refusal(hosted, spoilt(**how))
    assert found[0] == code and text in found[1], found
    assert "\n" not in found[1] and "Traceback" not in found[1] and len(found[1]) < 500
    assert hosted.ask("ModelInfer", asked(X[:1])).id, "and the next is answered"


@pytest.fixture(scope="module")
def hosted(bundle: Bundle) -> Any:
    from tests.inference.serving.conftest import running

    with running(bundle, limits=Limits(request=100)) as live:
        yield live


def test_a_wrong_request_does_not_spoil_the_batch_it_would_be_in(
    start: Start, bundle: Bundle
) -> None:
    live = start(bundle, limits=Limits(wait=0.2))
    with grpc.insecure_channel(live.address) as channel:
        call = channel.unary_unary(
            f"/{protocol.INFERENCE}/ModelInfer",
            lambda one: one.SerializeToString(),
            protocol.message("inference.ModelInferResponse").FromString,
        )
        # Finite, so it is found out only when the model overflows, beside the other.
        wrong = call.future(asked(np.full_like(X[:1], 1e38)), timeout=20)
        right = call.future(asked(X[:1]), timeout=20)
        assert (
            np.frombuffer(right.result().raw_output_contents[1], "<i8")[0]
            == bundle.predict(X[:1]).classes[0]
        )
        assert wrong.exception().code() is grpc.StatusCode.INVALID_ARGUMENT
    assert live.service.batcher.batches == 1


def test_a_message_too_long_is_refused_before_it_is_read(hosted: Live, bundle: Bundle) -> None:
    long = asking.longest(bundle, 100)
    found = refusal(hosted, spoilt(raw=[bytes(long)]))
    assert found[0] == "RESOURCE_EXHAUSTED" and "larger than max" in found[1]


def test_bytes_that_are_no_message_end_one_call_alone(hosted: Live) -> None:
    with grpc.insecure_channel(hosted.address) as channel:
        call = channel.unary_unary(f"/{protocol.INFERENCE}/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff" * 100, timeout=20)
    assert "Traceback" not in caught.value.details()  # type: ignore[attr-defined]
    assert hosted.ask("ServerLive").live


def test_a_fault_of_the_server_is_told_to_its_operator_alone(
    start: Start, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = start(bundle)

    def broken(_: Any) -> Any:
        raise RuntimeError("secret")

    monkeypatch.setattr(live.service.batcher, "_run", broken)
    code, text = refusal(live, asked(X[:1]))
    assert code == "INTERNAL" and "secret" not in text and "its operator finds why" in text
    monkeypatch.undo()
    assert live.ask("ModelInfer", asked(X[:1])).outputs


def test_numbers_that_do_not_fit_their_type_are_refused(bundle: Bundle) -> None:
    from fedlite.inference.serving.refused import Refused

    request = protocol.message("inference.ModelInferRequest")(model_name="routed")
    tensor = request.inputs.add(name="x", datatype="INT8", shape=[1, 1, 8, 8])
    tensor.contents.int_contents.extend([300] * 64)
    with pytest.raises(Refused, match="must hold numbers that fit into INT8"):
        asking.read(request, bundle, 10)


def test_missing_values_are_filled_in_where_the_request_says_so(
    start: Start, made: Path, tmp_path: Path
) -> None:
    import json

    told = json.loads((made / "bundle.json").read_text())
    low, high = np.zeros((1, 8, 8)), np.ones((1, 8, 8))
    told |= {
        "preprocessing": {
            "kind": "ranges",
            "fills": True,
            "low": low.tolist(),
            "high": high.tolist(),
        }
    }
    signed_anew(made, tmp_path / "fills", bundle_json=json.dumps(told).encode())
    fills = load(tmp_path / "fills")
    live, request = start(fills), asked(NAN)
    code, text = refusal(live, request)
    assert code == "INVALID_ARGUMENT" and "the parameter missing = true fills in NaN" in text
    request.parameters["missing"].bool_param = True
    found = np.frombuffer(live.ask("ModelInfer", request).raw_output_contents[1], "<i8")
    np.testing.assert_array_equal(found, fills.predict(NAN, missing=True).classes)
    request.parameters["missing"].string_param = "yes"
    assert "parameters.missing: must be true or false" in refusal(live, request)[1]


def test_what_the_protocol_is_made_of_can_be_asked_for(start: Start, bundle: Bundle) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
        ProtoReflectionDescriptorDatabase,
    )

    live = start(bundle)
    with grpc.insecure_channel(live.address) as channel:
        found = ProtoReflectionDescriptorDatabase(channel)
        assert {protocol.INFERENCE, protocol.OPERATION} < set(found.get_services())
        file = found.FindFileContainingSymbol("inference.ModelInferRequest")
        assert [one.name for one in file.service] == ["GRPCInferenceService"]
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", protocol.INFERENCE):
            told = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert told.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.long
def test_the_command_serves_counts_and_leaves_in_order(made: Path, tmp_path: Path) -> None:
    from simulations.benchmarks.lab import free_port

    port = free_port()
    metrics = free_port()
    words = [FEDLITE, "serve", made, "--port", port, "--metrics", f"127.0.0.1:{metrics}"]
    process = subprocess.Popen(
        [*map(str, words), "--keep", str(tmp_path / "kept")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert f"127.0.0.1:{port}" in process.stdout.readline()
        live = Live(f"127.0.0.1:{port}", None, None)  # type: ignore[arg-type]
        assert live.ask("ModelInfer", asked(X[:3])).outputs
        read = urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics").read().decode()
        assert 'fedlite_requests_total{code="OK"} 1' in read
        assert "fedlite_seconds_count 1" in read and 'le="+Inf"} 1' in read
        # Whoever wants the same port does not silently share it.
        second = subprocess.run(
            [str(FEDLITE), "serve", str(made), "--port", str(port)], capture_output=True, text=True
        )
        assert second.returncode == 2 and "cannot be listened on" in second.stderr
        assert "Traceback" not in second.stderr
        again = [str(FEDLITE), "serve", str(made), "--port", "0", "--keep", str(tmp_path / "kept")]
        third = subprocess.run(again, capture_output=True, text=True)
        assert third.returncode == 2 and "is another server's" in third.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stdout.read().splitlines() == ["stopping", "stopped"]
    finally:
        process.kill()
        process.wait()


def test_what_is_under_way_is_answered_and_streams_do_not_hold_it_up(
    start: Start, bundle: Bundle
) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    live = start(bundle, limits=Limits(wait=0.5), drain=20.0)
    with grpc.insecure_channel(live.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        call = channel.unary_unary(f"/{protocol.INFERENCE}/ModelInfer")
        future = call.future(asked(X[:1]).SerializeToString(), timeout=20)
        while not live.service.under_way:
            time.sleep(0.01)
        began = time.monotonic()
        live.stop()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert future.result(), "it was under way"
        with pytest.raises(grpc.RpcError):
            next(watch)
        assert time.monotonic() - began < 10


def test_a_call_that_takes_too_long_does_not_hold_up_the_end(start: Start, bundle: Bundle) -> None:
    live = start(bundle, limits=Limits(wait=1.0), drain=0.1)
    with grpc.insecure_channel(live.address) as channel:
        call = channel.unary_unary(f"/{protocol.INFERENCE}/ModelInfer")
        future = call.future(asked(X[:1]).SerializeToString(), timeout=20)
        while not live.service.under_way:
            time.sleep(0.01)
        live.stop()
        assert future.exception().code().name in ("UNAVAILABLE", "CANCELLED")


@pytest.mark.parametrize(
    ("how", "rule"),
    [
        (["--host", "0.0.0.0"], "--host: must be of this machine alone"),
        (["--host", "example.org"], "--host: must be an IP address"),
        (["--port", "65536"], "--port: must be from 0 to 65535"),
        (["--tls-cert", "a.pem"], "--tls-key: must be given with --tls-cert"),
        (["--tls-cert", "a.pem", "--tls-key", "b.pem"], "must be a certificate and its key"),
        (["--tokens", "none.toml"], "no such file; make it with `fedlite operate token"),
        (["--share", "0.1"], "--candidate: must be given with --share"),
        (["--candidate", "BUNDLE"], "--share: must be above 0 with --candidate"),
        (["--candidate", "BUNDLE", "--share", "1.5"], "--share: must be from 0 to 1"),
        (["--candidate", "BUNDLE", "--shadow"], "must be another bundle than the one"),
        (["--queue-rows", "10"], "--queue-rows: must be at least --request-rows"),
        (["--wait-ms", "-1"], "--wait-ms: must be from 0 to 1000"),
        (["--batch-rows", "0"], "--batch-rows: must be from 1"),
        (["--cache", "-1"], "--cache: must be from 0"),
        (["--rate", "-1"], "--rate: must be from 0"),
        (["--drain", "-1"], "--drain: must be from 0"),
        (["--drift", "1"], "--drift: must be above 0 and below 1"),
        (["--watch", "2"], "--watch: must be from 0 to 1"),
        (["--metrics", "0.0.0.0:9"], "--metrics: must be of this machine alone"),
    ],
)
def test_options_that_cannot_be_are_refused(made: Path, how: list[str], rule: str) -> None:
    from typer.testing import CliRunner

    from fedlite.commands.main import app

    words = [str(made) if word == "BUNDLE" else word for word in how]
    done = CliRunner().invoke(app, ["serve", str(made), "--port", "0", *words])
    told = " ".join(done.output.split())
    assert done.exit_code == 2 and rule in told, told


def test_doors_of_others_need_both_or_a_word() -> None:
    with pytest.raises(ValueError, match="without --tokens"):
        Door("0.0.0.0", cert=Path("a"), key=Path("b"))
    with pytest.raises(ValueError, match="without --tls-cert and --tls-key"):
        Door("::", tokens=Path("a"))
    assert Door("::", 7, anywhere=True).address == "[::]:7"
    assert Mix().share == 0


def test_an_answer_that_comes_again_comes_from_the_cache(start: Start, bundle: Bundle) -> None:
    live = start(bundle, cache=2)
    first = live.ask("ModelInfer", asked(X[:2], id="a"))
    again = live.ask("ModelInfer", asked(X[:2], id="a"))
    assert first == again and live.service.figures.hits == 1 and live.service.batcher.batches == 1
    for at in (2, 4, 6):
        live.ask("ModelInfer", asked(X[at : at + 2]))
    live.ask("ModelInfer", asked(X[:2]))
    assert live.service.figures.hits == 1, "it was forgotten for others"
